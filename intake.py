"""Uploads → jobs: images decoded or on their way to be, tensors checked, each to exactly what the model takes.

A job refers to its upload where that goes as it came; nothing is copied.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bodies import Upload
from decoding import Decoder
from errors import InvalidImage, ServiceError
from inputs import ModelInput
from records import Job, encoded_job, tensor_job


class Intake:
    """Prepares images.

    near: decode here, whatever a file's size; else one that is smaller than its tensor goes as it is and is decoded by
    the batcher, which costs all processes less.
    """

    def __init__(self, decoder: Decoder, *, near: bool) -> None:
        self._decoder = decoder
        self._near = near

    def takes_time(self, upload: Upload, takes: ModelInput) -> bool:
        """Return whether an upload is decoded, or looked through, here."""
        here = self._near or takes.accepts == "encoded" or not takes.takes_images
        return isinstance(upload, bytes) and (here or len(upload) >= takes.size_bytes)

    def bytes_of(self, uploads: Sequence[Upload], takes: ModelInput) -> int:
        """Return what uploads hold, with the tensors that will be made of them here."""
        total = 0
        for one in uploads:
            if isinstance(one, np.ndarray):
                is_copied = not (one.flags.c_contiguous and one.dtype.isnative)
                total += one.nbytes * 2 if is_copied else one.nbytes
            elif isinstance(one, bytes):
                is_decoded = takes.accepts == "tensor" and self.takes_time(one, takes)
                total += len(one) + takes.size_bytes if is_decoded else len(one)
        return total

    async def prepare(
        self, uploads: Sequence[Upload], uuids: Sequence[str], takes: ModelInput, *, context: str = ""
    ) -> list[Job | ServiceError]:
        """Return each upload's job, or why it cannot be one; context: of the request's trace, goes with them."""
        found = dict[int, Upload | ServiceError](enumerate(uploads))
        near: dict[int, bytes] = {}
        for place, upload in enumerate(uploads):
            if not isinstance(upload, bytes):
                continue
            if self.takes_time(upload, takes):
                near[place] = upload
            else:
                found[place] = self._decoder.look(upload)
        if near:
            found.update(zip(near, await self._work_on(list(near.values()), takes), strict=True))
        return [_job(found[place], uuid, takes, context) for place, uuid in enumerate(uuids)]

    async def _work_on(self, files: Sequence[bytes], takes: ModelInput) -> Sequence[Upload | ServiceError]:
        return await (self._decoder.check(files) if takes.accepts == "encoded" else self._decoder.decode(files, takes))


def _job(image: Upload | ServiceError, uuid: str, takes: ModelInput, context: str) -> Job | ServiceError:
    if isinstance(image, ServiceError):
        return image
    if isinstance(image, bytes):
        return encoded_job(uuid, image, context)
    if takes.accepts == "encoded":
        return InvalidImage("this model takes image files, not tensors")
    if image.shape != takes.shape or (image.dtype != takes.dtype and image.dtype.newbyteorder("=") != takes.dtype):
        return InvalidImage(f"the tensor is {image.dtype} {image.shape}; this model takes {takes.dtype} {takes.shape}")
    return tensor_job(uuid, np.ascontiguousarray(image, dtype=takes.dtype), context)
