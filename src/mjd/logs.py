"""Logging to a rule's log and stderr, and progress lines for long jobs (done / cached / failed, rate, time left)."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from tqdm.auto import tqdm

log = logging.getLogger(__name__)

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
LOG_EVERY_SECONDS = 15.0
BURST_SECONDS = 0.05
# Items that a warning names.
MOST_NAMED = 10


class _LogFile(logging.FileHandler):
    """A log file that is given up when it cannot be written, as on a full disk: stderr gets every line as well."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Emptied, then appended to: a second run that is refused writes to the first one's file, and over none of it.
        path.write_bytes(b"")
        super().__init__(path, mode="a", encoding="utf-8")

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 -- logging's name
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        with contextlib.suppress(OSError):
            super().close()
        self.stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 -- closed with the handler
        _not_written(self.baseFilename, error)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            super().close()


def _not_written(path: str | Path, error: OSError) -> None:
    log.warning("The log %s cannot be written (%s): what follows is shown here alone.", path, error.strerror or error)


@contextmanager
def logging_to(path: str | Path | None, level: int = logging.INFO) -> Iterator[None]:
    """Send log records to `path` (overwritten) and to stderr for the duration of the block.

    A file that cannot be written is warned about: it keeps nobody from working.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    unwritten: OSError | None = None
    if path:
        try:
            handlers.append(_LogFile(Path(path)))
        except OSError as error:
            unwritten = error
    root = logging.getLogger()
    for handler in handlers:
        handler.setFormatter(logging.Formatter(_FORMAT, "%H:%M:%S"))
        root.addHandler(handler)
    before = root.level
    root.setLevel(level)
    logging.captureWarnings(True)
    if path and unwritten:
        _not_written(path, unwritten)
    try:
        yield
    finally:
        root.setLevel(before)
        for handler in handlers:
            root.removeHandler(handler)
            if not isinstance(handler, logging.FileHandler):
                continue
            handler.close()


def named(names: Iterable[str]) -> str:
    """The first few of some names, for warnings, and how many more there are."""
    distinct = list(dict.fromkeys(names))
    more = f" and {len(distinct) - MOST_NAMED} more" if len(distinct) > MOST_NAMED else ""
    return ", ".join(distinct[:MOST_NAMED]) + more


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Progress:
    """Progress of a long job: a bar on a terminal, and the same numbers as a log line every 15 seconds.

    Use as a context manager; call `cached(n)` for work found finished, `done(n)` and `failed(n)` as units end.
    """

    def __init__(self, what: str, total: int, unit: str = "items") -> None:
        self.what, self.total, self.unit = what, total, unit
        self.n_done = self.n_cached = self.n_failed = 0
        # Says more at the end of each line, such as money spent.
        self.note: Callable[[], str] = str
        self._log = logging.getLogger("mjd.progress")

    def __enter__(self) -> Progress:
        self._start = self._logged = self._stepped = time.monotonic()
        self._bar = tqdm(total=self.total, desc=self.what, unit=f" {self.unit}", disable=not sys.stderr.isatty())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        self._stepped = time.monotonic()
        self._log.info("%s%s", self.line(), "" if kind is None else f" -- stopped by {kind.__name__}")

    def cached(self, n: int = 1) -> None:
        self._before_step()
        self.n_cached += n
        self._after_step(n)

    def done(self, n: int = 1) -> None:
        self._before_step()
        self.n_done += n
        self._after_step(n)

    def failed(self, n: int = 1) -> None:
        self._before_step()
        self.n_failed += n
        self._after_step(n)

    def line(self) -> str:
        """The state at the last step in one line: counts, rate of fresh work, time left."""
        elapsed = max(self._stepped - self._start, 1e-9)
        rate = self.n_done / elapsed
        left = self.total - self.n_done - self.n_cached - self.n_failed
        eta = f", {_duration(left / rate)} left" if rate and left > 0 else ""
        return (
            f"{self.what}: {self.n_done} done, {self.n_cached} cached, {self.n_failed} failed of {self.total} "
            f"{self.unit} ({rate:.2f} {self.unit}/s, {_duration(elapsed)} elapsed{eta})"
        ) + (f", {note}" if (note := self.note()) else "")

    def _before_step(self) -> None:
        """Log now and then, between bursts if there are any: units of one batch end together, half of one misleads."""
        now = time.monotonic()
        is_due = now - self._logged >= LOG_EVERY_SECONDS
        if is_due and (now - self._stepped > BURST_SECONDS or now - self._logged >= 2 * LOG_EVERY_SECONDS):
            self._logged = now
            self._log.info(self.line())

    def _after_step(self, n: int) -> None:
        self._stepped = time.monotonic()
        self._bar.update(n)
        self._bar.set_postfix_str(", ".join(filter(None, (f"{self.n_cached} cached", self.note()))), refresh=False)
