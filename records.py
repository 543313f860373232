r"""What crosses Redis, and its form in bytes: jobs, claims, settlements, results, workers. No I/O.

payload   `<uuid> tensor <numpy dtype> <shape>\n<raw bytes>` or `<uuid> encoded - -\n<image file>`; a traced request's
          has its W3C context as a further word: `<traceparent>` or `<traceparent>;<tracestate>`
dead      `<given up at, ms> <length of the result>\n<result><payload>`
result    `<uuid> ok|error <queue_s> <decode_s> <model_s> <batch_size> <batch_id> <worker_id>\n<JSON>`
The UUID inside each is looked at before anything is answered: a reply that reaches the wrong reader is seen.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from enum import IntEnum
from functools import lru_cache
from typing import Any, Literal, Self

import numpy as np
import orjson
from numpy.typing import NDArray

from errors import InternalError, ServiceError, from_code
from inputs import ModelInput

LONG_BYTES = 16 * 1024
"""From here on a payload is not copied: of a shorter one the copy costs less than two pieces."""

Verdict = Literal["run", "expired", "poison"]
ReturnKind = Literal["release", "behind", "died"]
"""How a job goes back in line: to its head, to its tail, to its head from a model that had to be ended."""
WorkerState = Literal["warming", "idle", "busy", "breaker_open", "gone"]


@dataclass(frozen=True, slots=True)
class Job:
    """One image in the queue: its UUID and its payload, which is `start` and then `rest`.

    rest: the image as it came, or the tensor's bytes: a payload of one piece would be a copy of each.
    """

    uuid: str
    start: bytes
    rest: bytes | memoryview = b""

    @property
    def size_bytes(self) -> int:
        """How long the payload is."""
        return len(self.start) + len(self.rest)

    @property
    def payload(self) -> bytes:
        """The payload in one piece."""
        return b"".join((self.start, self.rest)) if self.rest else self.start


@dataclass(frozen=True, slots=True)
class Submission:
    """The jobs of one request, admitted all or none.

    kept: others may wait for the answer, or come back for it: the results stay until their time to live ends.
    """

    jobs: tuple[Job, ...]
    remaining_s: float
    kept: bool = False


@dataclass(frozen=True, slots=True)
class Admission:
    """What became of a submission. room_in_s: of a full queue, how long until there will be room for it."""

    outcome: Literal["accepted", "full", "no_memory"]
    room_in_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ClaimedJob:
    """A job under this worker's lease.

    remaining_s: until its deadline, when the claim was made. last_code: of its last retryable error, "" if none.
    """

    uuid: str
    verdict: Verdict
    remaining_s: float
    queued_s: float
    api_id: str
    last_code: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Claim:
    """What one claim was given, and what is left for the next.

    lease_end_s: until the next lease of anybody ends, None where there is none.
    wait_s: how long the oldest job may still wait for a fuller batch; 0: not at all.
    suspect: its jobs were with a worker that died: nothing else may be in the process that runs them.
    """

    id: str
    jobs: tuple[ClaimedJob, ...]
    left: int
    lease_end_s: float | None
    wait_s: float
    suspect: bool

    @property
    def block_s(self) -> float:
        """How long the next claim may block: not at all while jobs are left, and never past the end of a lease."""
        if self.wait_s > 0:
            return self.wait_s
        if self.left > 0:
            return 0.0
        return 1.0 if self.lease_end_s is None else min(1.0, max(0.01, self.lease_end_s))


OUTCOMES = {"ok": "ok", "release": "released", "behind": "released", "died": "died"}
"""What settlements that hold no error are counted as."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """What becomes of a claimed job. value: a result's bytes after the kind; where it goes back an error code.

    late: an error, for want of time; the job is given back where its deadline has been raised since it was claimed.
    """

    uuid: str
    api_id: str
    kind: Literal["ok", "error", "late", "dead"] | ReturnKind
    value: bytes

    @property
    def outcome(self) -> str:
        """What it is counted as: ok, released, died, or its error's code."""
        counted = OUTCOMES.get(self.kind)
        return counted or str(orjson.loads(self.value.partition(b"\n")[2])["code"])


@dataclass(frozen=True, slots=True)
class Timing:
    """Where a job spent its time, and in whose company.

    decode_s: what the batcher took to decode the images of its claim.
    """

    queue_s: float = 0.0
    decode_s: float = 0.0
    model_s: float = 0.0
    batch_size: int = 0
    batch_id: str = "-"
    worker_id: str = "-"

    def line(self) -> bytes:
        """Return it as a result's first line."""
        times = f"{self.queue_s:.6f} {self.decode_s:.6f} {self.model_s:.6f}"
        return f"{times} {self.batch_size} {self.batch_id} {self.worker_id}\n".encode()


@dataclass(frozen=True, slots=True)
class Result:
    """What settled a job. prediction: JSON bytes; error: set where there is no prediction."""

    uuid: str
    prediction: bytes
    error: ServiceError | None
    timing: Timing


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A job that was given up. raw: as it stands in Redis; died_at_s: Unix time."""

    died_at_s: float
    result: Result
    payload: bytes
    raw: bytes


class Progress(IntEnum):
    """What Redis says of a job that has no result."""

    UNKNOWN = 0
    WORKING = 1
    OVERDUE = 2


@dataclass(frozen=True, slots=True)
class Work:
    """What a worker has done since its start; busy_s: the time in which its model ran, the running call's too."""

    batches: int = 0
    images: int = 0
    busy_s: float = 0.0


WORK = tuple(field.name for field in fields(Work))


