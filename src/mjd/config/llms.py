"""Configuration of language models: what runs them, what they cost, and what their jobs ask for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from mjd.llm.specs import ENGINES, EngineSpec, ScoreKind
from mjd.settings import Settings, check_known


class Resources(Settings):
    """What a job asks of the machine or cluster."""

    gpu: int = Field(
        0,
        ge=0,
        description="GPUs for the job: it sees these alone, and on one machine jobs wait for free ones. "
        "0 asks for none: the job shares whatever the machine has (device).",
    )
    mem_mb: int = Field(3500, ge=1, description="Memory in MB.")
    runtime: int = Field(240, ge=1, description="Minutes.")
    threads: int = Field(2, ge=1, description="CPU threads.")


class Vllm(Settings):
    """Engine vllm: an offline vLLM in an environment of its own (`make vllm`)."""

    python: str | None = Field(
        None, description="Interpreter that has vLLM; null finds .venv-vllm/bin/python. MJD_VLLM_PYTHON comes first."
    )
    scores: Literal["logprob", "logit"] = Field(
        "logprob", description="What a score is. logit allows the norm transform, but label_mass is null then."
    )
    tensor_parallel: int = Field(1, ge=1, description="GPUs that share one copy of the model.")
    max_length: int | None = Field(None, ge=1, description="Most tokens of a prompt and its answer; null: the model's.")
    gpu_memory_share: float = Field(0.9, gt=0, le=1, description="Share of each GPU's memory that vLLM takes.")
    quantisation: str | None = Field(None, description="vLLM's name of a quantisation, such as fp8 or awq.")
    prefix_caching: bool = Field(True, description="Compute shared beginnings of prompts once.")
    enforce_eager: bool = Field(False, description="No compiled graphs: a faster start, slower steps.")
    block_size: int | None = Field(None, ge=1, description="Tokens in a cache block; null: vLLM's choice (CPU: 32).")
    cpu_cache_gb: int = Field(1, ge=1, description="Memory of the key/value cache in GB, on CPU.")


class OpenAi(Settings):
    """Engine openai: any OpenAI-compatible endpoint. The key comes from the environment."""

    base_url: str = Field("https://api.openai.com/v1", description="The endpoint, up to and including /v1.")
    api_key_env: str | None = Field(
        "OPENAI_API_KEY", description="Environment variable that holds the key; null: the server asks for none."
    )
    concurrency: int = Field(16, ge=1, description="Most requests under way at once.")
    requests_per_minute: int | None = Field(None, ge=1, description="Limit of requests; null: none.")
    tokens_per_minute: int | None = Field(None, ge=1, description="Limit of tokens, in and out; null: none.")
    timeout: float = Field(120, gt=0, description="Seconds to wait for one reply.")
    retry_seconds: float = Field(
        600,
        ge=0,
        description="How long a request is tried again (429, 5xx, time-outs, unusable replies), pauses included.",
    )
    paid_tries: int = Field(
        3,
        ge=1,
        description="Replies that are paid for one prompt, at most, where none can be used (empty, NaN, broken off).",
    )
    max_wait: float = Field(60, gt=0, description="Longest pause between tries, unless Retry-After asks for more.")
    top_logprobs: int = Field(20, ge=2, description="Most likely first tokens asked for; a letter beyond is null.")
    merge_variants: bool | None = Field(
        None, description="The older name of letter_tokens: true is all, false is single."
    )
    max_tokens_key: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="How the endpoint calls the longest answer."
    )
    batch: bool = Field(False, description="Use the Batch API: files of requests, half the price, within a day.")
    batch_size: int = Field(5000, ge=1, le=50_000, description="Requests a batch.")
    batch_poll: float = Field(30, gt=0, description="Seconds between looks at a batch.")

    @field_validator("api_key_env")
    @classmethod
    def _names_a_variable(cls, name: str | None) -> str | None:
        if name and not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name):
            # Not quoted: it may be the key itself, which belongs neither in a message nor in config.resolved.yaml.
            raise ValueError("must be the name of an environment variable (letters, digits, _), never the key itself")
        return name or None

    @field_validator("base_url")
    @classmethod
    def _no_secret(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must be an http or https URL")
        if parts.username or parts.password or parts.query:
            raise ValueError("must hold no user, password or query: secrets come from the environment")
        return url.rstrip("/")


class Prices(Settings):
    """USD per million tokens, as the provider lists them."""

    input: float = Field(ge=0, description="Prompt tokens.")
    output: float = Field(ge=0, description="Answer tokens.")
    cached_input: float | None = Field(None, ge=0, description="Prompt tokens from the provider's cache.")
    batch_factor: float = Field(0.5, gt=0, le=1, description="What the Batch API costs in comparison.")

    def usd(self, prompt: float, output: float, cached: float = 0, batch: bool = False) -> float:
        """Price in USD of that many tokens; `cached` of the prompt tokens came from the provider's cache."""
        cached_price = self.input if self.cached_input is None else self.cached_input
        whole = (prompt - cached) * self.input + cached * cached_price + output * self.output
        return whole / 1e6 * (self.batch_factor if batch else 1)


