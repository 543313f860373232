"""The queue's scripts keep their properties, and each line that a property hangs on is held by a check.

A mutant is one small change of a script; a check that would let it pass has a hole.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import sha1
from pathlib import Path

import pytest

from errors import RedisAway
from tests import (
    checks_of_admission,
    checks_of_claims,
    checks_of_damage,
    checks_of_long_payloads,
    checks_of_results,
    test_jobs,
)
from tests.scene import Scene, opened
from wire import _read_scripts

server = test_jobs.server
SERVERS = list(test_jobs.SERVERS)
Check = Callable[[Scene], Awaitable[None]]
CHECKS: dict[str, Check] = {
    name: check
    for room in (checks_of_admission, checks_of_claims, checks_of_damage, checks_of_long_payloads, checks_of_results)
    for name, check in inspect.getmembers(room, inspect.iscoroutinefunction)
    if check.__module__ == room.__name__
}


@pytest.mark.parametrize("server", SERVERS, indirect=True)
@pytest.mark.parametrize("check", CHECKS)
async def test_the_scripts_keep_it(check: str, server: str) -> None:
    async with opened(server) as scene:
        await CHECKS[check](scene)


@dataclass(frozen=True)
class Mutant:
    """One change of one script; in the shared block it is a change of every script."""

    script: str
    breaks: str
    text: str
    replacement: str

    @property
    def name(self) -> str:
        return f"{self.script}: {self.breaks}"

    def apply(self, scripts: dict[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
        changed = {}
        for name in scripts if self.script == "shared" else [self.script]:
            whole = scripts[name][0]
            assert whole.count(self.text) == 1, f"{self.text!r} stands {whole.count(self.text)} times in {name}.lua"
            mutated = whole.replace(self.text, self.replacement)
            changed[name] = (mutated, sha1(mutated.encode(), usedforsecurity=False).hexdigest())
        return scripts | changed


def read_mutants() -> list[Mutant]:
    """Read blocks of three lines: script and what is broken, the text taken out, the text put in its place."""
    mutants = []
    for block in (Path(__file__).parent / "mutants.txt").read_text().strip().split("\n\n"):
        title, old, new = block.split("\n")
        script, _, breaks = title.partition(": ")
        mutants.append(Mutant(script, breaks, old.removeprefix("- "), new.removeprefix("+").removeprefix(" ")))
    return mutants


async def first_broken(script: str, server: str) -> str | None:
    """Return the first check that fails, None where all pass; those nearest to the script are tried first."""
    near = checks_of_claims if script in {"claim", "beat", "shared"} else checks_of_results
    for name in sorted(CHECKS, key=lambda name: CHECKS[name].__module__ != near.__name__):
        try:
            async with opened(server) as scene:
                await CHECKS[name](scene)
        except (AssertionError, LookupError, RedisAway):  # it stumbles over what is not there, or the script fails
            return name
    return None


@pytest.mark.parametrize("server", SERVERS[-1:], indirect=True)
@pytest.mark.parametrize("mutant", read_mutants(), ids=lambda mutant: mutant.name)
async def test_the_mutant_is_caught(mutant: Mutant, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = mutant.apply(_read_scripts())
    monkeypatch.setattr("wire._read_scripts", lambda: scripts)

    assert await first_broken(mutant.script, server), f"no check sees that {mutant.breaks}"
