"""What `deploy/observe` holds against Prometheus itself: `make test-peers`."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.observing import OBSERVE, queries, rules
from tests.stack import PNG, SEVEN, Stack, until_ready
from tools.service import free_port

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(
        not (shutil.which("prometheus") and shutil.which("promtool")),
        reason="prometheus and promtool are not on PATH: apt-get install prometheus",
    ),
]

BATCHERS = 2
SIMULATED = {"MICROBATCH_MODEL": "simulated", "MICROBATCH_SIMULATED_BATCH_S": "0.02"}
SEEN_S = 12
"""So long Prometheus looks before it is asked."""


@dataclass(frozen=True, slots=True)
class Watched:
    """A service and the Prometheus that scrapes it, by their addresses."""

    service: str
    prometheus: str


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    stack = Stack(tmp_path_factory.mktemp("p"))
    port, own, scraped = free_port(), free_port(), [free_port() for _ in range(BATCHERS)]
    try:
        stack.start_redis()
        for number in scraped:
            stack.start_batcher(MICROBATCH_BATCHER_METRICS_PORT=str(number), **SIMULATED)
        stack.start_api_on(port)
        _write_config(stack.folder, port, scraped)
        options = {
            "config.file": stack.folder / "prometheus.yml",
            "storage.tsdb.path": stack.folder / "tsdb",
            "web.listen-address": f"127.0.0.1:{own}",
            "log.level": "warn",
        }
        stack.start("prometheus", *(f"--{name}={value}" for name, value in options.items()))
        yield Watched(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{own}")
    finally:
        stack.kill()


def _write_config(folder: Path, api: int, batchers: list[int]) -> None:
    """Write the configuration that is shipped, with the addresses of the test, and scraping every second."""
    config = yaml.safe_load((OBSERVE / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    whole, single = config["scrape_configs"]
    whole["static_configs"] = [{"targets": [f"127.0.0.1:{api}"]}]
    del single["dns_sd_configs"]
    single["static_configs"] = [{"targets": [f"127.0.0.1:{port}" for port in batchers]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    shutil.copy(OBSERVE / "alerts.yml", folder)


@asynccontextmanager
async def loaded(client: httpx.AsyncClient) -> AsyncIterator[None]:
    """Keep asking, now and then for what is no image."""

    async def ask(number: int) -> None:
        while True:
            await client.post("/predict", content=SEVEN if number else b"no image", headers=PNG)

    asking = [asyncio.create_task(ask(number)) for number in range(8)]
    yield
    for task in asking:
        task.cancel()
    await asyncio.wait(asking)


async def ask(prometheus: httpx.AsyncClient, path: str, **parameters: str) -> Any:
    """Return the data that Prometheus answers with."""
    answer = (await prometheus.get(f"/api/v1/{path}", params=parameters)).json()
    assert answer["status"] == "success", answer
    return answer["data"]


async def until_all_are_scraped(prometheus: httpx.AsyncClient) -> None:
    end_s = time.monotonic() + 30
    while time.monotonic() < end_s:
        try:
            targets = (await ask(prometheus, "targets"))["activeTargets"]
        except (httpx.TransportError, ValueError):  # it has not begun, or is not ready and says so in plain text
            targets = []
        if [target["health"] for target in targets] == ["up"] * (BATCHERS + 1):
            return
        await asyncio.sleep(0.1)
    pytest.fail("not all targets were up in 30 s")


async def test_every_query_of_the_dashboard_finds_something_and_every_alert_is_well(watched: Watched) -> None:
    async with (
        httpx.AsyncClient(base_url=watched.service, trust_env=False, timeout=30) as service,
        httpx.AsyncClient(base_url=watched.prometheus, trust_env=False) as prometheus,
    ):
        # given
        await until_ready(service)
        await until_all_are_scraped(prometheus)
        async with loaded(service):
            await asyncio.sleep(SEEN_S)  # no state to wait for: rates need a stretch of time

            # when
            found = {
                where: (await ask(prometheus, "query", query=_filled(query)))["result"] for where, query in queries()
            }
        (group,) = (await ask(prometheus, "rules"))["groups"]
        queues = await ask(prometheus, "label/queue/values", **{"match[]": "microbatch_redis_up"})

        # then
        assert queues == ["default"]
        assert {where for where, result in found.items() if not result} == set()
        assert {where for where, result in found.items() if all(one["value"][1] == "NaN" for one in result)} == set()
        assert _values(found["Requests by status A"], "status").keys() == {"200", "415"}
        assert _values(found["Batchers that serve A"]) == {"": BATCHERS}
        assert 0 < _values(found["Latency A"])[""] <= _values(found["Latency B"])[""] < 5
        assert 1 <= _values(found["Images per batch A"])[""] <= 8
        assert len(found["Busy share of the batchers B"]) == BATCHERS
        assert 0.1 < _values(found["Busy share of the batchers A"])[""] <= 1.1
        assert {rule["name"]: rule["health"] for rule in group["rules"]} == dict.fromkeys(rules(), "ok")
        assert [rule["name"] for rule in group["rules"] if rule["state"] != "inactive"] == []

        # and
        promtool("check", "metrics", said=(await service.get("/metrics")).content)


def _filled(query: str) -> str:
    """Put in what Grafana would."""
    return query.replace("$queue", "default").replace("$__rate_interval", f"{SEEN_S - 2}s")


def _values(result: list[dict[str, Any]], label: str = "") -> dict[str, float]:
    """Return the values of a result by a label."""
    return {one["metric"].get(label, ""): float(one["value"][1]) for one in result}


def promtool(*command: str, said: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run promtool; it is to find nothing wrong."""
    done = subprocess.run(["promtool", *command], cwd=OBSERVE, check=False, input=said, capture_output=True, timeout=60)  # noqa: S607 - the one on PATH
    assert done.returncode == 0, done
    return done


@pytest.mark.parametrize(
    "command", ["check config prometheus.yml", "check rules alerts.yml", "test rules alerts_test.yml"]
)
def test_promtool_accepts_what_is_shipped(command: str) -> None:
    assert b"SUCCESS" in promtool(*command.split()).stdout
