"""Checkpoints that do not load: one clear error each, whatever Transformers raises, before anything is computed."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BartConfig, BartModel, BertTokenizer

from mjd.backends.checkpoints import load_tokenizer
from mjd.classifiers.model import encode, load_encoder, predict
from mjd.config.llms import Llm
from mjd.data.models import check_model_directory
from mjd.errors import ModelError
from mjd.labels import LabelSet
from mjd.llm.base import Message, ScoreRequest
from mjd.llm.chat.tokens import ChatTokenizer
from mjd.llm.transformers.engine import TransformersEngine
from mjd.planning.progress import own_counter
from tests.unit.llm.tiny_llms import save_tiny_llm

Edit = Callable[[Path], object]
SENTENCEPIECE = b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02"
CPU = torch.device("cpu")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return save_tiny_llm(tmp_path / "tiny")


def set_keys(directory: Path, file: str, **keys: Any) -> None:
    path = directory / file
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def only_sentencepiece(directory: Path, name: str, tokenizer_class: str) -> None:
    (directory / "tokenizer.json").unlink()
    (directory / name).write_bytes(SENTENCEPIECE)
    set_keys(directory, "tokenizer_config.json", tokenizer_class=tokenizer_class)


def quantised(method: str, **more: Any) -> Edit:
    return lambda directory: set_keys(directory, "config.json", quantization_config={"quant_method": method} | more)


def load(directory: Path) -> TransformersEngine:
    return TransformersEngine(directory, Llm(title="x", model="local:mine", device="cpu"), "local@0")


@pytest.mark.parametrize(
    ("edit", "problem", "cure"),
    [
        (quantised("bitsandbytes", load_in_4bit=True), r"local:mine is quantised \(bitsandbytes\)", "bitsandbytes"),
        (
            lambda d: set_keys(d, "config.json", quantization_config={"load_in_8bit": True}),
            r"local:mine is quantised \(bitsandbytes\)",
            "bitsandbytes",
        ),
        (quantised("gptq", bits=4, group_size=128), r"local:mine is quantised \(gptq\)", "optimum"),
        (quantised("awq", bits=4, group_size=128), r"local:mine is quantised \(awq\)", "gptqmodel"),
        (quantised("compressed-tensors"), r"is quantised \(compressed-tensors\)", "compressed-tensors"),
        (quantised("mine"), r"is quantised \(mine\), which Transformers does not know", "engine: vllm"),
    ],
)
def test_quantised_checkpoint_without_its_package_names_package_and_vllm(
    tiny: Path, edit: Edit, problem: str, cure: str
) -> None:
    edit(tiny)
    with pytest.raises(ModelError, match=problem) as error:
        load(tiny)
    assert cure in error.value.cure
    assert "engine: vllm" in error.value.cure


def test_quantised_weights_without_quantization_config_are_refused(tiny: Path) -> None:
    weights = load_file(tiny / "model.safetensors")
    name = next(key for key in weights if key.endswith("q_proj.weight"))
    save_file(weights | {f"{name}_scale": torch.ones(1)}, tiny / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="holds quantised weights, but its config"):
        load(tiny)


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda d: set_keys(d, "config.json", hidden_size="a"), "local:mine cannot be loaded as .*hidden_size"),
        (lambda d: set_keys(d, "config.json", model_type="unheard-of"), "local:mine cannot be loaded as"),
        (
            lambda d: set_keys(
                d, "config.json", model_type="own", auto_map={"AutoConfig": "c.C", "AutoModelForCausalLM": "m.M"}
            ),
            "local:mine needs program code of its own, which mjd does not run",
        ),
        (lambda d: (d / "config.json").write_text("[]"), "local:mine cannot be loaded as"),
        (lambda d: (d / "tokenizer.json").write_text('{"a": 1'), "local:mine cannot be loaded as a tokenizer"),
        (lambda d: (d / "tokenizer.json").write_text('{"model": 1}'), "local:mine cannot be loaded as a tokenizer"),
        (lambda d: (d / "tokenizer_config.json").write_text("{"), "local:mine cannot be loaded as a tokenizer"),
        (lambda d: (d / "generation_config.json").write_text("[]"), "local:mine cannot be loaded as"),
        (
            lambda d: (d / "generation_config.json").write_text('{"eos_token_id": ["</s>"]}'),
            r"generation_config\.json: eos_token_id is no token id \('</s>'\)",
        ),
    ],
)
def test_damaged_or_foreign_files_give_one_model_error(tiny: Path, edit: Edit, problem: str) -> None:
    edit(tiny)
    with pytest.raises(ModelError, match=problem):
        load(tiny)


def test_encoder_decoder_is_refused_as_a_language_model(tmp_path: Path) -> None:
    """Transformers runs the decoder of a BART alone, whose attention to the encoder is left out."""
    tiny = save_tiny_llm(tmp_path / "bart")
    set_keys(tiny, "config.json", is_encoder_decoder=True)
    with pytest.raises(ModelError, match="has an encoder and a decoder") as error:
        load(tiny)
    assert error.value.cure == "Use a decoder-only model."


@pytest.mark.parametrize("has_model", [True, False])
def test_adapter_is_refused_with_the_cure(tiny: Path, has_model: bool) -> None:
    (tiny / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    if not has_model:
        (tiny / "config.json").unlink()
    with pytest.raises(ModelError, match=r"adapter \(LoRA\), which mjd does not apply.*merge_and_unload"):
        check_model_directory(tiny, "local:mine")


def test_layers_that_the_config_leaves_out_are_named(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    set_keys(tiny, "config.json", num_hidden_layers=1)
    with caplog.at_level("WARNING"):
        load(tiny)
    assert "local:mine: 9 tensors of the checkpoint are not read: model.layers.1." in caplog.text


@pytest.mark.parametrize(
    ("name", "kind"),
    [("tokenizer.model", "LlamaTokenizer"), ("spm.model", "DebertaV2Tokenizer"), ("spiece.model", "T5Tokenizer")],
)
def test_sentencepiece_tokenizer_without_packages_names_them(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    only_sentencepiece(tiny, name, kind)
    # As in the locked environment, wherever the test runs.
    for module in ("sentencepiece", "google.protobuf", "tiktoken"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModelError, match="tokenizer") as error:
        ChatTokenizer(tiny, "auto", "local:mine")
    assert f"Its only tokenizer file is {name}: install" in error.value.cure
    assert "pip install sentencepiece protobuf tiktoken" in error.value.cure
    with pytest.raises(ModelError, match="packages for it are missing"):
        check_model_directory(tiny, "local:mine")


def test_missing_tokenizer_packages_end_a_plan_and_an_encoder_alike(
    tiny: Path, tiny_bert: Path, tmp_path: Path, nli_labels: LabelSet
) -> None:
    only_sentencepiece(tiny, "tokenizer.model", "LlamaTokenizer")
    with pytest.raises(ModelError):
        own_counter(tiny, "auto", "mine")
    copy = shutil.copytree(tiny_bert, tmp_path / "encoder")
    only_sentencepiece(copy, "spm.model", "DebertaV2Tokenizer")
    with pytest.raises(ModelError):
        load_encoder(copy, nli_labels, pretrained_head=False, seed=0, device=CPU)


@pytest.mark.parametrize("kind", ["BertTokenizer", "RobertaTokenizer", "LlamaTokenizer", "GPT2Tokenizer"])
def test_tokenizer_without_vocabulary_is_refused(tiny: Path, kind: str) -> None:
    """Transformers makes an empty tokenizer where its files are missing: every text would be the same."""
    (tiny / "tokenizer.json").unlink()
    set_keys(tiny, "tokenizer_config.json", tokenizer_class=kind)
    with pytest.raises(ModelError, match="The tokenizer of mine has no vocabulary"):
        load_tokenizer(tiny, "mine")


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ messages[0].content + 1 }}", "TypeError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ messages[7].content }}", "refuses a prompt"),
        ("{{ raise_exception('no such role') }}", "no such role"),
        ("{{ messages | map('nothing') | list }}", "refuses a prompt"),
        ("{% for m in messages %", "refuses a prompt"),
        ("{{ strftime_now(3) }}", "TypeError"),
    ],
)
def test_chat_template_that_fails_in_any_way_gives_a_model_error(tiny: Path, template: str, said: str) -> None:
    (tiny / "chat_template.jinja").write_text(template)
    engine = load(tiny)
    with pytest.raises(ModelError, match=f"The chat template of local:mine refuses a prompt.*{said}|{said}"):
        list(engine.score([ScoreRequest((Message("user", "Hello"),), ("A", "B"))]))


# -- how long an encoder reads ---------------------------------------------------------------------------------------

LONG = pd.DataFrame({"uid": ["u1"], "premise": ["it is perhaps so " * 60], "hypothesis": ["rain fell"]})
FIELDS = ("premise", "hypothesis")


def without_longest(origin: Path, target: Path) -> Path:
    """A copy whose tokenizer does not say how long its model's inputs may be."""
    copy = shutil.copytree(origin, target)
    path = copy / "tokenizer_config.json"
    kept = {key: value for key, value in json.loads(path.read_text()).items() if key != "model_max_length"}
    path.write_text(json.dumps(kept))
    return copy


