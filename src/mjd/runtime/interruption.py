"""Runs that are interrupted: jobs and their children end, what they opened is closed, nothing is left half-written.

A closed terminal sends SIGHUP, a batch system or `kill` SIGTERM; Python would end at once, without closing anything.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

log = logging.getLogger("mjd")

# Set by the Snakefile: the process whose jobs these are.
PARENT_VARIABLE = "MJD_SNAKEMAKE_PID"
# Seconds in which further signals are taken for the same interruption: a terminal and Snakemake may both send one.
SAME_INTERRUPTION = 10.0


class Stopped(SystemExit):
    """The process was told to end; exit status 128 + signal, as a shell has it."""


@contextlib.contextmanager
def closing_on_signals() -> Iterator[None]:
    """In the block SIGTERM and SIGHUP raise `Stopped`, so that `finally` clauses run; SIGINT does so too.

    A second signal after 10 seconds ends the process at once. Signals that are ignored (nohup) stay ignored. The
    process also gets a SIGTERM when the Snakemake process that started it has ended, however it did.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    first: list[float] = []

    def stop(number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not first:
            first.append(now)
            log.warning("stopped by %s: closing what is open", signal.Signals(number).name)
            raise Stopped(128 + number)
        if now - first[0] > SAME_INTERRUPTION:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, stop)
    ended = threading.Event()
    _watch_parent(ended)
    try:
        yield
    finally:
        ended.set()
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch_parent(ended: threading.Event) -> None:
    """Send this process a SIGTERM when Snakemake is gone, until `ended` is set."""
    named = os.environ.get(PARENT_VARIABLE, "")
    if not named.isdigit() or not _is_ancestor(int(named)):
        return

    def watch() -> None:
        while not ended.wait(1):
            if not _is_alive(int(named)):
                log.warning("Snakemake (process %s) is gone: this job ends too", named)
                os.kill(os.getpid(), signal.SIGTERM)
                return

    threading.Thread(target=watch, daemon=True).start()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return _state(process) != "Z"


def _state(process: int) -> str:
    """State of a process in Linux's letters; "" where there is no /proc."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def _is_ancestor(process: int) -> bool:
    """Whether a process is one of this one's ancestors: in a container its number may be another's."""
    here = os.getppid()
    while here > 1:
        if here == process:
            return True
        try:
            here = int(Path(f"/proc/{here}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError, ValueError):
            return _is_alive(process) and not Path("/proc/self/stat").exists()
    return False


def end_jobs_on_signals(local: bool) -> None:
    """For Snakemake's own process: SIGTERM, SIGHUP and SIGINT end local jobs, and the run as Ctrl-C ends it.

    Snakemake by itself waits for running jobs to finish on SIGTERM, and leaves them and its lock behind on SIGHUP.

    Args:
        local: whether its jobs are its children; those of a cluster are cancelled by the executor.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        for one in handled:
            signal.signal(one, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C does not wait for jobs
        if local:
            _end_children()
        raise KeyboardInterrupt

    handled = [
        number
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
        if signal.getsignal(number) is not signal.SIG_IGN
    ]
    for number in handled:
        signal.signal(number, stop)


def _end_children() -> None:
    import psutil  # Snakemake's

    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            child.terminate()
