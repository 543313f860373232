"""The header of a TIFF, as far as it tells how much reading it takes: Pillow reads all of it at once."""

from __future__ import annotations

import struct

_ORDERS = {b"II": "<", b"MM": ">"}
_CLASSIC, _BIG = 42, 43
_BYTES = (1, 2, 6, 7)
"""Types of values that are kept as bytes: ASCII and the like."""


def longest_list(data: bytes) -> int:
    """Return the length of the longest list of numbers in the first directory; 0 where there is no TIFF to be read."""
    order = _ORDERS.get(data[:2])
    if order is None:
        return 0
    try:
        (magic,) = struct.unpack_from(order + "H", data, 2)
        if magic == _CLASSIC:
            (start,) = struct.unpack_from(order + "I", data, 4)
            (entries,) = struct.unpack_from(order + "H", data, start)
            first, each = start + 2, struct.Struct(order + "HHI4x")
        elif magic == _BIG:
            (start,) = struct.unpack_from(order + "Q", data, 8)
            (entries,) = struct.unpack_from(order + "Q", data, start)
            first, each = start + 8, struct.Struct(order + "HHQ8x")
        else:
            return 0
        whole = max(0, min(entries, (len(data) - first) // each.size))
        tags = each.iter_unpack(data[first : first + whole * each.size])
        return max((count for _tag, kind, count in tags if kind not in _BYTES), default=0)
    except struct.error:  # Pillow says what is wrong with it
        return 0
