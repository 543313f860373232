"""The queue: what is in Redis, and the only room that changes it.

All keys share one hash tag, so that a queue's keys share a Cluster slot; `{mb:<name>}` and then:

key               type    content                                                        bound
:pending          LIST    job UUIDs, oldest at the head; what comes back goes to the head  max_queue_depth
:deadlines        ZSET    UUID -> deadline, ms; every unfinished job: its size is the depth  max_queue_depth
:leases           ZSET    UUID -> end of lease, ms                                         max_queue_depth
:meta             HASH    UUID -> submitted ms, deaths, deaths alone, alone now, claim id, api id, last error code
:data             HASH    UUID -> payload (records.py)                                     depth x payload
:result:<uuid>    STRING  result (records.py); for 5 s that a job was cancelled            result_ttl_s
:results          ZSET    UUID -> expiry of results nobody has collected                   max_results
:claim:<id>       STRING  what this claim was given: UUIDs and verdicts                    60 s or lease_s
:bell             LIST    tokens that wake batchers; a lost one costs a wait, never a job  64
:bell:<api id>    LIST    tokens that wake an api process: a UUID, or a copy of its result  1,024, 60 s
:idle             ZSET    worker -> when it last found nothing to claim, ms                2.5 s
:workers          HASH    worker -> last beat, state, what its model takes                 60 s of silence
:dead             LIST    jobs given up, with reason and payload                           1,000, 64 MiB
:secret           STRING  what the UUIDs of Idempotency-Keys are made with                 constant
:key:<hash>       STRING  fingerprint of the body that came with an Idempotency-Key        deadline + TTL
:stats            HASH    counters; what the last api to submit said it still decodes       constant
:totals           HASH    what all processes have counted since Redis was empty (metrics.py)  some 500 fields
:counted:<id>     STRING  number of the last call in which a process counted              1 hour
:apis             HASH    api process -> last word, ms, what it is doing                   60 s of silence

A job is in :meta exactly while it is unfinished; meta, deadlines and data hold the same UUIDs (data more, until it is
swept, where an api dies just after Redis has forgotten its scripts); each is in :leases, or exactly once in :pending.
The core keys have no time to live, since with one an evicting Redis tears the queue silently.

Round trips: submit 1, shared by the requests of one event-loop turn (more for payloads over 1 KB where Redis is out of
memory or knows no scripts); claim 1, from idle too (the bell and the script in one pipeline), and 1 more for payloads
over 16 KB; settle 1 a batch; an answer 0, it rides in the bell.

Every method raises RedisAway: RedisUnreachable where the reply did not come, and the command may have been carried out
all the same. Every script is safe to repeat, so that its caller may simply call again.

A job's row in :meta that cannot be read counts as that of a job which has just been submitted, and rows of workers and
processes that cannot be read go: what somebody writes over costs its own job a repeat at most.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial, wraps
from hashlib import sha256
from secrets import token_bytes
from typing import Any, Concatenate, ParamSpec, TypeVar
from uuid import UUID

from errors import InternalError, NotFound, RedisUnreachable, UnfitRedis
from looks import Look, read_look, read_workers
from metrics import Amounts
from records import (
    Admission,
    Claim,
    ClaimedJob,
    DeadLetter,
    Job,
    Progress,
    Result,
    Settlement,
    Submission,
    Timing,
    Worker,
    error_value,
    read_dead_letter,
    read_result,
)
from wire import NONSENSE, Pieces, Wire

log = logging.getLogger(__name__)

CORE_KEYS = ("pending", "deadlines", "leases", "meta", "data", "bell", "results", "stats", "dead", "workers", "idle")
ACCEPTED, ACCEPTED_WORDS = Admission("accepted"), frozenset((b"OK", b"DUP"))
ROW_FIELDS = 7
"""Of a job's row in :meta; more or fewer are of another version, or were written over."""
MAX_JOBS_PER_CALL = 1024
MOST_DEAD = 1000
OLDEST_REDIS = (6, 2)
SLOWEST_BYTES_S = 10_000_000
"""Payloads may take as long on their way to Redis as this rate needs, over the time limit of any command."""
SUBMIT_BYTES = 1024
"""The longest payload that passes through SUBMIT, where Lua hashes each of its bytes; a longer one is written beside
it, in one transaction."""
INLINE_BYTES = 16 * 1024
"""The longest payload that CLAIM hands over itself; a longer one is cheaper fetched after it than through Lua."""
COPY_BYTES = 16 * 1024
"""The longest result that rides in the api's bell; a longer one is polled for."""


