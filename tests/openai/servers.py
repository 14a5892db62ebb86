"""Real servers of the tests: vLLM's OpenAI-compatible server, and a proxy before it that makes faults."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

MODEL = "smollm2"
KEY_VARIABLE = "MJD_TEST_API_KEY"
ANSWERED = re.compile(r'"POST /v1/chat/completions HTTP/1\.1" 200')


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class VllmServer:
    """vLLM's OpenAI-compatible server with SmolLM2; its log, over restarts, counts what it answered."""

    def __init__(self, python: str, model: Path, log: Path, key: str) -> None:
        self.python, self.model, self.log, self.key = python, model, log, key
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = {
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "0-1",
            "VLLM_API_KEY": self.key,
        }
        command = [self.python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(self.model)]
        command += ["--served-model-name", MODEL, "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--dtype", "float32", "--max-model-len", "2048", "--enforce-eager", "--block-size", "32"]
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                command, env=dict(os.environ) | environment, stdout=log, stderr=log, start_new_session=True
            )

    def wait(self) -> None:
        """Wait until the server answers."""
        deadline = time.monotonic() + 180
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5)
                return
            except OSError:
                assert self._process is not None
                assert self._process.poll() is None, self.log.read_text()[-3000:]
                assert time.monotonic() < deadline, "the server did not start in three minutes"
                time.sleep(0.3)

    def kill(self) -> None:
        """kill -9, with its engine process."""
        if self._process and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def answered(self) -> int:
        """Chat completions that the server says it answered, over all its lives."""
        return len(ANSWERED.findall(self.log.read_text(errors="replace"))) if self.log.exists() else 0


Fault = Callable[["Exchange"], bool]


class Exchange(BaseHTTPRequestHandler):
    """One request at the proxy: a fault, or the server's own reply."""

    server: FaultProxy

    def do_POST(self) -> None:
        self.body = self.rfile.read(int(self.headers["Content-Length"]))
        fault = self.server.next_fault(self.body)
        if fault is not None:
            getattr(self, f"fault_{fault}")()
            return
        status, reply = forward(self.server.upstream, self.path, self.body, self.headers["Authorization"])
        if self.server.strips_logprobs and status == 200:
            reply = without_logprobs(reply)
        self.reply(status, reply)

    def fault_rate_limit(self) -> None:
        self.reply(429, b'{"error": {"message": "slow down"}}', {"Retry-After": "1"})

    def fault_server_error(self) -> None:
        self.reply(500, b'{"error": {"message": "a hiccup"}}')

    def fault_time_out(self) -> None:
        time.sleep(self.server.hang_seconds)
        self.close_connection = True

    def fault_cut_off(self) -> None:
        """A reply that is not JSON to its end; nothing was computed for it."""
        self.reply(200, b'{"id": "x", "choices": [{"index": 0, "message": {"role": "ass')

    def fault_no_logprobs(self) -> None:
        choice = {"index": 0, "message": {"role": "assistant", "content": "A"}, "finish_reason": "length"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1}
        self.reply(200, json.dumps({"model": MODEL, "choices": [choice], "usage": usage}).encode())

    def reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


class FaultProxy(ThreadingHTTPServer):
    """A proxy before a server. The first tries of every request but the first meet one fault each, in turn.

    Args:
        upstream: the server, up to /v1.
        faults: names of `Exchange.fault_*`; each request's first try meets the next one.
        always: text of a prompt whose tries all fail.
        strips_logprobs: take log-probabilities out of every reply.
    """

    daemon_threads = True

    def __init__(
        self, upstream: str, faults: tuple[str, ...] = (), always: str | None = None, strips_logprobs: bool = False
    ) -> None:
        super().__init__(("127.0.0.1", 0), Exchange)
        self.upstream, self.faults, self.always, self.strips_logprobs = upstream, faults, always, strips_logprobs
        self.hang_seconds = 10.0
        self.tries: dict[bytes, int] = {}
        self.made: list[str] = []
        self._lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def next_fault(self, body: bytes) -> str | None:
        with self._lock:
            is_first_request = not self.tries
            self.tries[body] = self.tries.get(body, 0) + 1
            if self.always and self.always.encode() in body:
                self.made.append("server_error")
                return "server_error"
            if is_first_request or self.tries[body] > 1 or not self.faults:
                return None
            self.made.append(self.faults[len(self.made) % len(self.faults)])
            return self.made[-1]


def forward(upstream: str, path: str, body: bytes, authorization: str | None) -> tuple[int, bytes]:
    """The server's reply to one request."""
    headers = {"Content-Type": "application/json", "Authorization": authorization or ""}
    request = urllib.request.Request(upstream.removesuffix("/v1") + path, body, headers)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def without_logprobs(reply: bytes) -> bytes:
    """The reply of a server that does not know `logprobs`."""
    values = json.loads(reply)
    for choice in values["choices"]:
        choice["logprobs"] = None
    return json.dumps(values).encode()
