"""What the queue is allowed to do, in plain Python: a model that the real one is held against. No I/O.

Time is two words here. A job is `late` once its deadline has passed, and a lease has `ended`: whoever drives the model
lets the short ones end before the next command, so that nothing depends on how fast a test runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import orjson

from records import Claim, Job, Progress, Result, Verdict

BATCH_SIZE = 8
MAX_SOLO = 2
RETURNS = ("release", "behind", "died")
"""Settlements after which a job is in line again."""


@dataclass
class Known:
    """What must be true of one job that was accepted.

    fresh: in the order of arrival: never leased since it was accepted, or since it went to the tail of the line.
    """

    job: Job
    late: bool
    state: Literal["waiting", "leased", "settled"] = "waiting"
    fresh: bool = True
    deaths: int = 0
    solo: int = 0
    alone: bool = False
    claim_id: str = "-"
    ended: bool = False
    code: str = ""
    said: str = ""
    right: bool = False

    @property
    def verdict(self) -> Verdict:
        return "expired" if self.late else "poison" if self.solo >= MAX_SOLO else "run"

    @property
    def progress(self) -> Progress:
        return Progress.OVERDUE if self.late and self.state == "waiting" else Progress.WORKING

    def put_back(self) -> None:
        self.state, self.claim_id, self.alone, self.ended = "waiting", "-", False, False


@dataclass
class QueueModel:
    """All jobs that were accepted and not dropped, oldest first, and what each claim was given."""

    known: dict[str, Known] = field(default_factory=dict)
    claims: dict[str, dict[str, Verdict]] = field(default_factory=dict)

    @property
    def depth(self) -> int:
        return sum(one.state != "settled" for one in self.known.values())

    def admit(
        self, jobs: Sequence[Job], *, kept: bool, late: bool, max_depth: int, max_results: int, batch_s: float
    ) -> str:
        """Take a request's jobs in, all that are new or none; return what its client must be told.

        A job that is in the queue keeps the later one of its deadlines, also where others are refused.
        """
        new = [job for job in jobs if job.uuid not in self.known]
        depth = self.depth
        leased = sum(one.state == "leased" for one in self.known.values())
        batches = math.ceil(leased / BATCH_SIZE) + math.ceil((depth - leased + len(new)) / BATCH_SIZE)
        wait_s = batches * batch_s if depth else 0.0
        crowded = kept and len(self.known) - depth + len(new) > max_results
        for job in jobs:
            known = self.known.get(job.uuid)
            if known is not None and known.state != "settled":
                known.late = known.late and late
        if new and (depth + len(new) > max_depth or wait_s > (0 if late else 60) or crowded):
            return "full"
        self.known |= {job.uuid: Known(job, late) for job in new}
        return "accepted"

    def collect_ended_leases(self) -> None:
        for one in self.known.values():
            if one.state == "leased" and one.ended:
                one.deaths += 1
                one.solo += one.alone
                one.put_back()

    def give(self, claim: Claim, *, max_batch_size: int, ended: bool, holding: bool) -> None:
        """Look whether a new claim was allowed to get what it got; then it has it."""
        self.collect_ended_leases()
        waiting = {uuid: one for uuid, one in self.known.items() if one.state == "waiting"}
        given = [job.uuid for job in claim.jobs]
        assert set(given) <= waiting.keys(), "a job was given that another owns, or that is not in the queue"
        assert holding or bool(given) == bool(waiting), "jobs wait and none was given"
        assert claim.suspect == any(waiting[job.uuid].deaths for job in claim.jobs if job.verdict == "run")
        assert not (holding and claim.suspect), "suspects were given to who holds jobs"
        assert claim.left == len(waiting) - len(given)
        for job in claim.jobs:
            one = waiting[job.uuid]
            assert (job.verdict, job.payload, job.last_code) == (one.verdict, one.job.payload, one.code)
        self._check_order(given, waiting)
        self._check_class([waiting[uuid] for uuid in given if waiting[uuid].verdict == "run"], max_batch_size)
        self.claims[claim.id] = {job.uuid: job.verdict for job in claim.jobs}
        running = [uuid for uuid, verdict in self.claims[claim.id].items() if verdict == "run"]
        for uuid in given:
            one = waiting[uuid]
            one.state, one.fresh, one.claim_id, one.ended = "leased", False, claim.id, ended
            one.alone = running == [uuid] and not holding

    def _check_order(self, given: list[str], waiting: dict[str, Known]) -> None:
        """Look whether what came back stands at the head, and behind it who came first."""
        fresh = [uuid for uuid, one in waiting.items() if one.fresh]
        returned = waiting.keys() - set(fresh)
        given_fresh = [uuid for uuid in given if uuid in fresh]

        assert given_fresh == fresh[: len(given_fresh)], "not in the order submitted"
        assert not given_fresh or set(given[: len(returned)]) == returned, "what came back was overtaken"

    @staticmethod
    def _check_class(running: list[Known], max_batch_size: int) -> None:
        classes = {min(one.deaths, 2) for one in running}
        assert len(classes) <= 1, "jobs that died are mixed with others"
        bound = {0: max_batch_size, 1: math.ceil(max_batch_size / 8), 2: 1}
        assert len(running) <= bound[max(classes, default=0)], "a group is too large"

    def held(self, claim_id: str) -> list[tuple[str, Verdict]]:
        """Return what a claim that is asked for again must get: what is left of the same batch."""
        given = self.claims[claim_id].items()
        return [(uuid, verdict) for uuid, verdict in given if self.owns(claim_id, uuid)]

    def owns(self, claim_id: str, uuid: str) -> bool:
        return uuid in self.known and self.known[uuid].claim_id == claim_id

    def extend(self, claim_id: str) -> None:
        for uuid, _verdict in self.held(claim_id):
            self.known[uuid].ended = False

    def settle(self, claim_id: str, uuid: str, kind: str, said: str) -> int:
        """Return 1 where it must change something: a first ok from anyone, all else from who holds a running lease."""
        one = self.known.get(uuid)
        if one is None or one.state == "settled":
            return 0
        if kind != "ok" and not (one.claim_id == claim_id and not one.ended):
            return 0
        if kind == "died":
            one.deaths, one.solo = one.deaths + 1, one.solo + one.alone
        one.put_back()
        if kind in RETURNS:
            one.code = said
        if kind == "behind":
            one.fresh = True
            self.known[uuid] = self.known.pop(uuid)
        elif kind not in RETURNS and (kind != "late" or one.late):
            one.state, one.said, one.right = "settled", said, kind == "ok"
        return 1

    def has_said(self, uuid: str, word: str) -> bool:
        return uuid in self.known and self.known[uuid].said == word

    def drop(self, uuids: Sequence[str]) -> None:
        for uuid in uuids:
            self.known.pop(uuid, None)

    def check_answers(self, uuids: Sequence[str], answers: Sequence[Result | Progress]) -> None:
        """Nothing accepted is unknown, nothing dropped is known, and a result stays what it was."""
        for uuid, answer in zip(uuids, answers, strict=True):
            one = self.known.get(uuid)
            if one is None:
                assert answer is Progress.UNKNOWN
            elif one.state == "settled":
                assert isinstance(answer, Result), f"a result became {answer!r}"
                assert (said(answer), answer.error is None) == (one.said, one.right)
            else:
                assert answer == one.progress


def said(result: Result) -> str:
    """Return the text that a result was made of, be it a prediction or an error."""
    return result.error.message if result.error else str(orjson.loads(result.prediction))
