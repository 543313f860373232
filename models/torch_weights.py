"""A PyTorch file of weights read without PyTorch, and without running what a pickle may hold."""

from __future__ import annotations

import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from errors import StartError

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
_LENGTH = struct.Struct("<q")


@dataclass(frozen=True, slots=True)
class _Storage:
    """Where a tensor's numbers are: they come after all pickles."""

    key: str
    dtype: np.dtype[Any]


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A view of a storage; offset and strides count elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def of(self, storages: Mapping[str, bytes]) -> NDArray[Any]:
        """Return it as an array; numpy refuses one that reaches beyond its storage."""
        size = self.storage.dtype.itemsize
        strides = tuple(stride * size for stride in self.strides)
        data = storages[self.storage.key]
        return np.ndarray(self.shape, self.storage.dtype, data, offset=self.offset * size, strides=strides)


def _tensor(storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object) -> _Tensor:
    return _Tensor(storage, offset, shape, strides)


_ADMITTED: dict[tuple[str, str], Callable[..., object] | np.dtype[Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch", "FloatStorage"): np.dtype("<f4"),
    ("torch", "LongStorage"): np.dtype("<i8"),
}
"""All that a file of weights names: a pickle may name any function of any module, and have it called."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Return what is admitted.

        Raises UnpicklingError for all else.
        """
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no weights need")
        return _ADMITTED[module, name]

    def persistent_load(self, pid: tuple[Any, ...]) -> _Storage:
        """Read ("storage", dtype, key, device, length, view)."""
        _, dtype, key, *_ = pid
        return _Storage(str(key), np.dtype(dtype))


def read_weights(file: BinaryIO) -> dict[str, NDArray[Any]]:
    """Read a state dict as `torch.save` wrote it before PyTorch 1.6: five pickles, then the storages.

    Raises StartError where it is something else.
    """
    try:
        return _read(file)
    except Exception as exc:  # a pickle of nonsense raises nearly anything
        raise StartError(f"these are no PyTorch weights: {exc}") from exc


def _read(file: BinaryIO) -> dict[str, NDArray[Any]]:
    magic, protocol = _Unpickler(file).load(), _Unpickler(file).load()
    if (magic, protocol) != (MAGIC, PROTOCOL):
        raise pickle.UnpicklingError("it is of another format")
    _Unpickler(file).load()  # of the machine that wrote it
    tensors, keys = _Unpickler(file).load(), _Unpickler(file).load()
    dtypes = {tensor.storage.key: tensor.storage.dtype for tensor in tensors.values()}
    storages = {key: _read_storage(file, dtypes[key]) for key in keys}
    return {str(name): tensor.of(storages) for name, tensor in tensors.items()}


def _read_storage(file: BinaryIO, dtype: np.dtype[Any]) -> bytes:
    (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
    data = file.read(length * dtype.itemsize)
    if not data or len(data) != length * dtype.itemsize:  # numpy looks for no end in an empty one
        raise EOFError(f"a storage of {length} numbers has {len(data)} bytes")
    return data