class Rates(Settings):
    """Measured speed of the LLM with the GPUs of its `resources`; provenance of a finished job shows it."""

    prompt_tokens_per_second: float = Field(gt=0, description="Prompt tokens a second of a scoring job.")
    output_tokens_per_second: float = Field(gt=0, description="Answer tokens a second of a generating job.")

    def hours(self, prompt_tokens: float, output_tokens: float) -> float:
        """Hours for that many tokens: a generating job counts by what it writes, a scoring job by what it reads."""
        seconds = (
            output_tokens / self.output_tokens_per_second
            if output_tokens
            else prompt_tokens / self.prompt_tokens_per_second
        )
        return seconds / 3600


class Llm(Settings):
    """A language model that scores prompts or writes explanations."""

    title: str = Field(description="Name in tables, e.g. Llama3.")
    model: str = Field(description="Model id: an entry of `models` or of resources/registry/models.yaml.")
    engine: str = Field("transformers", description="What runs the model: transformers, vllm or openai.")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="Weights and activations.")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="auto: the best device present.")
    chat_template: Literal["auto", "none"] = Field(
        "auto", description="auto: the tokenizer's own, plain text where it has none; none: plain text."
    )
    chat_template_kwargs: dict[str, bool | int | float | str] = Field(
        {},
        description="Further variables of the chat template, such as enable_thinking: false; added to those of the "
        "model's registry entry.",
    )
    letter_tokens: Literal["all", "single"] = Field(
        "all",
        description="Tokens whose probabilities make a label's score. all: every single token that spells its letter "
        "(A, with a space before it, with the tokenizer's mark for one); single: the one that follows the prompt, "
        "as in the paper.",
    )
    prefix_tree: bool = Field(
        True,
        description="Compute what prompts share once (transformers engine); false, or where a model does not allow it: "
        "padded batches, or one prompt at a time.",
    )
    tokens_per_pass: int = Field(
        2048, ge=256, description="Most prompt tokens in forward passes at a time: bounds the memory; a GPU likes more."
    )
    batch_size: int = Field(24, ge=1, description="Answers generated at a time.")
    vllm: Vllm = Field(Vllm(), description="Settings of the engine vllm.")
    openai: OpenAi = Field(OpenAi(), description="Settings of the engine openai.")
    prices: Prices | None = Field(None, description="What tokens cost; needed for an API model under a budget.")
    rates: Rates | None = Field(None, description="Measured speed, for the GPU hours of the plan.")
    resources: Resources = Field(Resources(), description="What its jobs ask for.")

    @model_validator(mode="before")
    @classmethod
    def _older_name_of_letter_tokens(cls, values: Any) -> Any:
        """`openai.merge_variants` sets `letter_tokens`."""
        own = values.get("openai") if isinstance(values, Mapping) else None
        merge = own.get("merge_variants") if isinstance(own, Mapping) else getattr(own, "merge_variants", None)
        if not isinstance(merge, bool):
            return values
        chosen = "all" if merge else "single"
        if values.get("letter_tokens", chosen) != chosen:
            raise ValueError(
                f"openai.merge_variants: {str(merge).lower()} contradicts letter_tokens: drop merge_variants"
            )
        return {**values, "letter_tokens": chosen}

    @field_validator("engine")
    @classmethod
    def _known_engine(cls, engine: str) -> str:
        check_known(engine, ENGINES, "engine")
        return engine

    @model_validator(mode="after")
    def _gpus_fit(self) -> Self:
        n_gpus = self._own(self.spec.gpus_key)
        if n_gpus is not None and 0 < self.resources.gpu < n_gpus:
            raise ValueError(
                f"{self.spec.section}.{self.spec.gpus_key} is {n_gpus}, but resources.gpu is {self.resources.gpu}: "
                "a job sees no more GPUs than it asks for"
            )
        return self

    @property
    def spec(self) -> EngineSpec:
        """Traits of the engine."""
        return ENGINES[self.engine]

    def _own(self, key: str | None) -> Any:
        """A value of the engine's own section; None where the engine has no such key."""
        return getattr(getattr(self, self.spec.section), key) if self.spec.section and key else None

    @property
    def score_kind(self) -> ScoreKind:
        """What a score of this LLM is: an unnormalised logit, or a natural-log probability."""
        chosen: ScoreKind | None = self._own(self.spec.score_kind_key)
        return chosen or self.spec.score_kind

    @property
    def uses_batches(self) -> bool:
        """Whether its requests go through a Batch API, at its prices."""
        return bool(self._own(self.spec.batch_key))

    def deciding(self) -> dict[str, Any]:
        """What decides this LLM's numbers, for rule params: a change here runs its jobs again.

        Speed, connection, price and resources do not: jobs read those from the configuration.
        """
        own: dict[str, Any] = {key: self._own(key) for key in self.spec.deciding}
        if self.chat_template_kwargs:
            own["chat_template_kwargs"] = self.chat_template_kwargs
        return self.model_dump(include={"engine", "dtype", "chat_template", "letter_tokens"}) | own
