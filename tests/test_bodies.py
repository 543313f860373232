"""Bodies are read within their limits and taken apart into images; all else is an error of ours."""

from __future__ import annotations

import asyncio
import io
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays, boolean_dtypes, floating_dtypes, integer_dtypes
from numpy.typing import NDArray
from starlette.types import Message

from asgi import Incoming
from bodies import read_body, read_npy, split_body
from errors import BadRequest, BodyTimeout, InvalidImage, ServiceError, TooLarge, UnsupportedMediaType

LIMIT = 10
FORM = "multipart/form-data; boundary=edge"
FILE = '; filename="a.png"'
END = b"--edge--\r\n"


def request(*chunks: bytes, announced: int | None = None, pause_s: float = 0.0) -> Incoming:
    """Return a request whose chunks, and then its end, come after a pause each."""
    left = iter(chunks)

    async def receive() -> Message:
        await asyncio.sleep(pause_s)
        chunk = next(left, None)
        return {"type": "http.request", "body": chunk or b"", "more_body": chunk is not None}

    headers = [] if announced is None else [(b"content-length", b"%d" % announced)]
    return Incoming({"type": "http", "headers": headers}, receive)


async def read(one: Incoming, timeout_s: float = 5.0) -> bytes:
    return await read_body(one, max_body_bytes=LIMIT, body_timeout_s=timeout_s)


def part(name: str, content: bytes, more: str = FILE) -> bytes:
    return f'--edge\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + content + b"\r\n"


def instances(*texts: str) -> bytes:
    return b'{"instances": [%b]}' % ", ".join(f'{{"b64": "{text}"}}' for text in texts).encode()


def saved(array: NDArray[Any], version: tuple[int, int] = (1, 0)) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version)
    return stream.getvalue()


def npy(header: str, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header.encode() + data


def header(shape: str, descr: str = "'|u1'") -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"


@pytest.mark.parametrize("announced", [None, LIMIT])
async def test_a_body_of_exactly_the_limit_comes_whole(announced: int | None) -> None:
    assert await read(request(b"12345", b"", b"67890", announced=announced)) == b"1234567890"


@pytest.mark.parametrize("announced", [None, 1])
async def test_a_body_over_the_limit_is_refused_whatever_it_announced(announced: int | None) -> None:
    with pytest.raises(TooLarge):
        await read(request(b"12345", b"678901", announced=announced))


async def test_an_announced_length_over_the_limit_is_refused_unread() -> None:
    with pytest.raises(TooLarge):
        await read(request(announced=LIMIT + 1, pause_s=60), timeout_s=0.05)


@pytest.mark.parametrize("pause_s", [60, 0.01], ids=["stalls", "drips"])
async def test_a_body_that_comes_too_slowly_times_out(pause_s: float) -> None:
    with pytest.raises(BodyTimeout):
        await read(request(*[b""] * 1000, pause_s=pause_s), timeout_s=0.05)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("image/png", b"first"),
        ("IMAGE/X-Unknown ; q=1", b"first"),
        ("Application/Octet-Stream;charset=binary", b"first"),
        ("application/JSON; charset=utf-8", instances("Zmlyc3Q=")),
        ('Multipart/Form-Data; charset="?"; Boundary="edge"', part("any", b"first") + b"--edge--"),
        (FORM, part("note", b"text", "") + part("\u00fc[]", b"first") + part("", b"", "") + END + b"epilogue"),
    ],
)
async def test_one_image_comes_as_it_was_sent(kind: str, body: bytes) -> None:
    assert await split_body(kind, body, max_images=2) == [b"first"]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (FORM, part("b", b"2") + part("a", b"\r\n--edg") + part("b", b"") + END),
        ("application/json", instances("Mg==", "DQotLWVkZw==", "")),
    ],
)
async def test_several_images_come_in_the_order_sent(kind: str, body: bytes) -> None:
    assert await split_body(kind, body, max_images=3) == [b"2", b"\r\n--edg", b""]


@pytest.mark.parametrize("count", [3, 4, 9])
async def test_more_images_than_allowed_are_too_large_before_any_is_looked_at(count: int) -> None:
    for kind, body in [(FORM, part("a", b"1") * count + END), ("application/json", instances(*["*"] * count))]:
        with pytest.raises(TooLarge):
            await split_body(kind, body, max_images=2)


@pytest.mark.parametrize("kind", ["", ";", "text/plain", "image", "application/jsonp", "multipart/mixed"])
async def test_another_or_no_content_type_is_refused(kind: str) -> None:
    with pytest.raises(UnsupportedMediaType):
        await split_body(kind, b"first", max_images=2)


MALFORMED = {
    "image/png": [b""],
    "application/octet-stream": [b""],
    "application/json": [
        *(b"", b"\xff", b"{", b"[" * 5000, b"null", b"[]", b"{}", b'{"instances": {}}'),
        *(b'{"instances": [%b]}' % one for one in (b"", b"1", b"null", b'"Mg=="', b"[]", b"{}", b'{"b64": 1}')),
    ],
    FORM: [
        *(b"", b"--", END, b"no parts", b"--edge\r\n\r\n1\r\n" + END, part("a", b"1", "") + END),
        *(part("a", b"1").replace(*change) + END for change in ((b"name", b"n"), (b"\r\n", b"\n"))),
        part("a", b"1") + part("b", b"1", "") * 3 + END,
    ],
    f"{FORM}; charset=undefined": [part("a", b"1") + END],
    "multipart/form-data": [part("a", b"1") + END],
    "multipart/form-data; boundary=": [part("a", b"1") + END],
    "multipart/form-data; boundary=other": [part("a", b"1") + END],
}


