"""A proxy before an OpenAI-compatible server that replaces chosen replies by what endpoints send in their place.

The prompts decide: each request body that is new gets the next entry of `plan`, and meets it at every try until the
proxy is `healed`. What a client owes is in `owed` and `untold`: the tokens of every reply
that was sent, with `usage` or without.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.openai.servers import forward

Reply = dict[str, Any]


def _eos(reply: Reply) -> None:
    reply["choices"][0]["finish_reason"] = "eos"


def _infinite(reply: Reply) -> None:
    _with_logprobs(reply, float("-inf"))


def _nan(reply: Reply) -> None:
    _with_logprobs(reply, float("nan"))


def _with_logprobs(reply: Reply, value: float) -> None:
    first = reply["choices"][0]["logprobs"]["content"][0]
    for entry in (first, *first["top_logprobs"]):
        entry["logprob"] = value


def _empty(reply: Reply) -> None:
    reply["choices"][0]["message"]["content"] = ""
    reply["choices"][0]["logprobs"] = None


def _refusal(reply: Reply) -> None:
    """OpenAI's refusal: no content, and a field of its own."""
    reply["choices"][0]["message"] |= {"content": None, "refusal": "I cannot help with that."}
    reply["choices"][0]["logprobs"] = None


def _no_usage(reply: Reply) -> None:
    del reply["usage"]


CHANGES: dict[str, Callable[[Reply], None]] = {
    "eos": _eos,
    "infinite": _infinite,
    "nan": _nan,
    "empty": _empty,
    "refusal": _refusal,
    "no_usage": _no_usage,
}
# Azure's words; nothing is computed or billed.
CONTENT_FILTER = {
    "error": {
        "message": "The response was filtered due to the prompt triggering the content management policy.",
        "type": None,
        "param": "prompt",
        "code": "content_filter",
        "status": 400,
        "innererror": {"code": "ResponsibleAIPolicyViolation"},
    }
}
# What a client can use all the same.
HARMLESS = ("eos", "no_usage")


class _Exchange(BaseHTTPRequestHandler):
    server: InjectingProxy

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status, reply = self.server.respond(self.path, body, self.headers["Authorization"])
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


class InjectingProxy(ThreadingHTTPServer):
    """A proxy whose replies are another's, changed by `plan`.

    Args:
        upstream: the server, up to /v1.
        plan: names of `CHANGES`, `content_filter`, or None for the server's own reply; new requests take them in turn,
            after the first, which is left alone.
    """

    daemon_threads = True

    def __init__(self, upstream: str, plan: Sequence[str | None]) -> None:
        super().__init__(("127.0.0.1", 0), _Exchange)
        self.upstream, self.plan = upstream, plan
        self.healed = False
        # What each request meets, and how often it was sent.
        self.faults: dict[bytes, str | None] = {}
        self.tries: Counter[bytes] = Counter()
        # (prompt tokens, completion tokens) of every reply sent that says so, and of those that do not.
        self.owed: list[tuple[int, int]] = []
        self.untold: list[tuple[int, int]] = []
        self._lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def respond(self, path: str, body: bytes, authorization: str | None) -> tuple[int, bytes]:
        """Status and body of the reply to one request."""
        with self._lock:
            if body not in self.faults:
                place = len(self.faults) - 1
                self.faults[body] = self.plan[place % len(self.plan)] if place >= 0 else None
            self.tries[body] += 1
            fault = None if self.healed else self.faults[body]
        if fault == "content_filter":
            return 400, json.dumps(CONTENT_FILTER).encode()
        status, raw = forward(self.upstream, path, body, authorization)
        if status != 200:
            return status, raw
        reply = json.loads(raw)
        if fault in ("infinite", "nan") and not json.loads(body).get("logprobs"):
            fault = "empty"  # an answer has no numbers to spoil
        tokens = (reply["usage"]["prompt_tokens"], reply["usage"]["completion_tokens"])
        if fault:
            CHANGES[fault](reply)
        with self._lock:
            (self.owed if "usage" in reply else self.untold).append(tokens)
        return status, json.dumps(reply).encode()

    def unusable(self) -> int:
        """Requests that meet something no client can use."""
        return sum(fault not in (None, *HARMLESS) for fault in self.faults.values())

    def owed_usd(self, prompt: float, completion: float) -> float:
        """What all replies cost whoever sent them, at prices per million tokens, said or not."""
        return sum(n * prompt + m * completion for n, m in [*self.owed, *self.untold]) / 1e6
