"""The configuration: strict keys with the nearest valid one named, references checked, systems in table order."""

import copy

import pytest
import yaml
from pydantic import ValidationError

from mjd.config.classifiers import Encoder
from mjd.config.data import Task
from mjd.config.files import load_config, read_config
from mjd.config.llms import Llm, OpenAi
from mjd.config.schema import Config
from mjd.config.scoring import FirstToken, Softmax
from mjd.errors import ConfigError
from mjd.llm.specs import ENGINES, EngineSpec
from mjd.prompts.templates import score_prompts
from mjd.settings import check
from mjd.systems import (
    mjd_systems,
)

COUNTS = {"title": "x", "guided_by": "counts"}

LABELS_7 = [{"key": f"l{n}", "name": f"label {n}"} for n in range(7)]


def values(name: str = "config.yaml") -> dict:
    with open(f"config/{name}", encoding="utf-8") as handle:
        return yaml.safe_load(handle)


def llm(**more: object) -> dict:
    """An entry of llms."""
    return {"title": "x", "model": "smollm2-135m-instruct", **more}


@pytest.mark.parametrize("name", ["config.yaml", "public.yaml", "public-all-orders.yaml", "paper.yaml"])
def test_shipped_configs_are_valid(name: str) -> None:
    assert read_config(f"config/{name}").labels.keys == ("e", "n", "c")


@pytest.mark.parametrize(
    ("path", "near"),
    [
        (("scoring", "scorrer"), "scorer"),
        (("limits",), "limit"),
        (("llms", "smollm2", "modle"), "model"),
        (("finetuning", "epoch"), "epochs"),
        (("data", "items", "human_explanation"), "human_explanations"),
    ],
)
def test_unknown_key_names_the_nearest_valid_one(path: tuple[str, ...], near: str) -> None:
    config = values()
    section = config
    for part in path[:-1]:
        section = section[part]
    section[path[-1]] = 1
    with pytest.raises(ConfigError, match=rf"unknown key '{'.'.join(path)}' \(did you mean '{near}'\?\)"):
        load_config(config)


