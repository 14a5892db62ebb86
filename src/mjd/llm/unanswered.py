"""Prompts of a job that got no usable reply: counted, listed, and then either the job's error or left out."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any, Literal

from mjd.errors import ModelError
from mjd.llm.base import Unanswered

log = logging.getLogger(__name__)

Policy = Literal["stop", "drop"]
# Prompts and items that an error or warning names; the log names all.
SHOWN = 10


@dataclass
class UnansweredPrompts:
    """The unanswered prompts of one job.

    Attributes:
        policy: `stop` or `drop`, the configuration's `unanswered`.
        prompts: (which prompt, why), one for each.
        dropped: counts of what tables lack because of unanswered prompts, by name, for provenance.
    """

    policy: Policy = "stop"
    prompts: list[tuple[str, Unanswered]] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)

    @property
    def drops(self) -> bool:
        return self.policy == "drop"

    def add(self, which: str, found: Unanswered) -> None:
        """Note and log a prompt."""
        self.prompts.append((which, found))
        log.warning("no usable reply to %s: %s", which, found.reason)

    def settle(self, what: str, n_prompts: int) -> None:
        """End the job, or go on without the prompts.

        Args:
            what: the job's work, for the message.
            n_prompts: all of its prompts.

        Raises:
            ModelError: the policy is `stop`; or a prompt failed that nothing was said about; or none was answered.
        """
        n, cut = len(self.prompts), self.prompts[:SHOWN]
        if not n:
            return
        listed = "; ".join(f"{which}: {found.reason}" for which, found in cut) + ("; ..." if n > SHOWN else "")
        outages = sum(not found.is_final for _, found in self.prompts)
        if not self.drops or outages or n >= n_prompts:
            cure = "Everything else is kept: run again to ask for these alone"
            if not outages and n < n_prompts:
                cure += ", or set unanswered: drop to make tables without them"
            failed = f" ({outages} of them failed for good: nothing was answered)" if outages else ""
            raise ModelError(f"{what}: {n} of {n_prompts} prompts got no usable reply{failed}: {listed}.", f"{cure}.")
        self.dropped["unanswered_prompts"] = self.dropped.get("unanswered_prompts", 0) + n
        log.warning("%s: %d of %d prompts got no usable reply and are left out (unanswered: drop)", what, n, n_prompts)

    def leave_out(self, name: str, which: list[str], what: str) -> None:
        """Count and log things that tables lack."""
        if which:
            self.dropped[name] = self.dropped.get(name, 0) + len(which)
            shown = ", ".join(which[:SHOWN]) + (", ..." if len(which) > SHOWN else "")
            log.warning("%d %s (unanswered: drop): %s", len(which), what, shown)

    def provenance(self) -> dict[str, Any]:
        """The counts; empty where nothing is missing."""
        return dict(self.dropped)