@pytest.mark.parametrize(("kind", "body"), [(kind, body) for kind, bodies in MALFORMED.items() for body in bodies])
async def test_a_malformed_body_or_one_without_an_image_is_a_bad_request(kind: str, body: bytes) -> None:
    with pytest.raises(BadRequest):
        await split_body(kind, body, max_images=2)


@pytest.mark.parametrize("text", ["Mg", "Mg==Mg==", "=Mg=", "M g==", "Mg==\\n", "-_8=", "\u00fc", "*"])
async def test_text_that_is_no_base64_is_the_error_of_its_own_image(text: str) -> None:
    good, bad = await split_body("application/json", instances("Mg==", text), max_images=2)

    assert good == b"2"
    assert isinstance(bad, InvalidImage)
    assert "instances[1]" in bad.message


async def test_a_multipart_body_cut_short_is_refused_rather_than_answered_in_part() -> None:
    body = part("a", b"1") + part("b", b"2")

    for cut in range(len(body)):
        with pytest.raises(BadRequest):
            await split_body(FORM, body[:cut], max_images=2)


@settings(deadline=None)
@given(
    array=arrays(
        boolean_dtypes() | integer_dtypes(endianness="?") | floating_dtypes(endianness="?"),
        array_shapes(min_dims=0, max_dims=4, min_side=0),
    ),
    transposed=st.booleans(),
    version=st.sampled_from([(1, 0), (2, 0), (3, 0)]),
)
@example(array=np.array(3, "u1"), transposed=False, version=(1, 0))
@example(array=np.zeros((2, 0, 3), "<f4"), transposed=False, version=(2, 0))
@example(array=np.arange(6, dtype=">i2").reshape(2, 3), transposed=True, version=(3, 0))
async def test_any_tensor_comes_as_it_was_saved_without_a_copy(
    array: NDArray[Any], version: tuple[int, int], *, transposed: bool
) -> None:
    array = array.T if transposed else array
    body = saved(array, version)

    (found,) = await split_body("Application/X-NPY; v=1", body, max_images=1)

    assert isinstance(found, np.ndarray)
    assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, array.shape, array.tobytes())
    assert np.shares_memory(found, np.frombuffer(body, np.uint8)) == (array.size > 0)


def test_a_npy_file_longer_or_shorter_than_it_says_is_refused() -> None:
    whole = saved(np.arange(3, dtype="u1"))

    for body in [whole[:cut] for cut in range(len(whole))] + [whole + b"\0"]:
        with pytest.raises(BadRequest):
            read_npy(body)


@dataclass
class Trap:
    """Leaves a file behind where it is unpickled."""

    path: Path

    def __reduce__(self) -> tuple[object, ...]:  # noqa: D105 - what a pickle runs
        return Path.touch, (self.path,)


def test_a_pickled_object_is_refused_and_not_unpickled(tmp_path: Path) -> None:
    # given: a file that does harm where pickles are allowed
    trace = tmp_path / "trace"
    body = saved(np.array([Trap(trace)], dtype=object))
    np.load(io.BytesIO(body), allow_pickle=True)
    trace.unlink()

    # when
    with pytest.raises(BadRequest):
        read_npy(body)

    # then
    assert not trace.exists()


@pytest.mark.parametrize("dtype", ["S3", "U3", "M8[s]", "m8[s]", "c8", "V4", "f4,u1"])
def test_elements_that_are_no_numbers_are_refused(dtype: str) -> None:
    with pytest.raises(BadRequest):
        read_npy(saved(np.zeros(2, dtype)))


@pytest.mark.parametrize(
    "text",
    [
        *(header(shape) for shape in ("(-1,)", "(-1, -1)", "(-1, 0)", "(True,)", "(1.0,)", "1", "[1]", "'1'")),
        *(header(shape) for shape in ("(4611686018427387904, 4)", f"(0, {2**62}, {2**62})", f"({'1, ' * 65})")),
        *(header("(1,)", descr) for descr in ("()", "[()]", "{}", "1", "'u1' * 2", "'|u9'", "('|u1', (1,))", "'O'")),
        *("", "{", "(" * 900, "1", "{}", "{[]: 1}", "'", "\0", "\\", "-" * 900 + "1", header("(1,)") + " " * 2000),
    ],
)
def test_a_header_that_lies_or_cannot_be_read_is_refused(text: str) -> None:
    for data in (b"", b"1"):
        with pytest.raises(BadRequest):
            read_npy(npy(text, data))


WORDS = st.lists(st.sampled_from([*"{}()[],:-01'#\n\\", "4L", "9" * 20, "True", "None"])).map("".join)
GARBAGE = {
    "image/png": st.binary(),
    "application/json": st.text().map(instances),
    "application/x-npy": WORDS.map(npy) | st.builds(header, WORDS, st.just("'|u1'") | WORDS).map(npy),
    FORM: st.builds(part, st.text(), st.binary(), st.sampled_from([FILE, ""])).map(lambda one: one + END),
}


@pytest.mark.filterwarnings("ignore")  # numpy warns of headers as Python 2 wrote them, and reads them
@pytest.mark.parametrize("kind", GARBAGE)
@settings(deadline=None)
@given(data=st.data())
async def test_only_our_errors_come_out_of_garbage(kind: str, data: st.DataObject) -> None:
    body = data.draw(GARBAGE[kind] | st.binary())

    with suppress(ServiceError):
        await split_body(kind, body, max_images=2)
