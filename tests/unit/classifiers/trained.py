"""What tests of training share: where to train, the text fields, and predictions of a saved model."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from mjd.classifiers.model import encode, load_encoder, predict
from mjd.labels import LabelSet

CPU = torch.device("cpu")
FIELDS = ["premise", "hypothesis"]


def saved_predictions(directory: Path, frame: pd.DataFrame, labels: LabelSet) -> np.ndarray:
    model, tokenizer = load_encoder(directory, labels, pretrained_head=True, seed=0, device=CPU)
    return predict(model, encode(tokenizer, frame, FIELDS, 64))
