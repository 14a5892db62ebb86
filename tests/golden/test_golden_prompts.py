"""The prompts of the shipped configuration, word for word: a change here changes every score."""

from pathlib import Path

import pandas as pd

from mjd.config.files import read_config
from mjd.prompts.templates import Explanation, explain_prompt, score_prompts

GOLDEN = Path(__file__).with_name("prompts.txt")
UID = "synthetic-train-01"


def test_prompts_equal_the_golden_file() -> None:
    config = read_config("config/config.yaml")
    items = pd.read_csv("resources/sample/synthetic_items.csv").set_index("uid")
    texts = items.loc[UID, ["premise", "hypothesis"]].to_dict()
    human = pd.read_csv("resources/sample/synthetic_human_explanations.csv").query("uid == @UID")
    shown = [Explanation(label, text) for label, text in zip(human["label"], human["text"], strict=True)]
    parts = []
    for mode in ("plain", "implicit", "explicit"):
        last = score_prompts(config.prompts, texts, shown, config.labels, mode, "all", 1)[-1]
        parts.append(f"=== {mode}\n{last.messages[-1].content}")
    asked = explain_prompt(config.prompts, texts, config.labels["n"])[-1].content
    assert "\n".join([*parts, f"=== explain n\n{asked}"]) + "\n" == GOLDEN.read_text(encoding="utf-8")
