"""How many explanations and prompts an item has, by source."""

import pandas as pd

from mjd.labels import LabelSet
from mjd.planning.prompt_counts import explanations_per_item


def test_replaced_set_counts_as_many_explanations_as_people_wrote(nli_labels: LabelSet) -> None:
    items = pd.DataFrame({"uid": ["1", "2"]})
    human = pd.DataFrame({"uid": ["1", "1", "2"], "position": [0, 1, 0], "label": ["e", "n", "c"], "text": "Because."})
    counts = explanations_per_item("human-noise-k1-s3", None, items, human, nli_labels)
    assert counts == {"1": 2, "2": 1} == explanations_per_item("human", None, items, human, nli_labels)
