"""Fixtures shared by the unit tests: NLI labels, toy tables, and tiny encoders with real tokenizers."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    DebertaV2Config,
    DebertaV2Model,
    DebertaV2Tokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    RobertaConfig,
    RobertaModel,
    RobertaTokenizer,
)

from mjd.labels import LabelSet, label_set

# -- labels and tables -------------------------------------------------------------------------------------------

# The hypothesis word that gives the label away, so that a tiny classifier can learn the toy task.
CLUES = {"e": "certainly", "n": "perhaps", "c": "never"}
SCENES = [
    "a nurse pushes an empty bed",
    "two boys throw a red ball over the old garden wall",
    "the council met",
    "an old man reads the newspaper on a bench near the harbour every single morning",
    "the baker opens her shop before sunrise",
    "rain fell",
    "a dog waits for the train with its owner",
    "the parcel reached us on tuesday and some of the jars had survived",
]


@pytest.fixture(scope="session")
def nli_labels() -> LabelSet:
    """Entailment, neutral, contradiction with keys e, n, c."""
    names = {"e": "entailment", "n": "neutral", "c": "contradiction"}
    return label_set({"key": key, "name": name} for key, name in names.items())


@pytest.fixture
def toy_pairs() -> pd.DataFrame:
    """24 labelled pairs (schema `pairs`), 8 a label."""
    rows = [
        {"uid": f"pair-{key}{index}", "premise": scene, "hypothesis": f"it is {clue} so", "label": key}
        for index, scene in enumerate(SCENES)
        for key, clue in CLUES.items()
    ]
    return pd.DataFrame(rows)


@pytest.fixture
def toy_items(toy_pairs: pd.DataFrame) -> pd.DataFrame:
    """36 items (schema `items`), 12 each of train, dev and test; the HJD favours the clue's label with 0.8."""
    rows = []
    for position, pair in enumerate(pd.concat([toy_pairs, toy_pairs[:12]]).to_dict("records")):
        split = ("train", "dev", "test")[position // 12]
        hjd = {f"hjd_{key}": 0.8 if key == pair["label"] else 0.1 for key in CLUES}
        texts = {field: pair[field] for field in ("premise", "hypothesis")}
        rows.append({"uid": f"{split}-{position}", **texts, **hjd, "split": split})
    return pd.DataFrame(rows)


@pytest.fixture
def toy_ood(toy_pairs: pd.DataFrame) -> pd.DataFrame:
    """Two rounds of 9 items (schema `ood`)."""
    parts = [toy_pairs[:9].assign(round="R1"), toy_pairs[9:18].assign(round="R2")]
    return pd.concat(parts, ignore_index=True)[["uid", "round", "premise", "hypothesis", "label"]]


# -- tiny encoders -----------------------------------------------------------------------------------------------

SENTENCES = [*SCENES, *(f"it is {clue} so" for clue in CLUES.values())]
# Large initial weights make predictions differ visibly between items, and training fast.
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "initializer_range": 0.2,
}


def _save_encoder(
    directory: Path, architecture: type[PreTrainedModel], config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase
) -> Path:
    """Write an encoder without a head and with its tokenizer; weights are drawn under a fixed seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = architecture(config)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model directory of a tiny BERT with a trained WordPiece tokenizer: [CLS] a [SEP] b [SEP], two token types."""
    trained = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    trained.normalizer = normalizers.BertNormalizer()
    trained.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trained.train_from_iterator(SENTENCES, trainers.WordPieceTrainer(vocab_size=200, special_tokens=special))
    tokenizer = BertTokenizer(vocab=trained.get_vocab(), model_max_length=64)
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **SIZES)
    return _save_encoder(tmp_path_factory.mktemp("tiny-bert"), BertModel, config, tokenizer)


@pytest.fixture(scope="session")
def tiny_roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model directory of a tiny RoBERTa with a trained byte-level BPE: <s> a </s></s> b </s>, no token types."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trained.train_from_iterator(
        SENTENCES, trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    )
    merges = [tuple(merge) for merge in json.loads(trained.to_str())["model"]["merges"]]
    tokenizer = RobertaTokenizer(vocab=trained.get_vocab(), merges=merges, model_max_length=64)
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=66,
        type_vocab_size=1,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **SIZES,
    )
    return _save_encoder(tmp_path_factory.mktemp("tiny-roberta"), RobertaModel, config, tokenizer)


@pytest.fixture(scope="session")
def tiny_deberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model directory of a tiny DeBERTa-v2 with a trained Unigram tokenizer and relative attention."""
    trained = Tokenizer(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    trained.train_from_iterator(
        SENTENCES, trainers.UnigramTrainer(vocab_size=200, special_tokens=special, unk_token="[UNK]")
    )
    vocab = [(token, score) for token, score in json.loads(trained.to_str())["model"]["vocab"]]
    tokenizer = DebertaV2Tokenizer(vocab=vocab, model_max_length=64)
    config = DebertaV2Config(
        vocab_size=len(tokenizer),
        max_position_embeddings=64,
        type_vocab_size=0,
        relative_attention=True,
        position_buckets=16,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        pad_token_id=tokenizer.pad_token_id,
        **SIZES,
    )
    return _save_encoder(tmp_path_factory.mktemp("tiny-deberta"), DebertaV2Model, config, tokenizer)


@pytest.fixture(params=["tiny_bert", "tiny_roberta", "tiny_deberta"])
def tiny_encoder(request: pytest.FixtureRequest) -> Path:
    """Each tiny encoder in turn."""
    directory: Path = request.getfixturevalue(request.param)
    return directory
