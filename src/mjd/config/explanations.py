"""Where model explanations come from and how they are selected."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from mjd.settings import Settings, check_distinct

# Sources that need no label counts; each of task.label_counts adds `<name>-lg`.
BASE_SOURCES = ("none", "human", "lf")


class Sampling(Settings):
    """How explanations are generated."""

    max_new_tokens: int = Field(256, ge=1, description="Longest answer in tokens.")
    temperature: float = Field(0.0, ge=0, description="0 is greedy.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus sampling.")


class Explanations(Settings):
    """Where model explanations come from and how they are selected."""

    generator: str | list[str] = Field(
        "self",
        description="An LLM of the config, `published/llama3`, `published/gpt4o`, `self` (the scorer), or a list.",
    )
    sources: list[str] = Field(
        ["none", "human", "lf"],
        min_length=1,
        description="none, human, lf, and `<name>-lg` for each of task.label_counts.",
    )
    selections: list[Literal["first", "longest"]] = Field(["first"], min_length=1, description="Which candidates.")
    sampling: Sampling = Field(Sampling(), description="How explanations are generated.")

    @field_validator("generator", "sources", "selections")
    @classmethod
    def _distinct(cls, names: str | list[str]) -> str | list[str]:
        check_distinct(names)
        return names

    @property
    def generators(self) -> list[str]:
        return [self.generator] if isinstance(self.generator, str) else list(self.generator)
