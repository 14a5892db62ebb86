"""First-token log-probabilities by vLLM with prefix caching; started by scoring.py with vLLM's own interpreter.

    VLLM_PYTHON benchmarks/vllm_scoring.py INPUT.json OUTPUT.json

INPUT holds model (directory), letters (token ids) and items (for each the token ids of its prompts); OUTPUT gets for
each item seconds and logprobs [n_prompts, n_letters], and the peak memory of vLLM's processes in bytes.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": f"0-{(os.cpu_count() or 1) - 1}",
}


def peak_bytes() -> int:
    """Peak resident memory of this process and those it started, added up (Linux)."""
    import psutil

    total = 0
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        with open(f"/proc/{process.pid}/status", encoding="ascii") as status:
            total += sum(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
    return total


def main(given: dict[str, Any]) -> dict[str, Any]:
    from vllm import LLM, SamplingParams

    longest = max(len(ids) for item in given["items"] for ids in item)
    llm = LLM(
        model=given["model"],
        dtype="float32",
        enforce_eager=True,
        block_size=32,
        enable_prefix_caching=True,
        max_model_len=longest + 64,
    )
    sampling = SamplingParams(max_tokens=1, temperature=0, logprob_token_ids=given["letters"])

    def score(item: list[list[int]]) -> list[list[float]]:
        outputs = llm.generate([{"prompt_token_ids": ids} for ids in item], sampling, use_tqdm=False)
        return [[one.outputs[0].logprobs[0][token].logprob for token in given["letters"]] for one in outputs]

    score([ids[: len(ids) // 2] for ids in given["items"][0][:4]])  # warm up
    llm.reset_prefix_cache()
    found = []
    for number, item in enumerate(given["items"], start=1):
        start = time.perf_counter()
        logprobs = score(item)
        found.append({"seconds": time.perf_counter() - start, "logprobs": logprobs})
        print(
            f"vllm: item {number} of {len(given['items'])}, {found[-1]['seconds']:.2f} s", file=sys.stderr, flush=True
        )
    return {"items": found, "peak_bytes": peak_bytes()}


if __name__ == "__main__":
    os.environ.update(SETTINGS)
    with open(sys.argv[1], encoding="utf-8") as file:
        result = main(json.load(file))
    with open(sys.argv[2], "w", encoding="utf-8") as file:
        json.dump(result, file)
