"""The engine vllm as far as it goes without vLLM: the interpreter, and the tokens of the Transformers engine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mjd.config.files import read_config
from mjd.config.llms import Llm
from mjd.errors import ModelError
from mjd.llm.base import EngineResources, GenerateRequest, Message
from mjd.llm.vllm.engine import VllmEngine, Worker, find_python, worker_environment
from tests.unit.llm.tiny_llms import save_tiny_llm

CONFIG = read_config("config/config.yaml")


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MJD_VLLM_PYTHON", raising=False)


def test_an_interpreter_without_vllm_is_an_error_with_the_cure() -> None:
    with pytest.raises(ModelError, match=r"No vLLM is installed for .*make vllm.*MJD_VLLM_PYTHON"):
        find_python(sys.executable)


def test_an_interpreter_that_does_not_run_is_named() -> None:
    with pytest.raises(ModelError, match=r"/no/python cannot be run"):
        find_python("/no/python")


def test_the_environment_comes_before_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MJD_VLLM_PYTHON", "/no/other")
    with pytest.raises(ModelError, match="/no/other"):
        find_python("/no/python")


def test_a_worker_without_vllm_says_what_it_lacks() -> None:
    settings = Llm(title="x", model="x", engine="vllm")
    with pytest.raises(ModelError, match=r"worker died \(exit status 1\): ModuleNotFoundError.*vllm"):
        Worker(sys.executable, {}, worker_environment(settings, 1))


def test_worker_sees_no_modules_of_the_jobs_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed mjd lies in a site-packages whose torch would come before vLLM's own."""
    (tmp_path / "vllm.py").write_text("raise RuntimeError('a module of the job')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    environment = worker_environment(Llm(title="x", model="x", engine="vllm"), 1)
    assert "PYTHONPATH" not in environment
    with pytest.raises(ModelError, match=r"ModuleNotFoundError.*vllm"):
        Worker(sys.executable, {}, environment)


READY = "sys.stdin.readline(); print('{\"ready\": true}', flush=True)"


def worker(directory: Path, program: str, ready: str = READY) -> Worker:
    """A worker that runs `program` instead of vLLM's once it has said that it is ready."""
    interpreter = directory / "python"
    interpreter.write_text(f"#!{sys.executable}\nimport json, os, sys\n{ready}\n{program}\n")
    interpreter.chmod(0o755)
    return Worker(str(interpreter), {}, dict(os.environ))


def test_what_a_worker_says_may_be_in_any_encoding(tmp_path: Path) -> None:
    said = "sys.stdin.readline(); os.write(2, b'Fehler: \\xfc\\n' * 9999); print('{\"index\": 0}', flush=True)"
    talking = worker(tmp_path, said)
    assert list(talking.ask([{}])) == [{"index": 0}]
    talking.close()


def test_a_dead_worker_can_be_closed(tmp_path: Path) -> None:
    dead = worker(tmp_path, "sys.exit(3)")
    dead._process.wait()
    with pytest.raises(ModelError, match="exit status 3"):
        list(dead.ask([{"prompt": list(range(300))}] * 200))
    dead.close()


GRANDCHILD = """
import subprocess, sys, time
from pathlib import Path
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
Path("{folder}/pids").write_text(str(child.pid))
"""


def is_over(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def wait_until_over(process: int) -> bool:
    for _ in range(100):
        if is_over(process):
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc")
def test_job_told_to_end_while_vllm_starts_ends_it_and_its_processes(tmp_path: Path) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(3)
    try:
        with pytest.raises(KeyboardInterrupt):
            worker(tmp_path, GRANDCHILD.format(folder=tmp_path) + "time.sleep(600)", ready="")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert wait_until_over(int((tmp_path / "pids").read_text()))


@pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc")
def test_worker_that_is_closed_at_work_ends_at_once_with_its_processes(tmp_path: Path) -> None:
    started = worker(tmp_path, GRANDCHILD.format(folder=tmp_path) + "time.sleep(600)")
    while not (tmp_path / "pids").exists():
        time.sleep(0.1)
    started._owed = 1
    begun = time.monotonic()
    started.close()
    assert time.monotonic() - begun < 10
    assert wait_until_over(int((tmp_path / "pids").read_text()))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc")
def test_worker_ends_with_a_killed_job(tmp_path: Path) -> None:
    job = (
        "import subprocess, sys, time\n"
        "program = 'import os, threading, time; from mjd.llm.vllm.worker import _end_with_parent; '"
        "'threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start(); time.sleep(600)'\n"
        "child = subprocess.Popen([sys.executable, '-c', program], start_new_session=True)\n"
        "print(child.pid, flush=True); time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", job], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        time.sleep(1)
        assert not is_over(child)
        process.kill()
        assert wait_until_over(child)


def test_replies_to_a_call_that_was_left_are_not_taken_for_the_next(tmp_path: Path) -> None:
    echo = "for line in sys.stdin:\n    for one in json.loads(line): print(json.dumps(one), flush=True)"
    echoing = worker(tmp_path, echo)
    assert next(echoing.ask([{"call": 1}] * 3)) == {"call": 1}
    assert list(echoing.ask([{"call": 2}])) == [{"call": 2}]
    echoing.close()


def test_an_answer_that_max_length_might_cut_off_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mjd.llm.vllm.engine.vllm_version", lambda *_, **__: "1")
    settings = Llm(title="x", model="x", engine="vllm", vllm={"max_length": 60})
    engine = VllmEngine(save_tiny_llm(tmp_path), settings, "tiny", EngineResources())
    with pytest.raises(ModelError, match=r"may have 72 tokens, but vllm\.max_length is 60.*Raise vllm\.max_length"):
        next(engine.generate([GenerateRequest((Message("user", "?"),), 48)]))


def test_the_users_environment_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "7")
    found = worker_environment(Llm(title="x", model="x", engine="vllm"), 1)
    assert (found["VLLM_CPU_KVCACHE_SPACE"], found["VLLM_NO_USAGE_STATS"]) == ("7", "1")
