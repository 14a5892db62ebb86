"""What the LLM did in one job: requests, tokens and time, for provenance and for the rates of the plan."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

from mjd.llm.base import Usage

# Without a tokenizer: few tokens of any language or vocabulary are shorter, so that the budget holds.
_BYTES_A_TOKEN = 2


@dataclass
class UsageTracker:
    """Counts of one job. Time runs from the first fresh request on, so that loading a model does not count.

    `cut_at_context_end` names the answers that the end of the model's context cut off.
    """

    cached: int = 0
    asked: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cut_at_context_end: list[str] = field(default_factory=list)
    _started: float | None = field(default=None, repr=False)
    _ended: float = field(default=0.0, repr=False)

    def start(self) -> None:
        """Fresh requests are about to be sent."""
        self._started = self._started or time.monotonic()

    def add(self, usage: Usage) -> None:
        """Count one fresh response."""
        self.asked += 1
        self.prompt_tokens += usage.prompt_tokens
        self.completion_tokens += usage.completion_tokens
        self._ended = time.monotonic()

    def provenance(self) -> dict[str, Any]:
        """The counts, and tokens per second where anything was asked."""
        seconds = self._ended - self._started if self._started and self.asked else 0.0
        counts: dict[str, Any] = {
            "cached": self.cached,
            "asked": self.asked,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "seconds": round(seconds, 3),
        }
        if seconds > 0:
            counts["prompt_tokens_per_second"] = round(self.prompt_tokens / seconds, 1)
            counts["output_tokens_per_second"] = round(self.completion_tokens / seconds, 1)
        if self.cut_at_context_end:
            counts["cut_at_context_end"] = self.cut_at_context_end
        return counts


def bytes_count(text: str) -> int:
    """Tokens of a text where no tokenizer counts them: more than there are, as a rule."""
    return math.ceil(len(text.encode()) / _BYTES_A_TOKEN)
