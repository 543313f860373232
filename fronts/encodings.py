"""Content-Encoding of bodies, in and out: gzip and deflate, and never more bytes than a body may have."""

from __future__ import annotations

import gzip
import io
import re
import zlib

from errors import BadRequest, TooLarge, UnsupportedMediaType

MOST_PER_BYTE = 1032
"""How many bytes deflate can make of one, at most."""

_WINDOWS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
_RAW = -15
_NEVER = re.compile(r"q=0(\.0*)?")
_CHUNK_BYTES = 1024 * 1024


def unpacked_bytes(body: bytes, *, limit_bytes: int) -> int:
    """Return how long a body may become when it is unpacked."""
    return min(limit_bytes, MOST_PER_BYTE * len(body))


def unpack(body: bytes, encoding: str, *, limit_bytes: int) -> bytes:
    """Undo a Content-Encoding; "" and `identity` are none.

    Raises TooLarge as soon as it is longer than the limit, BadRequest, UnsupportedMediaType.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in _WINDOWS:
        raise UnsupportedMediaType(f"Content-Encoding {encoding[:80]}: send gzip, deflate or none")
    window = _WINDOWS[encoding]
    if encoding == "deflate" and not _has_zlib_header(body):
        window = _RAW  # as some clients understand the name
    return _inflate(body, window, limit_bytes)


def pack(body: bytes, accepted: str) -> tuple[bytes, str]:
    """Return a body as a client's Accept-Encoding asks, with the encoding that it now has, "" for none."""
    wanted = {
        name
        for name, _, quality in (part.replace(" ", "").lower().partition(";") for part in accepted.split(","))
        if not _NEVER.fullmatch(quality)
    }
    if "gzip" in wanted:
        return gzip.compress(body, 1, mtime=0), "gzip"
    if "deflate" in wanted:
        return zlib.compress(body, 1), "deflate"
    return body, ""


def _has_zlib_header(body: bytes) -> bool:
    return len(body) >= 2 and body[0] & 0x0F == 8 and int.from_bytes(body[:2], "big") % 31 == 0


def _inflate(body: bytes, window: int, limit_bytes: int) -> bytes:
    unpacked, left = io.BytesIO(), body
    try:
        while left:  # gzip may come in several members
            stream = zlib.decompressobj(window)
            while not stream.eof:
                part = stream.decompress(left, _CHUNK_BYTES)
                left = stream.unconsumed_tail
                if unpacked.tell() + len(part) > limit_bytes:
                    raise TooLarge(
                        f"the body is longer than {limit_bytes} bytes when it is unpacked; send less at once"
                    )
                if not part and not left and not stream.eof:
                    raise BadRequest("the compressed body ends too early")
                unpacked.write(part)
            left = stream.unused_data
    except zlib.error as exc:
        raise BadRequest("the body is not compressed as its Content-Encoding says") from exc
    return unpacked.getvalue()
