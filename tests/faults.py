"""What can be done to single replies, and the orders to do it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """What is done to one exchange.

    copies: how often the request is sent; the last reply counts. deliver: makes what is delivered of the command's own
    reply and a foreign one. closes: whether the connection ends then. foreign: strike only once a foreign reply exists.
    """

    deliver: Callable[[bytes, bytes], bytes] = lambda own, _: own
    copies: int = 1
    closes: bool = False
    foreign: bool = False
    stall_s: float = 0.0


DROP = Fault(lambda _own, _: b"", closes=True)
CUT = Fault(lambda own, _: own[: max(1, len(own) // 2)], closes=True)
REPEAT = Fault(copies=2)
SWAP = Fault(lambda _own, foreign: foreign, foreign=True)
SHIFT = Fault(lambda own, foreign: foreign + own, foreign=True)


def stall(seconds: float) -> Fault:
    """Return the fault that holds a reply back for so long."""
    return Fault(stall_s=seconds)


def rewrite(old: bytes, new: bytes) -> Fault:
    """Return the fault that changes words of a reply that is one bulk string."""

    def deliver(own: bytes, _: bytes) -> bytes:
        text = own.partition(b"\r\n")[2][:-2].replace(old, new)
        return b"$%d\r\n%s\r\n" % (len(text), text)

    return Fault(deliver)


@dataclass(eq=False, slots=True)
class Order:
    """A fault for the next commands of a name.

    chance: the share of them that it strikes. where: strike only requests that hold these bytes.
    donor: the command whose reply another connection was given; "": of the same command.
    """

    command: str
    fault: Fault
    left: int
    chance: float
    where: bytes
    donor: str

    async def carried_out(self, within_s: float = 20.0) -> None:
        """Wait until it has struck as often as ordered."""
        async with asyncio.timeout(within_s):
            while self.left:
                await asyncio.sleep(0.002)
