"""Traits of the engines, known without importing them. This module imports nothing of mjd.

To add an engine: a module with a class derived from `mjd.llm.base.Engine`, and an entry in `ENGINES`. Nothing else asks
for an engine by its name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ScoreKind = Literal["logit", "logprob"]


@dataclass(frozen=True)
class EngineSpec:
    """What the configuration, the rules and the plan need to know of an engine.

    Attributes:
        factory: `module:class`, imported when the engine is used.
        score_kind: what a score is: `logit` (unnormalised) or `logprob` (natural log of a probability).
        is_paid: replies cost money: all of them are kept in the response store.
        runs: the models it runs: `weights` on this machine, models behind an `api`, or `both`.
        environment: conda environment of its jobs, a file of workflow/envs.
        section: the section of an LLM's configuration with its own settings; None: it has none.
        score_kind_key: key of the section that sets another kind of score.
        result_settings: keys of the section that results depend on.
        gpus_key: key of the section with the number of GPUs that one copy of a model needs.
        batch_key: key of the section that asks for the Batch API, which has prices of its own.
    """

    factory: str
    score_kind: ScoreKind
    is_paid: bool = False
    runs: Literal["weights", "api", "both"] = "both"
    environment: str = "mjd"
    section: str | None = None
    score_kind_key: str | None = None
    result_settings: tuple[str, ...] = ()
    gpus_key: str | None = None
    batch_key: str | None = None


ENGINES = {
    "transformers": EngineSpec("mjd.llm.transformers.engine:TransformersEngine", "logit", runs="weights"),
    "vllm": EngineSpec(
        "mjd.llm.vllm.engine:VllmEngine",
        "logprob",
        runs="weights",
        environment="vllm",
        section="vllm",
        score_kind_key="scores",
        result_settings=("scores", "quantisation"),
        gpus_key="tensor_parallel",
    ),
    "openai": EngineSpec(
        "mjd.llm.openai.engine:OpenAiEngine",
        "logprob",
        is_paid=True,
        runs="api",
        section="openai",
        result_settings=("base_url", "top_logprobs"),
        batch_key="batch",
    ),
}