_CANCELLED = error_value(NotFound("the request was cancelled"), Timing())

Parameters = ParamSpec("Parameters")
Reply = TypeVar("Reply")


def _checked(
    method: Callable[Concatenate[JobQueue, Parameters], Awaitable[Reply]],
) -> Callable[Concatenate[JobQueue, Parameters], Coroutine[Any, Any, Reply]]:
    """Take a reply that cannot be the command's own as none at all, and close all connections.

    Client libraries have handed replies to the wrong reader (CVE-2023-28858 and 28859); from then on every reply on
    such a connection is another's.
    """

    @wraps(method)
    async def checked(queue: JobQueue, /, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Reply:
        try:
            return await method(queue, *args, **kwargs)
        except NONSENSE as exc:
            log.warning("a reply of Redis makes no sense", exc_info=exc)
            await queue.close()
            raise RedisUnreachable("Redis cannot be understood; try again shortly") from exc

    return checked


class JobQueue:
    """One queue in Redis; safe to use from many tasks of one event loop.

    timeout_s: how long Redis may be silent while a reply is awaited.
    on_reply: is told what each script took; waits for a bell are left out.
    """

    def __init__(
        self, url: str, *, name: str, timeout_s: float, on_reply: Callable[[str, float], None] | None = None
    ) -> None:
        self.name = name
        prefix = f"{{mb:{name}}}:"
        self._prefix = prefix
        self._keys = [prefix + key for key in CORE_KEYS]
        self._bell, self._meta, self._data, self._workers, self._dead, self._secret = (
            prefix + key for key in ("bell", "meta", "data", "workers", "dead", "secret")
        )
        self._totals, self._apis = prefix + "totals", prefix + "apis"
        self._longest_block_s = min(1.0, timeout_s / 2)
        self._wire = Wire(url, timeout_s=timeout_s, on_reply=on_reply)
        self._open_again = partial(JobQueue, url, name=name, timeout_s=timeout_s)

    def twin(self, on_reply: Callable[[str, float], None]) -> JobQueue:
        """Return the same queue, with connections of its own: for the event loop of another thread.

        on_reply: is called in that thread.
        """
        return self._open_again(on_reply=on_reply)

    async def close(self) -> None:
        """Close all connections, those in use too; the next command opens one."""
        self._wire.close()

    @_checked
    async def submit(
        self,
        submissions: Sequence[Submission],
        *,
        api_id: str,
        max_queue_depth: int,
        max_results: int,
        max_batch_size: int,
        batch_s: float,
        workers: int = 1,
        arriving: int = 0,
    ) -> tuple[int, list[Admission]]:
        """Take the jobs of some requests into the queue, at most 1,024 in all; raise the deadlines of those in it.

        batch_s: what a full batch takes; 0: not known, refuse nobody by it. workers: how many run such batches.
        arriving: how many jobs this api is still decoding: an idle worker may wait for them.
        Returns the depth, and what became of each request.
        """
        jobs = [job for submission in submissions for job in submission.jobs]
        keys = [self._result_key(job.uuid) for job in jobs]
        head = [max_queue_depth, max_results, max_batch_size, batch_s * 1000, workers, api_id, arriving]
        size_bytes, beside = 0, []
        for job in jobs:
            job_bytes = len(job.start) + len(job.rest)
            size_bytes += job_bytes
            if job_bytes > SUBMIT_BYTES:
                beside += [job.uuid, _payload(job)]
        longer_s = size_bytes / SLOWEST_BYTES_S
        reply = None
        if beside:
            put, keys_ = ("HSET", self._data, *beside), [*self._keys, *keys]
            arguments = head + _arguments(submissions, beside=True)
            reply = await self._wire.run_in_transaction(put, "submit", keys_, arguments, longer_s=longer_s)
        if reply is None:  # nothing is long, or Redis would not: then the script itself says what is to become of them
            reply = await self._run("submit", keys, head + _arguments(submissions), longer_s=longer_s)
        depth, *words = reply
        if len(words) != len(keys):
            raise ValueError("a word for each job")
        if ACCEPTED_WORDS.issuperset(words):
            return depth, [ACCEPTED] * len(submissions)
        admissions: list[Admission] = []
        for submission in submissions:
            mine, words = words[: len(submission.jobs)], words[len(submission.jobs) :]
            admissions.append(_admission(mine))
        return depth, admissions

    @_checked
    async def listen(self, api_id: str, timeout_s: float) -> list[bytes]:
        """Wait for this api process's bell; return its tokens, each a UUID or a result's bytes; [] after the time."""
        bell = self._prefix + "bell:" + api_id
        block_s = min(timeout_s, self._longest_block_s)
        first, more = await self._wire.exchange(
            [("BLPOP", bell, block_s), ("LPOP", bell, MAX_JOBS_PER_CALL)], longer_s=block_s
        )
        tokens: list[Any] = ([first[1]] if first else []) + (more or [])
        if not all(isinstance(token, bytes) for token in tokens):
            raise TypeError("a bell holds words only")
        return tokens

    @_checked
    async def identify(self, key: str, fingerprint: bytes, *, ttl_s: float) -> str | None:
        """Return the request UUID that belongs to an Idempotency-Key, None where it came with another body before.

        The UUID is an HMAC under a secret of this Redis, so that whoever guesses a key cannot collect the result.
        """
        place = f"{self._prefix}key:{sha256(key.encode()).hexdigest()}"
        _, secret, _, first = await self._wire.exchange(
            [
                ("SET", self._secret, token_bytes(32), "NX"),
                ("GET", self._secret),
                ("SET", place, fingerprint, "NX", "PX", _ms(ttl_s)),
                ("GETEX", place, "PX", _ms(ttl_s)),  # it lives as long as the last job that it stands for
            ]
        )
        if first != fingerprint:
            return None
        return str(UUID(bytes=hmac.digest(secret, key.encode(), "sha256")[:16], version=4))

    @_checked
    async def poll(self, uuids: Sequence[str]) -> list[Result | Progress]:
        """Ask what is known of each job."""
        try:
            return [_answer(*each) for each in zip(uuids, await self._poll(uuids), strict=True)]
        except NONSENSE as exc:  # another's reply, or what is stored is broken: a second look tells
            log.warning("results cannot be read", exc_info=exc)
            await self.close()
        return [_answer_or_error(*each) for each in zip(uuids, await self._poll(uuids), strict=True)]

    async def _poll(self, uuids: Sequence[str]) -> list[Any]:
        replies: list[Any] = await self._run("poll", [self._result_key(uuid) for uuid in uuids], uuids)
        return replies

    @_checked
    async def last_codes(self, uuids: Sequence[str]) -> list[str]:
        """Return of each unfinished job the error code of its last try, "" where there is none."""
        rows = await self._wire.call("HMGET", self._meta, *uuids)
        words = [row.split(b" ") if row else [] for row in rows]
        codes = [each[-1].decode(errors="replace") if len(each) == ROW_FIELDS else "-" for each in words]
        return ["" if code == "-" else code for code in codes]

    @_checked
    async def drop(self, uuids: Sequence[str]) -> None:
        """Remove every trace of jobs and their results: they have been collected, or nobody waits for them."""
        await self._run("drop", [self._result_key(uuid) for uuid in uuids], ["", *uuids])

    @_checked
    async def cancel(self, uuids: Sequence[str]) -> None:
        """Remove every trace of jobs and their results, for all: whoever waits for one is told NotFound."""
        await self._run("drop", [self._result_key(uuid) for uuid in uuids], [_CANCELLED, *uuids])

    @_checked
    async def claim(
        self,
        claim_id: str,
        *,
        worker_id: str,
        max_batch_size: int,
        lease_s: float,
        least_s: float,
        max_solo: int,
        max_wait_s: float,
        block_s: float,
        patience_s: float = 0.0,
        holding: bool = False,
    ) -> Claim:
        """Lease a share of the oldest jobs, waiting up to `block_s` for the bell first.

        least_s: a job with less time left than this comes with the verdict "expired".
        max_wait_s: how long the oldest job may wait for a full batch. patience_s: how long it may wait for what an api
        says is still being decoded, up to this worker's share.
        holding: the worker holds jobs already; then it gets none that ever died, and none while another is idle.
        A claim whose reply was lost must be asked for again with the same id: it then gets the same jobs.
        """
        keys = [f"{self._prefix}claim:{claim_id}"]
        arguments = [
            max_batch_size,
            _ms(lease_s),
            claim_id,
            _ms(least_s),
            max_solo,
            worker_id,
            int(holding),
            INLINE_BYTES,
            _ms(max_wait_s),
            _ms(patience_s),
        ]
        block_s = min(block_s, self._longest_block_s)
        bell = ("BLPOP", self._bell, block_s) if block_s > 0 else ()
        left, lease_end, wait, suspect, *rows = await self._run("claim", keys, arguments, after=bell, longer_s=block_s)
        jobs = await self._with_payloads(rows)
        return Claim(claim_id, jobs, left, lease_end / 1000 if lease_end >= 0 else None, wait / 1000, bool(suspect))

    @_checked
    async def settle(
        self, claim_id: str, settlements: Sequence[Settlement], *, result_ttl_s: float, least_s: float = 0.0
    ) -> int:
        """Write results or give jobs back; return how many changed anything.

        least_s: as the claim was told: by it a job that came too late is told from one whose deadline has been raised.
        """
        keys: list[str] = []
        arguments: list[Any] = [_ms(result_ttl_s), claim_id, COPY_BYTES, _ms(least_s)]
        for settlement in settlements:
            keys += (self._result_key(settlement.uuid), f"{self._prefix}bell:{settlement.api_id}")
            arguments += (settlement.uuid, settlement.kind, settlement.value)
        longer_s = sum(len(settlement.value) for settlement in settlements) / SLOWEST_BYTES_S
        return sum(await self._run("settle", keys, arguments, longer_s=longer_s))

    @_checked
    async def beat(self, worker: Worker, *, lease_s: float, held: Mapping[str, Iterable[str]]) -> list[bool]:
        """Publish a worker's row and extend its leases; return per job whether it is still its own.

        held: the UUIDs of the jobs of each claim.
        """
        arguments: list[Any] = [worker.id, worker.state, worker.row(), _ms(lease_s)]
        for claim_id, uuids in held.items():
            for uuid in uuids:
                arguments += (claim_id, uuid)
        _live, *own = await self._run("beat", [], arguments)
        return [bool(word) for word in own]

    async def dead_letters(self) -> AsyncIterator[DeadLetter]:
        """Yield the jobs that were given up, the latest first; what cannot be read is left out."""
        for place in range(MOST_DEAD):
            raw = await self._wire.call("LINDEX", self._dead, place)
            if raw is None:
                return
            try:
                letter = read_dead_letter(raw)
            except NONSENSE as exc:  # somebody has written over it
                log.warning("a job that was given up cannot be read", extra={"bytes": len(raw), "reason": str(exc)})
                continue
            yield letter

    async def forget_dead(self, letter: DeadLetter) -> None:
        """Take a job off the list of those given up."""
        await self._run("unbury", [], [letter.raw])

    @_checked
    async def workers(self) -> list[Worker]:
        """Return all workers that have beaten in the last minute or so; rows of another version are left out."""
        (seconds, microseconds), fields = await self._wire.exchange([("TIME",), ("HGETALL", self._workers)])
        return read_workers(fields, int(seconds) * 1000 + int(microseconds) / 1000)

    @_checked
    async def count(self, process_id: str, row: str, number: int, amounts: Amounts) -> None:
        """Add what a process has counted to the totals, once for each number.

        row: what the process is doing; "" where that is told another way, "gone" takes it off the list.
        """
        keys = [f"{self._prefix}counted:{process_id}", self._totals, self._apis]
        arguments: list[Any] = [number, process_id, row]
        for name, amount in amounts.items():
            arguments += (name, f"{amount:.12g}")
        await self._run("count", keys, arguments)

    @_checked
    async def look(self) -> Look:
        """Return how the queue stands, and all that has been counted."""
        return read_look(await self._run("look", [self._totals, self._apis], []))

    @_checked
    async def depth(self) -> int:
        """Return how many jobs are unfinished."""
        return int(await self._wire.call("ZCARD", self._prefix + "deadlines"))

    @_checked
    async def check_fitness(self) -> None:
        """Refuse a Redis that would lose or refuse jobs.

        Raises UnfitRedis or RedisRefuses saying why.
        """
        said: bytes = await self._wire.call("INFO")
        info = dict(line.split(":", 1) for line in said.decode().splitlines() if ":" in line)
        version = tuple(int(part) for part in info["redis_version"].split(".")[:2])
        if version < OLDEST_REDIS:
            raise UnfitRedis(f"Redis {info['redis_version']} is too old: 6.2 or later is needed")
        if info.get("role") == "slave":
            raise UnfitRedis("this Redis is a replica: point REDIS_URL at its primary")
        policy = info.get("maxmemory_policy", "noeviction")
        if policy != "noeviction" and int(info.get("maxmemory", "0")):
            raise UnfitRedis(f"this Redis evicts keys (maxmemory-policy {policy}): set it to noeviction")

        await self.try_to_write()

    @_checked
    async def try_to_write(self) -> None:
        """Run a script that writes and changes nothing: a Redis that answers may still refuse scripts or writes.

        Raises UnfitRedis or RedisRefuses saying why.
        """
        nobody = "-"
        keys, arguments = [self._result_key(nobody)], ["", nobody]
        await self._run("drop", keys, arguments, after=("TIME",))  # with a command before it, it is not measured

    async def audit(self) -> list[str]:
        """Return all violations of the queue's invariant; for tests and tools."""
        return [sentence.decode() for sentence in await self._run("audit", [], [])]

    def _result_key(self, uuid: str) -> str:
        return f"{self._prefix}result:{uuid}"

    async def _run(self, script: str, keys: Sequence[str], arguments: Sequence[Any], **how: Any) -> Any:
        return await self._wire.run(script, [*self._keys, *keys], arguments, **how)

    async def _with_payloads(self, rows: Sequence[Sequence[Any]]) -> tuple[ClaimedJob, ...]:
        """Fetch the payloads that were too long to be handed over; a job cancelled since then is left out."""
        rows = list({row[0]: row for row in rows}.values())  # somebody may have put a UUID into the line twice
        payloads = {row[0]: row[6] if len(row) > 6 else None for row in rows}
        missing = [uuid for uuid, payload in payloads.items() if payload is None]
        if missing:
            fetched = await self._wire.exchange([("HGET", self._data, uuid) for uuid in missing])
            payloads.update(zip(missing, fetched, strict=True))
        return tuple(_claimed(row, payload) for row in rows if (payload := payloads[row[0]]) is not None)


def _arguments(submissions: Sequence[Submission], *, beside: bool = False) -> list[Any]:
    """Return what SUBMIT is told of each job; beside: long payloads are left out, since they come beside it."""
    arguments: list[Any] = []
    for number, submission in enumerate(submissions):
        remaining_ms, kept = _ms(submission.remaining_s), int(submission.kept)
        for job in submission.jobs:
            payload: Any = job.start
            if job.rest or len(payload) > SUBMIT_BYTES:
                payload = "" if beside else _payload(job)
            arguments += (number, job.uuid, payload, remaining_ms, kept)
    return arguments


def _admission(words: Sequence[bytes]) -> Admission:
    """Return what became of a request, of the words for its jobs.

    Raises ValueError.
    """
    if b"OOM" in words:
        return Admission("no_memory")
    refused = [word for word in words if word.startswith(b"FULL ")]
    if refused:
        return Admission("full", int(refused[0][5:]) / 1000)
    if not ACCEPTED_WORDS.issuperset(words):
        raise ValueError("no word of SUBMIT")
    return ACCEPTED


def _payload(job: Job) -> bytes | Pieces:
    """Return a payload as an argument; one that is in two pieces is sent so, without a copy."""
    return Pieces((job.start, job.rest)) if job.rest else job.start


def _claimed(row: Sequence[Any], payload: bytes) -> ClaimedJob:
    uuid, verdict, remaining_ms, queued_ms, api_id, code = row[:6]
    if not isinstance(payload, bytes):
        raise TypeError("a payload is bytes")
    last_code = "" if code == b"-" else code.decode(errors="replace")  # somebody may have written over the row
    api = api_id.decode(errors="replace")
    return ClaimedJob(uuid.decode(), verdict.decode(), remaining_ms / 1000, queued_ms / 1000, api, last_code, payload)


def _answer(uuid: str, reply: bytes | int) -> Result | Progress:
    if isinstance(reply, int):
        return Progress(reply)
    result = read_result(reply)
    if result.uuid != uuid:
        raise ValueError("this is another job's result")
    return result


def _answer_or_error(uuid: str, reply: bytes | int) -> Result | Progress:
    """Return an answer; an error in the place of a stored result that cannot be read."""
    try:
        return _answer(uuid, reply)
    except NONSENSE:
        return Result(uuid, b"null", InternalError("the stored result cannot be read; send the image again"), Timing())


def _ms(seconds: float) -> int:
    return max(0, round(seconds * 1000))
