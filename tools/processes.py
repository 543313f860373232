"""Commands kept running: started behind a guard, started again when they end, stopped in order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 10.0
SETTLED_S = 30.0  # who lived this long starts over with the shortest delay
HUNG = 70  # so does a batcher that left because its model hung on an image: the next one serves the others
POLL_S = 0.05
REAP_S = 2.0  # how long a process killed by SIGKILL may take to vanish


def say(line: str) -> None:
    """Write a line to stderr; a terminal that is gone must not stop the runner from stopping."""
    with suppress(OSError):
        sys.stderr.write(line + "\n")  # in one write, so that the lines of two threads never mix


class KeptProcess:
    """One command behind its guard, started again with a growing delay until it is stopped.

    command: as for exec; its output goes to stderr, each line led by `name`.
    env: its whole environment.
    grace_s: the time between SIGTERM and SIGKILL, should the runner be killed.
    remove: a directory to delete in that case.
    log: a file whose last line says why the command ended, where it does not say so on stderr.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        grace_s: float,
        remove: Path | None = None,
        log: Path | None = None,
    ) -> None:
        self.name = name
        guard = [sys.executable, "-m", "tools.guard", "--grace-s", str(grace_s)]
        self._command = [*guard, *(["--remove", str(remove)] if remove else []), "--", *command]
        self._env = env
        self._log = log
        self.last_code: int | None = None  # of its last run, None before its end
        self._guard: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()  # so that nothing is started once it has been stopped
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=name, daemon=True)

    def start(self) -> None:
        """Start it; from now on it is kept running."""
        self._thread.start()

    def stop(self) -> None:
        """Ask it to end, and start it no more."""
        with self._lock:
            self._stopping.set()
            if self._guard:
                self._guard.terminate()

    def kill(self) -> None:
        """End it and all that it has started at once, and start it no more."""
        with self._lock:
            self._stopping.set()
            if self._guard and self._guard.returncode is None:
                _kill_group(self._guard.pid)

    def join(self, timeout_s: float) -> bool:
        """Wait for its end; return whether it has come."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _keep(self) -> None:
        """Run it again and again until it is to stop."""
        delay_s = FIRST_DELAY_S
        while not self._stopping.is_set():
            started = time.monotonic()
            how = self._run_once()
            if time.monotonic() - started >= SETTLED_S or self.last_code == HUNG:
                delay_s = FIRST_DELAY_S
            if self._stopping.is_set():
                return
            say(f"{self.name} ended ({how}); starting it again in {delay_s:g} s")
            self._stopping.wait(delay_s)
            delay_s = min(delay_s * 2, LONGEST_DELAY_S)

    def _run_once(self) -> str:
        """Run it until it ends; return how it ended."""
        try:
            guard = self._spawn()
        except OSError as exc:  # no more processes or memory, or the .venv was deleted: both may come back
            return f"cannot be started: {exc.strerror}"
        if guard is None:
            return "stopped"
        code = self._follow(guard)
        self.last_code = code
        return ending(code) + ("" if _is_signal(code) else self._last_words())

    def _spawn(self) -> subprocess.Popen[bytes] | None:
        """Start the guard with the command, or return None if it is to stop.

        Popen makes the pipe's write end close-on-exec, so the runner alone holds it.
        """
        with self._lock:
            if self._stopping.is_set():
                return None
            self._guard = subprocess.Popen(  # noqa: S603 - the commands are written in this folder
                self._command,
                cwd=ROOT,
                env=self._env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            return self._guard

    def _follow(self, guard: subprocess.Popen[bytes]) -> int:
        """Show its output until the guard has ended; return the exit code."""
        show = threading.Thread(target=self._show, args=(guard,), daemon=True)
        show.start()
        code = guard.wait()
        # What outlives its guard, since that was killed, or was started by the command, ends here: the next
        # one must not run beside it. The group's number is safe to use: no new process gets it while a member lives.
        _kill_group(guard.pid)
        show.join(REAP_S)
        if guard.stdin:
            guard.stdin.close()
        return code

    def _show(self, guard: subprocess.Popen[bytes]) -> None:
        """Pass the output on line by line."""
        if guard.stdout is None:
            return
        with guard.stdout as output:
            for line in output:
                say(f"{self.name:<9} | {line.decode(errors='replace').rstrip()}")

    def _last_words(self) -> str:
        """Return the last line of the log, led by a colon."""
        lines = self._log.read_text(errors="replace").splitlines() if self._log and self._log.exists() else []
        return f": {lines[-1]}" if lines else ""


def ending(code: int) -> str:
    """Say how a guarded command ended.

    A negative code means that the guard itself was killed, one above 128 that the command was.
    """
    return f"killed by {signal.Signals(_signal(code)).name}" if _is_signal(code) else f"exit code {code}"


def _signal(code: int) -> int:
    return -code if code < 0 else code - 128


def _is_signal(code: int) -> bool:
    return _signal(code) in set(signal.Signals)


def stop_in_order(
    stages: Iterable[Sequence[KeptProcess]], grace_s: float, *, hurried: Callable[[], bool] = lambda: False
) -> bool:
    """Stop the processes of one stage together, one stage after the other; return whether none had to be killed.

    grace_s: what each stage has between SIGTERM and SIGKILL; none once `hurried` says so.
    """
    clean = True
    for stage in stages:
        for process in stage:
            process.stop()
        deadline = time.monotonic() + grace_s
        for process in stage:
            while not process.join(POLL_S) and time.monotonic() < deadline and not hurried():
                pass
            if not process.join(0):
                clean = False
                say(f"{process.name} did not end in time and is killed")
                process.kill()
                process.join(REAP_S)
    return clean


def _kill_group(leader: int) -> None:
    """Kill what is left of a guard's group; macOS refuses where only dead ones are left."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