def test_missing_key_is_named() -> None:
    config = values()
    del config["scoring"]["scorer"]
    with pytest.raises(ConfigError, match=r"key 'scoring\.scorer' is missing"):
        load_config(config)


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("scoring", {"scorer": "smollm"}, "scoring.scorer names 'smollm'.*did you mean 'smollm2'"),
        ("explanations", {"generator": "published/llama4"}, "did you mean 'published/llama3'"),
        ("explanations", {"generator": "published/llama3"}, "fits data.items.loader mjd-estimator only"),
        ("explanations", {"sources": ["none", "chaos-lg"]}, "explanations.sources names 'chaos-lg'"),
        ("main_systems", {"estimator": "norm"}, "main_systems.estimator names 'norm'"),
        ("main_systems", {"mode": "implicit"}, "main_systems.mode is 'implicit', which is not computed"),
        (
            "scoring",
            {"estimators": {"cv(5)": {"transform": {"kind": "norm"}}}},
            r"scoring\.estimators': name 'cv\(5\)' must be lower-case",
        ),
        ("task", {"label_counts": {"SNLI": COUNTS}}, r"task\.label_counts': name 'SNLI' must be lower-case letters"),
        ("task", {"label_counts": {"uniform": COUNTS}}, "name 'uniform' is taken by a distribution"),
        ("task", {"label_counts": {"hjd": COUNTS}}, "name 'hjd' is taken by a distribution"),
        ("scoring", {"scorer": []}, r"key 'scoring\.scorer': names nothing: give at least one"),
        ("scoring", {"scorer": ["smollm2", "smollm2"]}, r"'scoring\.scorer': names 'smollm2' more than once"),
        ("scoring", {"modes": ["explicit", "explicit"]}, "names 'explicit' more than once"),
        ("explanations", {"generator": []}, r"key 'explanations\.generator': names nothing"),
        ("explanations", {"sources": ["none", "none"]}, r"'explanations\.sources': names 'none' more than once"),
        ("explanations", {"selections": ["first", "first"]}, "names 'first' more than once"),
        ("task", {"text_fields": ["premise", "premise"]}, "names 'premise' more than once"),
        ("data", {"ood": {"loader": "anli-dev", "rounds": ["R1", "R1"]}}, "names 'R1' more than once"),
        ("scoring", {"orders": True}, "must be all, cyclic or a number of at least 1"),
        ("task", {"labels": LABELS_7}, r"7 labels are too many: .* all 5,040 orders .* at most 6 \(720 orders\)"),
        ("task", {"labels": [{"key": False, "name": "no"}]}, r"key 'task\.labels\.0\.key': False is no text, quote it"),
        (
            "scoring",
            {"estimators": {"softmax-t1": {"transform": {"kind": "softmax", "temprature": 1}}}},
            r"^configuration: unknown key 'scoring\.estimators\.softmax-t1\.transform\.temprature' "
            r"\(did you mean 'temperature'\?\)\. See",
        ),
        (
            "scoring",
            {"estimators": {"softmax-t1": {"transform": {"kind": "sofmax"}}}},
            r"kind names 'sofmax'.*did you mean 'softmax'",
        ),
        (
            "scoring",
            {"estimators": {"t1": {"kind": "softmax", "temperature": 1}}},
            r"is a kind of transform: write \{kind: first_token, transform: \{kind: softmax, temperature: 1\}\}",
        ),
        (
            "task",
            {"text_fields": ["uid", "premise"]},
            "text_fields names 'uid', which mjd uses itself: give the column",
        ),
        ("task", {"text_fields": ["options"]}, "text_fields names 'options', which mjd uses itself"),
        ("task", {"text_fields": ["n_votes"]}, "text_fields names 'n_votes', which mjd uses itself"),
        ("task", {"text_fields": ["hjd_e"]}, "text_fields names 'hjd_e', which mjd uses itself"),
        (
            "task",
            {"text_fields": ["Input.text"]},
            r"'Input\.text', which cannot stand in .* \(for instance 'Input_text'\)",
        ),
        ("task", {"text_fields": ["a[b]"]}, r"'a\[b\]', which cannot stand in a prompt template: rename the column"),
        ("task", {"text_fields": ["the text"]}, "'the text', which cannot stand in .*'the_text'"),
        ("task", {"text_fields": ["1st"]}, "'1st', which cannot stand in .*'text_1st'"),
        ("task", {"text_fields": ["a{b}"]}, "which cannot stand in a prompt template"),
        ("task", {"text_fields": ["a:b"]}, "which cannot stand in a prompt template"),
        ("task", {"text_fields": ["a!r"]}, "which cannot stand in a prompt template"),
        ("task", {"text_fields": [" premise"]}, "' premise', which cannot stand in .*'premise'"),
        ("task", {"text_fields": [""]}, "'', which cannot stand in .*'text'"),
        ("prompts", {"explain": "{premise:.x} {hypothesis}"}, r"prompts\.explain formats the field {premise}: write"),
        ("prompts", {"score": "{premise} {hypothesis!r} {options}"}, r"prompts\.score formats the field {hypothesis}"),
        ("scoring", {"orders": 0}, "must be all, cyclic or a number of at least 1"),
        ("prompts", {"score": "{premise} {hypothesis} {option}"}, "unknown field {option}"),
        ("prompts", {"explain": "{premise}"}, "lacks the field {hypothesis}"),
        ("prompts", {"explain": "{premise} {hypothesis"}, "prompts.explain is not a valid template"),
        ("prompts", {"explain": {"e": "{premise} {hypothesis}"}}, "needs one template for each label key .e, n, c"),
        (
            "prompts",
            {"explain": dict.fromkeys("enc", "{premise}")},
            r"prompts\.explain\.e lacks the field {hypothesis}",
        ),
        ("prompts", {"score": "{premise} {hypothesis} {option_A} {option_B}"}, "lacks the field {options}"),
        ("prompts", {"score": "{premise} {hypothesis} {options} {option_D}"}, "unknown field {option_D}"),
        ("prompts", {"label_names": {"e": "yes\nB. no"}}, r"write label 'e' as 'yes\\nB\. no', which is not one line"),
        ("prompts", {"label_names": {"e": ""}}, r"write label 'e' as '', which is not one line"),
        ("prompts", {"label_names": {"x": "Yes"}}, r"prompts\.label_names has 'x', which is no label key"),
        ("prompts", {"scor": "x"}, r"unknown key 'prompts\.scor' .did you mean 'score'"),
        ("llms", {"smollm2": {"title": "x", "model": "smolm2-135m-instruct"}}, "did you mean 'smollm2-135m-instruct'"),
        ("llms", {"smollm2": llm(engine="vlm")}, "engine names 'vlm', which does not exist .did you mean 'vllm'"),
        ("llms", {"smollm2": llm(engine="openai")}, "is no API model: it does not fit engine openai"),
        ("llms", {"smollm2": llm(model="gpt-4o")}, "is behind an API: it needs an engine for APIs \(openai"),
        ("llms", {"smollm2": llm(openai={"base_url": "https://me:key@host/v1"})}, "secrets come from the environment"),
        ("llms", {"smollm2": llm(openai={"base_url": "host/v1"})}, "must be an http or https URL"),
    ],
)
def test_bad_values_are_explained(section: str, change: dict, message: str) -> None:
    config = values()
    config[section] = {**config.get(section, {}), **change}
    with pytest.raises(ConfigError, match=message):
        load_config(config)


