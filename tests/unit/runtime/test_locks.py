"""Locks: one process at a time, named in the error, released by the kernel; file systems without any."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from mjd.errors import DataError
from mjd.runtime.locks import check_locks, in_turn, only_process
from tests.workflow.conftest import ROOT

HOLD = """
import sys, time
from mjd.runtime.locks import only_process
with only_process(sys.argv[1], "scoring"):
    print("held", flush=True)
    time.sleep(60)
"""
# File systems without locks, as programs meet them: every lock fails.
NO_LOCKS = """
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <dlfcn.h>
int flock(int fd, int how) { errno = ENOLCK; return -1; }
static int passed(const char *name, int fd, int what, void *value) {
    if (what == F_SETLK || what == F_SETLKW || what == F_GETLK) { errno = ENOLCK; return -1; }
    int (*real)(int, int, void *) = dlsym(RTLD_NEXT, name);
    return real(fd, what, value);
}
#define WRAP(name) int name(int fd, int what, ...) { \\
    va_list all; va_start(all, what); void *value = va_arg(all, void *); va_end(all); \\
    return passed(#name, fd, what, value); }
WRAP(fcntl)
WRAP(fcntl64)
"""


def holder(path: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


def test_lock_held_by_another_process_is_refused_and_named(tmp_path: Path) -> None:
    path = tmp_path / "store" / "work.lock"
    process = holder(path)
    try:
        message = rf"The scoring is being done by process {process.pid} on .* since 20"
        with pytest.raises(DataError, match=message), only_process(path, "scoring"):
            pass
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    with only_process(path, "scoring"):  # nobody cleaned up: the kernel did
        pass


def test_lock_taken_in_turn_waits_for_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "paid.lock"
    process = holder(path)
    os.kill(process.pid, signal.SIGKILL)
    with in_turn(path, "asking a paid model"):
        process.wait()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_file_system_without_locks_is_named_with_its_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def none(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", none)
    monkeypatch.setattr(fcntl, "lockf", none)
    message = r"gives no file locks.*nothing was asked for"
    with pytest.raises(DataError, match=message) as error, in_turn(tmp_path / "x.lock", "asking a paid model"):
        pass
    assert "Put results_dir on a local disk" in error.value.cure
    with pytest.raises(DataError, match="gives no file locks"):
        check_locks(tmp_path, "the response store")


def test_local_work_on_a_file_system_without_locks_is_done_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    done = []
    with caplog.at_level(logging.WARNING), only_process(tmp_path / "x.lock", "fine-tuning"):
        done.append(1)
    assert done == [1]
    assert "make sure that no other run does the fine-tuning" in caplog.text


def test_directory_that_cannot_be_made_is_named_with_its_cure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"), only_process(tmp_path / "file" / "x.lock", "scoring"):
        pass


@pytest.mark.skipif(not shutil.which("gcc"), reason="needs a compiler")
def test_store_where_no_lock_works_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    source, library = tmp_path / "no_locks.c", tmp_path / "no_locks.so"
    source.write_text(NO_LOCKS)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    program = textwrap.dedent(f"""
        from mjd.errors import DataError
        from mjd.llm.store.replies import Store, one_at_a_time
        from pathlib import Path
        path = Path({str(tmp_path)!r}) / "store" / "answers.sqlite"
        for use in (lambda: Store(path).check_writable(), lambda: one_at_a_time(path, "m").__enter__()):
            try:
                use()
            except DataError as error:
                assert "gives no file locks" in str(error) and "local disk" in error.cure, error
            else:
                raise SystemExit("no error")
        """)
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "LD_PRELOAD": str(library)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False, timeout=50
    )
    assert done.returncode == 0, done.stderr + done.stdout
