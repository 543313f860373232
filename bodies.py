"""HTTP bodies: read within their limits, and taken apart into images."""

from __future__ import annotations

import asyncio
import binascii
import io
import math
import tokenize
from collections.abc import AsyncGenerator, Callable
from functools import lru_cache
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.datastructures import Headers
from starlette.formparsers import MultiPartException, MultiPartParser

from asgi import Incoming
from errors import BadRequest, BodyTimeout, InvalidImage, ServiceError, TooLarge, UnsupportedMediaType

Upload = bytes | NDArray[Any] | ServiceError
"""One image as it came: an image file, the tensor of a `.npy` body, or why it is neither."""

BUFFER_BYTES = 256 * 1024
"""What the server may have read of a connection beyond what it has handed over, while more is to come."""
_JSON_FACTOR, _WIDE_JSON_FACTOR = 3, 6
"""What a JSON body, its text and its images take together, in bodies: where it holds more than ASCII, its characters
may take four bytes each."""

ACCEPTED = "image/*, application/octet-stream, multipart/form-data, application/json or application/x-npy"
MAX_NPY_HEADER_BYTES = 1024


class _InMemoryParser(MultiPartParser):
    """Keeps the content of file parts in memory, each copied once, and that of other parts not at all.

    contents: of the file parts, in their order. The body's limit bounds them; a temporary file would cost more.
    """

    ended = False

    def __init__(self, content_type: str, stream: AsyncGenerator[bytes, None], *, max_images: int) -> None:
        headers = Headers({"content-type": content_type})
        super().__init__(headers, stream, max_files=max_images + 1, max_fields=max_images)
        self.contents: list[bytes] = []
        self._pieces: list[bytes] = []

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        """Take a piece of a file."""
        if self._current_part.file is not None:
            self._pieces.append(data[start:end])

    def on_part_end(self) -> None:
        """Take a file as whole."""
        if self._current_part.file is not None:
            self.contents.append(b"".join(self._pieces))
            self._pieces.clear()
        super().on_part_end()

    def on_end(self) -> None:
        """Note the last boundary."""
        self.ended = True


async def read_body(
    incoming: Incoming, *, max_body_bytes: int, body_timeout_s: float, hold: Callable[[int], None] = lambda _: None
) -> bytes:
    """Read the whole body.

    hold: is told how many bytes are there, and may refuse more.
    Raises TooLarge, before reading where the length is announced; BodyTimeout; starlette's ClientDisconnect.
    """
    announced = incoming.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > max_body_bytes:
        raise _too_large(max_body_bytes)
    if incoming.is_whole:  # a time limit would cost a small request a sixteenth of its time
        return await _read_body(incoming, max_body_bytes, hold)
    try:
        async with asyncio.timeout(body_timeout_s):
            return await _read_body(incoming, max_body_bytes, hold)
    except TimeoutError as exc:
        raise BodyTimeout(f"the body did not arrive within {body_timeout_s:g} s") from exc


async def _read_body(incoming: Incoming, max_body_bytes: int, hold: Callable[[int], None]) -> bytes:
    total, more, body = 0, True, None
    while more:
        message = await incoming.receive()
        chunk, more = message.get("body", b""), message.get("more_body", False)
        total += len(chunk)
        if total > max_body_bytes:
            raise _too_large(max_body_bytes)
        hold(total + BUFFER_BYTES if more else total)
        if body is None and more:
            body = io.BytesIO()
        if body is not None:
            body.write(chunk)
    incoming.body_bytes = total
    return chunk if body is None else body.getvalue()  # which hands over what it holds, without a copy


def size_bytes(upload: Upload) -> int:
    """Return what an upload holds."""
    if isinstance(upload, bytes):
        return len(upload)
    return upload.nbytes if isinstance(upload, np.ndarray) else 0


