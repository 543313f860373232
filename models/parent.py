"""The end of a model's process once its batcher is gone: also within a call, where it reads no socket."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import sys
import threading
import time

PR_SET_PDEATHSIG = 1
LOOK_S = 0.05
"""How often it is looked for the parent after the socket's other end was closed."""


def end_with_parent(parent: int, link: socket.socket) -> None:
    """Have this process killed when its parent ends, or end it now where that has happened before.

    parent: its process id. link: the socket to it. On Linux the kernel does it, also while a model holds Python's lock.
    """
    if not (sys.platform == "linux" and _ask_kernel()):
        watch(parent, link)
    if os.getppid() != parent:
        os._exit(1)


def watch(parent: int, link: socket.socket) -> None:
    """End this process, by a thread, after its parent has ended; a parent that only closes the socket is waited for."""
    threading.Thread(target=_end_after, args=(parent, link.fileno()), name="parent", daemon=True).start()


def _ask_kernel() -> bool:
    """Have the kernel send SIGKILL here when the thread ends that started this process; return whether it will."""
    try:
        return int(ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)) == 0
    except (OSError, AttributeError):
        return False


def _end_after(parent: int, link: int) -> None:
    hung_up = select.poll()
    hung_up.register(link, 0)  # POLLHUP is always told, and nothing that is to be read is touched
    hung_up.poll()
    while os.getppid() == parent:  # it closes the socket and then waits for this process, which is closing its model
        time.sleep(LOOK_S)
    os._exit(1)