@pytest.mark.parametrize("field", ["class", "Prämisse", "_", "self", "format", "Input_text"])
def test_text_field_that_is_an_identifier_reaches_the_prompts(field: str) -> None:
    config = read_config("config/config.yaml").model_dump()
    config["task"]["text_fields"] = [field]
    for name, template in config["prompts"].items():
        if isinstance(template, str):
            config["prompts"][name] = template.replace("{premise}", f"{{{field}}}").replace("{hypothesis}", "")
    loaded = load_config(config)
    assert not isinstance(loaded.prompts, str)
    [first, *_] = score_prompts(loaded.prompts, {field: "{braces} and {0}"}, [], loaded.labels, "plain", "all", 1)
    assert "{braces} and {0}" in first.messages[-1].content


def test_prompts_of_public_files_are_named() -> None:
    assert load_config({**values(), "prompts": "mjd-estimator"}).prompts == "mjd-estimator"
    with pytest.raises(ConfigError, match=r"prompts names 'mjd-estimatr'.*did you mean 'mjd-estimator'"):
        load_config({**values(), "prompts": "mjd-estimatr"})


def test_prompts_of_public_files_show_two_texts() -> None:
    config = {**values(), "prompts": "mjd-estimator", "task": {"text_fields": ["comment"]}}
    with pytest.raises(ConfigError, match=r"prompts mjd-estimator show two texts, but task\.text_fields names one"):
        load_config(config)


def test_label_keys_must_differ() -> None:
    config = values()
    config["task"] = {"labels": [{"key": "e", "name": "yes"}, {"key": "e", "name": "no"}]}
    with pytest.raises(ConfigError, match="label keys must differ"):
        load_config(config)


def test_a_slash_at_the_end_of_a_directory_changes_nothing() -> None:
    config = load_config({**values(), "results_dir": "results/mine/", "downloads_dir": "downloads/"})
    assert (config.results_dir, config.downloads_dir) == ("results/mine", "downloads")


def test_config_values_cannot_be_changed() -> None:
    config: Config = read_config("config/config.yaml")
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 2  # type: ignore[misc]


API = llm(engine="openai", model="gpt-4o")


def test_a_budget_needs_prices() -> None:
    config = {**values(), "budget_usd": 5, "llms": {"smollm2": API}}
    with pytest.raises(ConfigError, match=r"budget_usd needs llms\.smollm2\.prices"):
        load_config(config)
    load_config(config | {"llms": {"smollm2": API | {"prices": {"input": 1, "output": 2}}}})


def test_main_systems_cannot_be_norm_of_log_probabilities() -> None:
    config = {**values(), "llms": {"smollm2": API}}
    config["scoring"] = config["scoring"] | {"estimators": {"norm": {"transform": {"kind": "norm"}}}}
    config["main_systems"] = config["main_systems"] | {"estimator": "norm"}
    with pytest.raises(ConfigError, match="gives log-probabilities, never positive"):
        load_config(config)


