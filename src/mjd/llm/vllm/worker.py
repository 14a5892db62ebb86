"""The process in which vLLM runs: JSON lines on standard input, JSON lines on standard output.

`mjd.llm.vllm.engine` runs this file with the interpreter of vLLM's environment, which has nothing of mjd's: it imports
only the standard library and vLLM.

The first line holds the arguments of `vllm.LLM`; it is answered by `{"ready": true}`. Each further line is a list of
requests, `{"prompt": [token ids], "sampling": {...}}`; each is answered by one line as it finishes, `{"index": n, ...}`
with `tokens` and `finish_reason`, and `logprobs` where `logprob_token_ids` were asked for.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, TextIO


def main() -> int:
    replies = _own_stdout()
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    from vllm import LLM

    llm = LLM(**json.loads(sys.stdin.readline()))
    _send(replies, {"ready": True})
    for line in sys.stdin:
        for reply in _answers(llm, json.loads(line)):
            _send(replies, reply)
    return 0


def _own_stdout() -> TextIO:
    """Standard output for replies alone: whatever else is printed, by child processes too, goes to standard error."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return replies


def _end_with_parent(parent: int) -> None:
    """End this process and those that vLLM has started soon after its parent, however that ended."""
    while os.getppid() == parent:
        time.sleep(1)
    if os.getpgid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _send(replies: TextIO, message: dict[str, Any]) -> None:
    replies.write(json.dumps(message) + "\n")
    replies.flush()


def _answers(llm: Any, requests: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Replies as requests finish; vLLM's own `generate` would hold them back until the last one has."""
    from vllm import SamplingParams, TokensPrompt

    prompts = [TokensPrompt(prompt_token_ids=request["prompt"]) for request in requests]
    sampling = [SamplingParams(**request["sampling"], detokenize=False) for request in requests]
    names = llm.enqueue(prompts, sampling, use_tqdm=False)
    # Outputs bear the part of a name before its random suffix.
    index = {name.rpartition("-")[0] or name: i for i, name in enumerate(names)}
    while llm.llm_engine.has_unfinished_requests():
        for output in llm.llm_engine.step():
            if output.finished:
                i = index[output.request_id]
                yield {"index": i, **_reply(output.outputs[0], requests[i]["sampling"].get("logprob_token_ids"))}


def _reply(answer: Any, wanted: list[int] | None) -> dict[str, Any]:
    reply = {"tokens": list(answer.token_ids), "finish_reason": answer.finish_reason}
    if wanted:
        first = answer.logprobs[0]
        reply["logprobs"] = [first[token].logprob for token in wanted]
    return reply


if __name__ == "__main__":
    sys.exit(main())
