"""How far scores can be trusted, and the uncertainty of every number."""

from __future__ import annotations

from pydantic import Field

from mjd.settings import Settings


class Analyses(Settings):
    """How far scores can be trusted, and how many orders are enough."""

    convergence_items: int = Field(
        24, ge=0, description="Items scored in all orders for the convergence and bias tables; 0 leaves them out."
    )
    convergence_source: str | None = Field(
        None, description="The source whose explanations are shown there; null: the first that shows any."
    )
    temperature: float = Field(1.0, gt=0, description="Softmax temperature of the convergence table.")
    generated_prompts: int = Field(
        30, ge=0, description="Prompts a variant that are answered in full, to compare with the first token."
    )
    generated_tokens: int = Field(16, ge=1, description="Longest such answer in tokens.")
    label_mass_warning: float = Field(
        0.5, ge=0, le=1, description="Warn of scorers whose letters hold less probability than this on average."
    )


class Statistics(Settings):
    """Uncertainty."""

    resamples: int = Field(10_000, ge=100, description="Bootstrap resamples of items.")
    confidence: float = Field(0.95, gt=0, lt=1, description="Coverage of intervals.")