def test_scoring_transforms_of_earlier_versions_are_refused_with_the_new_spelling() -> None:
    config = values()
    config["scoring"]["transforms"] = {
        "t1": {"kind": "softmax", "temperature": 1},
        "norm": {"kind": "norm"},
        "cv": None,
    }
    config["main_systems"] = {"transform": "t1"}
    with pytest.raises(ConfigError) as caught:
        load_config(config)
    message = str(caught.value)
    assert "key 'scoring': 'transforms' has become 'estimators': replace it by estimators: " in message
    assert "key 'main_systems': 'transform' has become 'estimator': replace it by estimator: t1" in message
    spelling = message.partition("replace it by ")[2].partition("; key ")[0]
    del config["scoring"]["transforms"]
    given = yaml.safe_load(spelling)["estimators"]
    assert given["cv"] is None  # takes out what the file below has
    config["scoring"]["estimators"] = {name: entry for name, entry in given.items() if entry}
    config["main_systems"] = {"estimator": "t1"}
    assert load_config(config).scoring.estimators["t1"] == FirstToken(transform=Softmax(temperature=1))


@pytest.mark.parametrize(
    ("scoring", "message"),
    [
        ({"transforms": None}, "'transforms' has become 'estimators': delete it, and name estimators"),
        ({"transforms": {"cv": "null"}}, r"replace it by estimators: \{cv: null\}"),
        ({"estimators": {"softmax": {"kind": "norm"}}}, r"write \{kind: first_token, transform: \{kind: norm\}\}"),
        ({"estimators": {"softmax": {"transform": {"kind": "norm"}}}}, "kind norm has no temperature: .*another name"),
        ({"estimators": {"softmax": {"transform": "norm"}}}, r"norm is a kind, not a mapping: write \{kind: norm\}"),
    ],
)
def test_estimator_laid_over_a_file_in_another_spelling_is_refused_with_the_cure(scoring: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config({"extends": "config/config.yaml", "scoring": scoring})


def test_speed_prices_and_connection_decide_no_number() -> None:
    one = load_config({**values(), "llms": {"smollm2": API}}).llms["smollm2"]
    faster = API | {"openai": {"concurrency": 99}, "prices": {"input": 1, "output": 2}, "batch_size": 2}
    other = load_config({**values(), "llms": {"smollm2": faster}}).llms["smollm2"]
    elsewhere = load_config({**values(), "llms": {"smollm2": API | {"openai": {"base_url": "http://h/v1"}}}})
    assert one.result_settings() == other.result_settings()
    assert one.result_settings() != elsewhere.llms["smollm2"].result_settings()


def test_llm_named_like_a_published_set_is_refused() -> None:
    with pytest.raises(ConfigError, match="'published-llama3' begins as published sets do in paths"):
        load_config({**values(), "llms": {"published-llama3": llm()}})


def test_titles_and_meanings_are_no_settings_of_items() -> None:
    plain = read_config("config/config.yaml").task.model_dump()
    retitled = copy.deepcopy(plain) | {"hjd_title": "Crowd"}
    for entry in retitled["label_counts"].values():
        entry["title"] = "Another title"
    for label in retitled["labels"]:
        label["meaning"] = "means another thing"
    one, other = Task(**plain), Task(**retitled)
    assert (one.items_settings(), one.pairs_settings()) == (other.items_settings(), other.pairs_settings())
    renamed = copy.deepcopy(plain)
    renamed["labels"][0]["name"] = "another name"
    assert one.pairs_settings() != Task(**renamed).pairs_settings()


def test_settings_of_items_and_pairs_make_a_task() -> None:
    task = read_config("config/config.yaml").task
    assert check(Task, task.items_settings(), "task").guided_by == task.guided_by
    assert check(Task, task.pairs_settings(), "task").label_set.keys == task.label_set.keys


def test_params_of_an_encoder_hold_only_what_decides_its_numbers() -> None:
    one = Encoder(title="BERT", model="m")
    assert (
        one.result_settings()
        == Encoder(title="B.", model="m", parallel_runs=3, resources={"threads": 8}).result_settings()
    )
    assert one.result_settings() != Encoder(title="BERT", model="m", max_length=64).result_settings()
    assert one.result_settings() != Encoder(title="BERT", model="m", device="cpu").result_settings()


@pytest.mark.parametrize(
    ("settings", "mem_mb"),
    [
        ({"resources": {"mem_mb": 3000, "threads": 1}}, 3000),
        ({"resources": {"mem_mb": 3000, "threads": 4}}, 7500),
        ({"resources": {"mem_mb": 3000, "threads": 4}, "parallel_runs": 2}, 4500),
        ({"resources": {"mem_mb": 3000, "threads": 4, "gpu": 1}}, 3000),
    ],
)
def test_parallel_fine_tuning_asks_for_more_memory(settings: dict, mem_mb: int) -> None:
    assert Encoder(title="x", model="all-minilm-l6-v2", **settings).finetuning_mem_mb == mem_mb


def test_an_engine_of_ones_own_may_use_an_api_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENGINES, "mine", EngineSpec("mjd.llm.my_engine:MyEngine", "logprob"))
    own = llm(engine="mine", model="gpt-4o")
    assert load_config({**values(), "llms": {"smollm2": own}}).llms["smollm2"].engine == "mine"
    with pytest.raises(ConfigError, match=r"budget_usd needs llms\.smollm2\.prices"):
        load_config({**values(), "budget_usd": 5, "llms": {"smollm2": own}})


