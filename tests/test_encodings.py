"""Content-Encoding is undone and made within limits."""

from __future__ import annotations

import gzip
import zlib

import pytest

from errors import BadRequest, ServiceError, TooLarge, UnsupportedMediaType
from fronts.encodings import pack, unpack

TEXT = b"seven " * 500
RAW = zlib.compressobj(wbits=-15)


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (TEXT, ""),
        (TEXT, "identity"),
        (gzip.compress(TEXT), "gzip"),
        (gzip.compress(TEXT), " GZIP "),
        (gzip.compress(TEXT[:100]) + gzip.compress(TEXT[100:]), "x-gzip"),
        (zlib.compress(TEXT), "deflate"),
        (RAW.compress(TEXT) + RAW.flush(), "deflate"),
    ],
)
def test_a_body_of_just_the_limit_is_unpacked(body: bytes, encoding: str) -> None:
    assert unpack(body, encoding, limit_bytes=len(TEXT)) == TEXT


@pytest.mark.parametrize(
    ("body", "encoding", "error"),
    [
        (gzip.compress(TEXT + b"!"), "gzip", TooLarge),
        (zlib.compress(b" " * 10**8), "deflate", TooLarge),
        (gzip.compress(TEXT)[:-1], "gzip", BadRequest),
        (gzip.compress(TEXT) + b"more", "gzip", BadRequest),
        (TEXT, "gzip", BadRequest),
        (TEXT, "br", UnsupportedMediaType),
        (TEXT, "gzip, gzip", UnsupportedMediaType),
    ],
)
def test_what_is_too_long_or_broken_is_refused(body: bytes, encoding: str, error: type[ServiceError]) -> None:
    with pytest.raises(error):
        unpack(body, encoding, limit_bytes=len(TEXT))


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [("", ""), ("gzip, deflate", "gzip"), ("deflate", "deflate"), ("gzip;q=0", ""), ("br", ""), ("GZIP;q=0.5", "gzip")],
)
def test_an_answer_is_packed_as_the_client_accepts(accepted: str, encoding: str) -> None:
    body, used = pack(TEXT, accepted)

    assert used == encoding
    assert unpack(body, used, limit_bytes=len(TEXT)) == TEXT