@pytest.mark.parametrize("name", ["tiny_bert", "tiny_roberta"])
def test_encoder_whose_tokenizer_has_no_longest_input_takes_it_from_its_positions(
    request: pytest.FixtureRequest, tmp_path: Path, nli_labels: LabelSet, name: str
) -> None:
    copy = without_longest(request.getfixturevalue(name), tmp_path / name)
    model, tokenizer = load_encoder(copy, nli_labels, pretrained_head=False, seed=0, device=CPU)
    with pytest.raises(ModelError, match="max_length is 65, but this encoder takes at most 64 tokens"):
        encode(tokenizer, LONG, FIELDS, 65)
    longest = encode(tokenizer, LONG, FIELDS, 64)
    assert longest.lengths.tolist() == [64]
    assert predict(model, longest).shape == (1, 3)


def test_encoder_with_relative_positions_has_no_longest_input(
    tiny_deberta: Path, tmp_path: Path, nli_labels: LabelSet
) -> None:
    copy = without_longest(tiny_deberta, tmp_path / "deberta")
    model, tokenizer = load_encoder(copy, nli_labels, pretrained_head=False, seed=0, device=CPU)
    longest = encode(tokenizer, LONG, FIELDS, 100)
    assert longest.lengths.tolist() == [100]
    assert predict(model, longest).shape == (1, 3)


def test_encoder_whose_positions_have_an_offset_leaves_it_out(
    tiny_bert: Path, tmp_path: Path, nli_labels: LabelSet
) -> None:
    size = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
    size |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    tokens = BertTokenizer.from_pretrained(tiny_bert)
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 3}
    BartModel(BartConfig(vocab_size=len(tokens), max_position_embeddings=40, **size, **ids)).save_pretrained(tmp_path)
    tokens.save_pretrained(tmp_path)
    _, tokenizer = load_encoder(tmp_path, nli_labels, pretrained_head=False, seed=0, device=CPU)
    assert tokenizer.model_max_length == 40