@dataclass(frozen=True, slots=True)
class Worker:
    """One running batcher as it describes itself.

    silent_s: since its last beat. takes: None until its model is warm. batch_s: what a batch takes; 0: not known yet.
    beat_at_s: its last beat, by Redis's clock.
    """

    id: str
    state: WorkerState
    silent_s: float
    takes: ModelInput | None
    batch_s: float
    model: str
    work: Work = field(default_factory=Work)
    beat_at_s: float = 0.0

    def row(self) -> bytes:
        """Return what it publishes, as JSON."""
        takes = self.takes.to_dict() if self.takes else None
        batch_s = round(self.batch_s, 6)
        return orjson.dumps({"model": self.model, "takes": takes, "batch_s": batch_s, "work": asdict(self.work)})

    @classmethod
    def from_row(cls, worker_id: str, text: bytes, now_ms: float) -> Self:
        """Read `<beat ms> <state> <JSON>`.

        Raises ValueError, TypeError or KeyError where another version wrote it.
        """
        beat, state, row = text.split(b" ", 2)
        values = orjson.loads(row)
        takes = values["takes"]
        return cls(
            worker_id,
            state.decode(),  # type: ignore[arg-type]  # its own words, shown as they are
            max(0.0, now_ms - float(beat)) / 1000,
            ModelInput.from_dict(takes) if takes else None,
            float(values["batch_s"]),
            str(values["model"]),
            Work(**{name: values["work"][name] for name in WORK} if "work" in values else {}),
            float(beat) / 1000,
        )


def tensor_job(uuid: str, tensor: NDArray[Any], context: str = "") -> Job:
    """Return the job of a C-contiguous tensor, which it refers to where that is long; context: of its trace."""
    start = (uuid.encode(), _tensor_header(tensor.dtype, tensor.shape), _end(context))
    if tensor.nbytes < LONG_BYTES:
        return Job(uuid, b"".join((*start, tensor.data)))
    return Job(uuid, b"".join(start), tensor.reshape(-1).view(np.uint8).data)


def tensor_payload(uuid: str, tensor: NDArray[Any], context: str = "") -> bytes:
    """Return a C-contiguous tensor as a job's payload."""
    return tensor_job(uuid, tensor, context).payload


@lru_cache(maxsize=256)
def _tensor_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    return f" tensor {dtype.str} {','.join(map(str, shape))}".encode()


def encoded_job(uuid: str, image: bytes, context: str = "") -> Job:
    """Return the job of an image file, which it refers to where that is long; context: of its trace."""
    start = (uuid.encode(), b" encoded - -", _end(context))
    if len(image) < LONG_BYTES:
        return Job(uuid, b"".join((*start, image)))
    return Job(uuid, b"".join(start), image)


def encoded_payload(uuid: str, image: bytes, context: str = "") -> bytes:
    """Return an image file as a job's payload."""
    return encoded_job(uuid, image, context).payload


def _end(context: str) -> bytes:
    return f" {context}\n".encode() if context else b"\n"


def context_of(job: ClaimedJob) -> str:
    """Return the W3C context that came with a job, "" where its request is not traced."""
    words = job.payload[: job.payload.find(b"\n")].split(b" ")
    return words[4].decode("latin-1") if len(words) > 4 else ""


def read_payload(job: ClaimedJob) -> NDArray[Any] | bytes:
    """Return the tensor (a read-only view) or the image file of a job.

    Raises InternalError where the payload is another job's or cannot be read.
    """
    end = job.payload.find(b"\n")
    uuid, _, header = job.payload[:end].partition(b" ")
    if header.count(b" ") == 3:  # a context, of each request another one: not for the cache
        header = header.rpartition(b" ")[0]
    if uuid != job.uuid.encode():
        raise InternalError("the image was mixed up on its way; send it again")
    try:
        dtype, shape = _payload_header(header)
        if dtype is None:
            return job.payload[end + 1 :]
        return np.frombuffer(job.payload, dtype, offset=end + 1).reshape(shape)
    except (ValueError, TypeError, SyntaxError) as exc:  # numpy parses some texts as Python
        raise InternalError("the image cannot be read: api and batcher may be of different versions") from exc


@lru_cache(maxsize=256)
def _payload_header(header: bytes) -> tuple[np.dtype[Any] | None, tuple[int, ...]]:
    kind, dtype, shape = header.decode().split(" ")
    if kind == "encoded":
        return None, ()
    return np.dtype(dtype), tuple(int(side) for side in shape.split(",") if side)


def prediction_value(prediction: object, timing: Timing) -> bytes:
    """Return a prediction as the value of an "ok" settlement.

    Raises TypeError where it cannot be written as JSON.
    """
    return timing.line() + orjson.dumps(prediction, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)


def error_value(error: ServiceError, timing: Timing) -> bytes:
    """Return an error as the value of an "error" or "dead" settlement."""
    return timing.line() + orjson.dumps({"code": error.code, "message": error.message})


def read_dead_letter(raw: bytes) -> DeadLetter:
    """Read a job that was given up as SETTLE wrote it."""
    head, _, rest = raw.partition(b"\n")
    died_ms, length = map(int, head.split())
    return DeadLetter(died_ms / 1000, read_result(rest[:length]), rest[length:], raw)


def read_result(raw: bytes) -> Result:
    """Read a result as SETTLE wrote it; a prediction is looked through, since it will stand in an answer as it is.

    Raises ValueError, TypeError or LookupError where it cannot be read.
    """
    head, _, body = raw.partition(b"\n")
    uuid, kind, queue_s, decode_s, model_s, batch_size, batch_id, worker_id = head.decode().split(" ")
    timing = Timing(float(queue_s), float(decode_s), float(model_s), int(batch_size), batch_id, worker_id)
    said = orjson.loads(body)
    if kind == "ok":
        return Result(uuid, body, None, timing)
    return Result(uuid, b"null", from_code(str(said["code"]), str(said["message"])), timing)