def test_engine_with_log_probabilities_needs_one_entry_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transforms, params, environment and plan follow its entry: nothing else asks for an engine by its name."""
    spec = EngineSpec("mjd.llm.my_engine:MyEngine", "logprob", is_paid=True, runs="api", environment="mine")
    monkeypatch.setitem(ENGINES, "mine", spec)
    config = values()
    config["llms"] = {"smollm2": llm(engine="mine", model="gpt-4o")}
    config["scoring"]["estimators"] = {**config["scoring"]["estimators"], "norm": {"transform": {"kind": "norm"}}}
    loaded = load_config(config)
    assert loaded.llms["smollm2"].score_kind == "logprob"
    assert not [system for system in mjd_systems(loaded) if system.estimator == "norm"]
    assert loaded.llms["smollm2"].result_settings().keys() == {"engine", "dtype", "chat_template", "letter_tokens"}
    with pytest.raises(ConfigError, match="is no API model: it does not fit engine mine"):
        load_config({**config, "llms": {"smollm2": llm(engine="mine")}})


def test_only_models_that_the_run_uses_are_fetched() -> None:
    public, paper = read_config("config/public.yaml"), read_config("config/paper.yaml")
    assert "qwen" in public.llms
    assert public.used_models == ["smollm2-135m-instruct", "all-minilm-l6-v2"]
    assert paper.used_models == [paper.llms["llama3"].model, *(entry.model for entry in paper.encoders.values())]


@pytest.mark.parametrize(("merge_variants", "letter_tokens"), [(True, "all"), (False, "single")])
def test_merge_variants_sets_letter_tokens(merge_variants: bool, letter_tokens: str) -> None:
    assert Llm(title="m", model="m", openai=OpenAi(merge_variants=merge_variants)).letter_tokens == letter_tokens


def test_merge_variants_that_contradicts_letter_tokens_is_refused() -> None:
    with pytest.raises(ValidationError, match="contradicts letter_tokens"):
        Llm(title="m", model="m", letter_tokens="all", openai=OpenAi(merge_variants=False))


# -- labels that a file could not tell apart --------------------------------------------------------------------------


def task_with(*labels: tuple[object, str], **more: object) -> dict:
    """The shipped configuration with other labels, without label counts."""
    task = {"labels": [{"key": key, "name": name} for key, name in labels], "label_counts": {}} | more
    config = {**values(), "task": {**values().get("task", {}), **task}}
    config["task"]["label_counts"] = {"varierr": None, "mnli": None} | dict(more.get("label_counts", {}))  # type: ignore[call-overload]
    config["explanations"] = values()["explanations"] | {"sources": ["none", "human", "lf"]}
    return config


def test_labels_keys_of_a_scale_are_accepted() -> None:
    config = load_config(task_with(("-3", "strongly against"), ("0", "neither"), ("a_b", "odd"), ("a-b", "odder")))
    assert config.labels.columns("hjd") == ["hjd_-3", "hjd_0", "hjd_a_b", "hjd_a-b"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (task_with(("0", "1"), ("1", "2"), ("2", "3")), r"'task\.labels': key '1' of label '2' is also the name of"),
        (task_with(("a", "yes"), ("b", "YES")), "label names must differ in more than case.* Rename one"),
        (task_with(("a", "yes"), ("A", "no")), "label keys must differ in more than case.* Rename one"),
        (task_with(("bound", "x"), ("free", "y")), "label key 'bound' is taken"),
        (task_with((-3, "x"), (1, "y")), r"key 'task\.labels\.0\.key': -3 is no text, quote it \(\"-3\"\)"),
        (task_with(("\u22123", "x"), ("1", "y")), r"label key '\u22123' must be .*minus sign, U\+2212; write a hyphen"),
        (task_with(("a,b", "x"), ("1", "y")), r"label key 'a,b' must be ASCII letters, digits, - and _"),
        (task_with(("--3", "x"), ("1", "y")), "label key '--3' must be"),
        (
            task_with(("b", "x"), ("a_b", "y"), label_counts={"hjd_a": COUNTS}),
            "column 'hjd_a_b' would belong to 'hjd' and to 'hjd_a'",
        ),
        (
            task_with(("Votes", "x"), ("b", "y"), label_counts={"n": COUNTS}),
            "label_counts 'n' has the column 'n_Votes', which mjd uses itself",
        ),
    ],
)
def test_labels_that_a_file_cannot_tell_apart_are_refused(config: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(config)


@pytest.mark.parametrize(
    ("label_names", "message"),
    [
        ({"e": "Neutral"}, "write labels 'e' and 'n' both as 'Neutral'"),
        ({"e": "neutral", "n": "maybe"}, "writes label 'e' as 'neutral', the name of 'n'"),
    ],
)
def test_label_names_of_prompts_that_mean_another_label_are_refused(label_names: dict, message: str) -> None:
    config = values()
    config["prompts"] = {**config.get("prompts", {}), "label_names": label_names}
    with pytest.raises(ConfigError, match=message):
        load_config(config)


@pytest.mark.parametrize(
    ("rounds", "message"),
    [
        (["R1", "r1"], "names 'R1' and 'r1', which differ in case alone"),
        (["R1", "Test"], "names 'Test', which mjd uses itself"),
        (["R1", "seeds"], "names 'seeds', which mjd uses itself"),
        (["b_r1", "r1"], "column 'a_b_r1' of tables would belong to encoder a, b_r1 and to encoder a_b, r1"),
        (["R1", "R1_sd"], "column 'a_R1_sd' of tables would belong to encoder a, R1 and to encoder a, R1_sd"),
    ],
)
def test_rounds_that_share_a_column_of_tables_are_refused(rounds: list[str], message: str) -> None:
    encoder = {"title": "x", "model": "all-minilm-l6-v2"}
    config = {**values(), "encoders": {"a": encoder, "a_b": encoder}}
    config["data"] = {**config.get("data", {}), "ood": {"loader": "anli-dev", "rounds": rounds}}
    with pytest.raises(ConfigError, match=message):
        load_config(config)


# -- values keep their type ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("limit", True, "key 'limit': true is no number"),
        ("seed", True, "key 'seed': true is no number"),
        ("budget_usd", False, "key 'budget_usd': false is no number"),
        ("budget_usd", float("nan"), "key 'budget_usd': .*finite"),
        ("finetuning.learning_rate", float("inf"), r"key 'finetuning\.learning_rate': .*finite"),
        ("finetuning.epochs", True, r"key 'finetuning\.epochs': true is no number"),
        (
            "scoring.estimators.softmax.transform.temperature",
            float("nan"),
            r"softmax\.transform\.temperature': .*finite",
        ),
        ("scoring.estimators.softmax.transform.temperature", "inf", r"softmax\.transform\.temperature': .*finite"),
        ("scoring.orders", 2.5, r"key 'scoring\.orders': must be all, cyclic or a number"),
        ("data.pairs.limit", True, r"key 'data\.pairs\.limit': true is no number"),
        ("data.synthetic", 1, r"key 'data\.synthetic': 1 is neither true nor false"),
        ("llms.smollm2.resources.gpu", True, r"resources\.gpu': true is no number"),
        ("llms.smollm2.prefix_tree", 0, r"prefix_tree': 0 is neither true nor false"),
        ("encoders", None, "key 'encoders' is null, not a mapping: give its keys, or leave it out"),
        ("analyses", 3, "key 'analyses' is 3, not a mapping"),
        ("llms.smollm2.openai.merge_variants", 1, "merge_variants': 1 is neither true nor false"),
        ("seed", 2**31, "key 'seed': Input should be less than or equal to 2147483647"),
        ("results_dir", " ", "key 'results_dir': ' ' is no directory that rules can name"),
        ("downloads_dir", "a{b}", "key 'downloads_dir': 'a{b}' is no directory that rules can name"),
    ],
)
def test_value_of_another_type_is_refused_and_not_bent(path: str, value: object, message: str) -> None:
    config = section = values()
    *parents, last = path.split(".")
    for part in parents:
        section = section.setdefault(part, {})
    section[last] = value
    with pytest.raises(ConfigError, match=message):
        load_config(config)


def test_text_of_the_command_line_is_read_as_what_it_spells() -> None:
    """Snakemake gives inner values of `--config key={...}` over as text."""
    config = values()
    config["finetuning"] |= {"epochs": "2", "learning_rate": "1e-3"}
    config["encoders"]["minilm"]["parallel_runs"] = "null"
    config["data"]["synthetic"] = "false"
    loaded = load_config(config | {"limit": "null"})
    assert (loaded.finetuning.epochs, loaded.finetuning.learning_rate) == (2, 1e-3)
    assert loaded.encoders["minilm"].parallel_runs is None
    assert loaded.limit is None
    assert loaded.data.synthetic is False


def without_encoders() -> dict:
    config = values() | {"encoders": {}}
    for name in ("pairs", "ood"):
        del config["data"][name]
    return config


def test_configuration_without_encoders_needs_no_pairs_and_rounds() -> None:
    loaded = load_config(without_encoders())
    assert (loaded.data.pairs, loaded.data.ood) == (None, None)
    assert mjd_systems(loaded)


@pytest.mark.parametrize("name", ["pairs", "ood"])
def test_encoders_without_their_data_are_refused(name: str) -> None:
    config = values()
    del config["data"][name]
    with pytest.raises(ConfigError, match=rf"encoders need data\.{name}, which is missing \(encoders: {{}} makes"):
        load_config(config)


# -- numbers of orders ---------------------------------------------------------------------------------------------


def test_orders_that_never_end_are_refused_before_items_are_known() -> None:
    labels = [{"key": f"l{n}", "name": f"label {n}"} for n in range(6)]
    config = values() | {"task": {"labels": labels, "text_fields": ["premise", "hypothesis"], "label_counts": {}}}
    config["explanations"] = config["explanations"] | {"sources": ["none", "lf"]}
    config["scoring"] = config["scoring"] | {"orders": "all"}
    message = r"source lf: 6 explanations in 720 orders.*518,400 prompts an item.*most_prompts_per_item \(20,000\)"
    with pytest.raises(ConfigError, match=message + r".*Set scoring\.orders: cyclic \(4,320 prompts an item\)"):
        load_config(config)
    config["scoring"] |= {"orders": "cyclic"}
    assert load_config(config).scoring.most_prompts_per_item == 20_000
    with pytest.raises(ConfigError, match=r"source none: 0 explanations in 1 orders"):
        load_config(config | {"scoring": config["scoring"] | {"most_prompts_per_item": 719}})
