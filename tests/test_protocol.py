"""The queue's protocol under every order of commands: lost replies, crashes, late comers, repetitions.

Hypothesis draws the order; tests/queue_model.py says what is allowed. A crash between two commands is a claim whose
short lease ends and whose owner may come back late; a lost reply is a command whose reply is thrown away and that is
sent again. Commands are atomic, so that many processes look like one order of commands, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from jobs import SUBMIT_BYTES
from records import Job, read_result
from tests import test_jobs
from tests.queue_driver import Kind, QueueDriver
from tests.queue_model import BATCH_SIZE, RETURNS, QueueModel, said
from tests.scale import LONG, SEED, times

server = test_jobs.server
SERVERS = list(test_jobs.SERVERS)
DEPTH = 10
ALWAYS = {"stats", "dead", "workers", "idle"}

kinds = st.sampled_from(["ok", "error", "late", "dead", *RETURNS])
flag = st.booleans()
pick = st.integers(0, 999)
"""Which of those there are, the latest first: modulo their number, so that what is drawn never depends on a reply."""
something_was_submitted = precondition(lambda processes: bool(processes.requests))
something_was_given = precondition(lambda processes: any(processes.model.claims.values()))


def seldom(usual: float, unusual: float) -> st.SearchStrategy[Any]:
    return st.sampled_from([usual, usual, usual, usual, unusual])


class Processes(RuleBasedStateMachine):
    """One queue and its model; each rule is one command of one process."""

    url: str

    def __init__(self) -> None:
        super().__init__()
        self.driver = QueueDriver(self.url)
        self.model = QueueModel()
        self.requests: list[tuple[Job, ...]] = []
        self.told: set[str] = set()
        self.number = 0

    @rule(
        size=st.integers(1, 4),
        kept=flag,
        late=seldom(usual=False, unusual=True),
        max_depth=seldom(DEPTH, 4),
        max_results=seldom(100, 2),
        batch_s=seldom(0.0, 40.0),
        lost=flag,
    )
    def submit(self, size: int, *, lost: bool, **how: Any) -> None:
        jobs = tuple(self._new_job() for _ in range(size))
        self.requests.append(jobs)
        self._submit(jobs, lost=lost, **how)

    @something_was_submitted
    @rule(which=pick, kept=flag, lost=flag)
    def submit_again(self, which: int, *, kept: bool, lost: bool) -> None:
        jobs = self.requests[-1 - which % len(self.requests)]
        self._submit(jobs, kept=kept, late=False, max_depth=DEPTH, max_results=100, batch_s=0.0, lost=lost)

    @rule(worker=st.sampled_from("abc"), n=st.sampled_from([1, 2, BATCH_SIZE, 16]), crash=flag, lost=flag, holding=flag)
    def claim(self, worker: str, n: int, *, crash: bool, lost: bool, holding: bool) -> None:
        claim_id = self._next("claim")
        claim = self.driver.claim(claim_id, worker=worker, n=n, crash=crash, holding=holding)
        self.model.give(claim, max_batch_size=n, ended=crash, holding=holding)
        if lost and claim.jobs:
            self._claim_again(claim_id)

    @something_was_given
    @rule(which=pick)
    def claim_again(self, which: int) -> None:
        self._claim_again(self._pick_claim(which))

    @something_was_given
    @rule(which=pick, crash=flag, lost=flag)
    def beat(self, which: int, *, crash: bool, lost: bool) -> None:
        """Beat, and perhaps die: the lease then runs a short time longer, unless it was longer before."""
        claim_id = self._pick_claim(which)
        uuids = list(self.model.claims[claim_id])
        own = self.driver.beat(claim_id, uuids, crash=crash, lost=lost)
        if not crash:
            self.model.extend(claim_id)

        assert own == [self.model.owns(claim_id, uuid) for uuid in uuids]

    @something_was_given
    @rule(which=pick, jobs=st.lists(pick, min_size=1, max_size=4), kind=kinds, lost=flag)
    def settle(self, which: int, jobs: list[int], kind: Kind, *, lost: bool) -> None:
        """Settle what was once given: still held, long lost, or settled before."""
        claim_id = self._pick_claim(which)
        given = list(self.model.claims[claim_id])
        chosen = sorted({given[job % len(given)] for job in jobs})
        words = self._settle(
            claim_id, chosen[:1] if kind == "behind" else chosen, kind
        )  # one goes to the tail at a time

        assert not lost or self.driver.settle(claim_id, kind, words) == 0

    @something_was_submitted
    @rule(which=st.lists(pick, min_size=1, max_size=3), lost=flag)
    def drop(self, which: list[int], *, lost: bool) -> None:
        uuids = self._uuids()
        self._drop({uuids[-1 - number % len(uuids)] for number in which}, lost=lost)

    @invariant()
    def the_queue_is_whole_and_answers_as_it_must(self) -> None:
        queue, uuids = self.driver.queue, self._uuids()

        assert self.driver.do(queue.audit) == []
        assert self.driver.do(queue.depth) == self.model.depth <= DEPTH
        if uuids:
            self.model.check_answers(uuids, self.driver.do(lambda: queue.poll(uuids)))

    def teardown(self) -> None:
        try:
            self._settle_the_rest()
            self._look_at_the_bell()
            self._drop(self._uuids())
            self.driver.claim("last")  # finds nothing, and takes down the bell

            assert self.driver.keys_without_ttl() <= ALWAYS
        finally:
            self.driver.close()

    def _settle_the_rest(self) -> None:
        """Cancel half of what is left and answer the rest as it comes."""
        self._drop(self._uuids()[::2])
        while self.model.depth:
            for claim_id in list(self.model.claims):
                self._settle(claim_id, [uuid for uuid, _verdict in self.model.held(claim_id)], "ok")
            self.claim("a", BATCH_SIZE, crash=False, lost=False, holding=False)
        self.the_queue_is_whole_and_answers_as_it_must()

    def _look_at_the_bell(self) -> None:
        if self.told:
            tokens = self.driver.do(lambda: self.driver.queue.listen("api", 1.0))

            assert {said(read_result(token)) for token in tokens} == self.told

    def _submit(self, jobs: tuple[Job, ...], *, lost: bool, **how: Any) -> None:
        expected = self.model.admit(jobs, **how)

        assert self.driver.submit(jobs, lost=lost, **how) == expected

    def _claim_again(self, claim_id: str) -> None:
        again = self.driver.claim(claim_id)

        assert [(job.uuid, job.verdict) for job in again.jobs] == self.model.held(claim_id)

    def _settle(self, claim_id: str, uuids: Iterable[str], kind: Kind) -> dict[str, str]:
        words = {uuid: self._next("word") for uuid in uuids}
        changed = {word for uuid, word in words.items() if self.model.settle(claim_id, uuid, kind, word)}
        self.told |= {words[uuid] for uuid in words if self.model.has_said(uuid, words[uuid])}

        assert self.driver.settle(claim_id, kind, words) == len(changed)
        return words

    def _drop(self, uuids: Iterable[str], *, lost: bool = False) -> None:
        dropped = sorted(uuids)
        self.model.drop(dropped)
        self.driver.drop(dropped, lost=lost)

    def _next(self, what: str) -> str:
        self.number += 1
        return f"{what}-{self.number}"

    def _new_job(self) -> Job:
        uuid = self._next("job")
        return Job(uuid, uuid.encode() * (SUBMIT_BYTES if self.number % 3 == 0 else 1))  # some go beside SUBMIT

    def _uuids(self) -> list[str]:
        return [job.uuid for jobs in self.requests for job in jobs]

    def _pick_claim(self, which: int) -> str:
        claims = [claim_id for claim_id, given in self.model.claims.items() if given]
        return claims[-1 - which % len(claims)]


@pytest.mark.chaos
@pytest.mark.parametrize("server", SERVERS if LONG else SERVERS[-1:], indirect=True)
def test_the_queue_keeps_its_promises_whatever_the_order_of_commands(server: str) -> None:
    @seed(SEED)
    class OnServer(Processes):
        url = server

    run_state_machine_as_test(
        OnServer,
        settings=settings(
            max_examples=times(60, 400),
            stateful_step_count=times(40, 50),
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
