"""Encoders, the base classifier, and soft-label fine-tuning."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from mjd.config.llms import Resources
from mjd.settings import Settings


class Encoder(Settings):
    """A BERT- or RoBERTa-like classifier."""

    title: str = Field(description="Name in tables, e.g. BERT.")
    model: str = Field(description="Model id: an entry of `models` or of resources/registry/models.yaml.")
    max_length: int = Field(128, ge=8, description="Longest input in tokens; longer pairs are truncated.")
    parallel_runs: int | None = Field(
        None,
        ge=1,
        description="Fine-tuning runs at a time, each a process; null: one a thread on a CPU, one at a time on a GPU.",
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="auto: the best device present.")
    resources: Resources = Field(
        Resources(), description="What its jobs ask for; parallel runs add half of `mem_mb` for each beyond the first."
    )

    def result_settings(self) -> dict[str, Any]:
        """What decides this encoder's numbers beside its model, for rule params: a change here trains it again."""
        return self.model_dump(include={"max_length", "device"})

    @property
    def finetuning_mem_mb(self) -> int:
        """Memory of fine-tuning in MB: `mem_mb`, and half of it for each parallel run beyond the first."""
        runs = self.parallel_runs or (1 if self.resources.gpu else self.resources.threads)
        return self.resources.mem_mb * (1 + runs) // 2


class BaseClassifier(Settings):
    """Training of the base classifier (the paper's MNLI-FT-LM)."""

    title: str = Field("Base classifier", description="Row title in tables.")
    epochs: int = Field(3, ge=1, description="Passes over the pairs.")
    learning_rate: float = Field(2e-5, gt=0, description="Peak learning rate of AdamW.")
    batch_size: int = Field(32, ge=1, description="Pairs a step.")
    warmup_share: float = Field(0.0, ge=0, lt=1, description="Share of steps with rising learning rate.")


class FineTuning(Settings):
    """Soft-label fine-tuning of the base classifier."""

    epochs: int = Field(5, ge=1, description="Passes over the training items.")
    learning_rate: float = Field(2e-5, gt=0, description="Peak learning rate of AdamW.")
    batch_size: int = Field(4, ge=1, description="Items a step.")
    evaluate_every: int = Field(20, ge=1, description="Steps between evaluations on dev; the best step is kept.")
    seeds: int = Field(3, ge=1, description="Runs a system, with seeds seed, seed + 1, ...")
