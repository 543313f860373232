"""Uploads → jobs: images decoded in worker threads, tensors checked, each to exactly what the model takes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count, urandom
from uuid import UUID, uuid5

import numpy as np

import images
from bodies import Upload
from errors import InvalidImage, ServiceError
from inputs import ModelInput
from records import Job, encoded_payload, tensor_payload

VARIANT = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))


def new_uuid() -> str:
    """Return a random UUID (RFC 9562, version 4), as uuid.uuid4 does, in a third of its time."""
    digits = urandom(16).hex()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{VARIANT[digits[16]]}{digits[17:20]}-{digits[20:]}"


def job_uuids(request_uuid: str, count: int) -> list[str]:
    """Return the UUIDs of a request's jobs: its own where it has one image, else uuid5 of it and the number."""
    if count == 1:
        return [request_uuid]
    namespace = UUID(request_uuid)
    return [str(uuid5(namespace, str(number))) for number in range(count)]


class Intake:
    """Prepares images on as many threads as there are cores."""

    def __init__(self, *, formats: tuple[str, ...], max_pixels: int, threads: int) -> None:
        self._formats = formats
        self._max_pixels = max_pixels
        self._threads = ThreadPoolExecutor(threads or cpu_count() or 1, thread_name_prefix="decode")

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def prepare(
        self, uploads: Sequence[Upload], uuids: Sequence[str], takes: ModelInput
    ) -> list[Job | ServiceError]:
        """Return each upload's job, or why it cannot be one; what has not begun when cancelled is not begun."""
        pairs = zip(uploads, uuids, strict=True)
        if not any(isinstance(upload, bytes) for upload in uploads):  # nothing to decode
            return [self._attempt(upload, uuid, takes) for upload, uuid in pairs]
        run = asyncio.get_running_loop().run_in_executor
        return await asyncio.gather(*(run(self._threads, self._attempt, *pair, takes) for pair in pairs))

    def _attempt(self, upload: Upload, uuid: str, takes: ModelInput) -> Job | ServiceError:
        try:
            return Job(uuid, self._payload(upload, uuid, takes))
        except ServiceError as exc:
            return exc

    def _payload(self, upload: Upload, uuid: str, takes: ModelInput) -> bytes:
        if not isinstance(upload, bytes):
            if takes.accepts == "encoded":
                raise InvalidImage("this model takes image files, not tensors")
            if upload.shape != takes.shape or (
                upload.dtype != takes.dtype and upload.dtype.newbyteorder("=") != takes.dtype
            ):
                raise InvalidImage(
                    f"the tensor is {upload.dtype} {upload.shape}; this model takes {takes.dtype} {takes.shape}"
                )
            return tensor_payload(uuid, np.ascontiguousarray(upload, dtype=takes.dtype))
        if takes.accepts == "encoded":
            images.check(upload, formats=self._formats, max_pixels=self._max_pixels)
            return encoded_payload(uuid, upload)
        tensor = images.decode(upload, takes=takes, formats=self._formats, max_pixels=self._max_pixels)
        return tensor_payload(uuid, tensor)