async def split_body(
    content_type: str, body: bytes, *, max_images: int, hold: Callable[[int], None] = lambda _: None
) -> list[Upload]:
    """Return the images of a body, in the order sent, none of them looked at yet.

    hold: is told how many bytes that takes with the body, before it does, and may refuse.
    Raises BadRequest, TooLarge for too many images, UnsupportedMediaType.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind.startswith("image/") or kind == "application/octet-stream":
        uploads: list[Upload] = [body] if body else []
    elif kind == "application/x-npy":
        uploads = [read_npy(body)]
    elif kind == "application/json":
        hold(len(body) * (_WIDE_JSON_FACTOR if b"\\u" in body or not body.isascii() else _JSON_FACTOR))
        uploads = _instances(body, max_images)
    elif kind == "multipart/form-data":
        hold(2 * len(body))
        uploads = await _file_parts(content_type, body, max_images)
    else:
        raise UnsupportedMediaType(f"Content-Type {kind[:80] or 'is missing'}: send {ACCEPTED}")
    if not uploads:
        raise BadRequest("there is no image in the body")
    if len(uploads) > max_images:
        raise _too_many(max_images)
    return uploads


def read_npy(body: bytes) -> NDArray[Any]:
    """Read one tensor of a `.npy` body without copying it; pickled objects are refused.

    Raises BadRequest.
    """
    length_bytes = 2 if body[6:7] == b"\x01" else 4
    start = 8 + length_bytes
    end = start + int.from_bytes(body[8:start], "little")
    if not body.startswith(b"\x93NUMPY") or len(body) < end or end > MAX_NPY_HEADER_BYTES:
        raise BadRequest("the body is not a .npy file; write it with numpy.save")
    shape, fortran_order, dtype = _npy_header(body[:end])
    if len(body) - end != dtype.itemsize * math.prod(shape):
        raise BadRequest("the .npy file is longer or shorter than its header says")
    flat = np.frombuffer(body, dtype, offset=end)
    try:
        return flat.reshape(shape[::-1]).T if fortran_order else flat.reshape(shape)
    except (ValueError, TypeError) as exc:  # negative, past what numpy can count, or too many dimensions
        raise BadRequest("the .npy file's header has an impossible shape") from exc


@lru_cache(maxsize=256)
def _npy_header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read a header with numpy's own reader; cached, since a client's headers are all the same.

    Raises BadRequest.
    """
    stream = io.BytesIO(header)
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read(stream, max_header_size=MAX_NPY_HEADER_BYTES)
    except (ValueError, SyntaxError, TypeError, IndexError, tokenize.TokenError) as exc:
        raise BadRequest("the header of the .npy file cannot be read") from exc
    if dtype.kind not in "biuf":
        raise BadRequest(f"a .npy file of {dtype} is not taken: only booleans, integers and floats")
    return shape, fortran_order, dtype


def _instances(body: bytes, max_images: int) -> list[Upload]:
    """Read `{"instances": [{"b64": "..."}, ...]}`.

    Raises BadRequest, TooLarge for too many images.
    """
    if (
        body.count(b",") > 16 * max_images
    ):  # base64 holds none; parsing millions of objects takes seconds and a gigabyte
        raise _too_many(max_images)
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise BadRequest(f"the body is not JSON: {exc.msg}") from exc
    instances = document.get("instances") if isinstance(document, dict) else None
    if not isinstance(instances, list):
        raise BadRequest('the JSON must be {"instances": [{"b64": "<image file in base64>"}, ...]}')
    if len(instances) > max_images:
        raise _too_many(max_images)
    return [_from_base64(number, instance) for number, instance in enumerate(instances)]


def _from_base64(number: int, instance: object) -> bytes | InvalidImage:
    text = instance.get("b64") if isinstance(instance, dict) else None
    if not isinstance(text, str):
        raise BadRequest(f'instances[{number}] must be {{"b64": "<image file in base64>"}}')
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:  # also what is not ASCII
        return InvalidImage(f"instances[{number}].b64 is not base64")


async def _file_parts(content_type: str, body: bytes, max_images: int) -> list[Upload]:
    """Return each file part's content, whatever its field's name.

    Raises BadRequest, TooLarge for too many images.
    """

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body
        if not parser.ended:  # or a body cut short would lose its last images in silence
            raise MultiPartException("the last boundary is missing")

    parser = _InMemoryParser(content_type, stream(), max_images=max_images)
    try:
        await (await parser.parse()).close()
    except (MultiPartException, ValueError) as exc:  # ValueError: a charset that cannot decode the names
        if "Too many files" in str(exc):
            raise _too_many(max_images) from exc
        raise BadRequest("the multipart body cannot be read; send each image as a file part") from exc
    return list(parser.contents)


def _too_large(max_body_bytes: int) -> TooLarge:
    return TooLarge(f"the body is longer than {max_body_bytes} bytes; send a smaller image")


def _too_many(max_images: int) -> TooLarge:
    return TooLarge(f"more than {max_images} images in one request; send them in several")
