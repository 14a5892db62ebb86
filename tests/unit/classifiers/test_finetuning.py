"""Fine-tuning on every system's soft labels: the best step kept, runs in several processes, runs that were stopped."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from mjd import io, schemas
from mjd.classifiers import finetuning as finetune
from mjd.classifiers import runs as one_run
from mjd.classifiers.finetuning import finetune_systems
from mjd.classifiers.resume import FinishedRuns
from mjd.classifiers.runs import FineTuningJob, FineTuningRun
from mjd.classifiers.training import train_base
from mjd.config.classifiers import BaseClassifier, FineTuning
from mjd.distributions import from_counts
from mjd.errors import DataError, ModelError
from mjd.evaluation.metrics import cross_entropy, f1, majority
from mjd.labels import LabelSet
from mjd.runtime.locks import only_process
from tests.unit.classifiers.trained import CPU, FIELDS, saved_predictions

Train = Callable[..., pd.DataFrame]


# -- fine-tuning -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tiny_bert: Path, nli_labels: LabelSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base classifier that has seen one step."""
    directory = tmp_path_factory.mktemp("classifier") / "base"
    pairs = pd.DataFrame({"premise": ["rain fell"], "hypothesis": ["it is never so"], "label": ["c"]})
    train_base(
        tiny_bert,
        pairs,
        directory,
        labels=nli_labels,
        text_fields=FIELDS,
        max_length=64,
        device=CPU,
        settings=BaseClassifier.model_validate({"epochs": 1}),
        seed=1,
    )
    return directory


@pytest.fixture
def train(base: Path, nli_labels: LabelSet, toy_items: pd.DataFrame, tmp_path: Path) -> Train:
    """Fine-tune on `targets` (default: the HJD as system `hjd`) into `tmp_path/system-seed`; returns the history."""

    def run(
        targets: dict[str, pd.DataFrame] | None = None,
        items: pd.DataFrame = toy_items,
        seeds: tuple[int, ...] = (1,),
        processes: int = 1,
        **settings: float,
    ) -> pd.DataFrame:
        targets = targets or {"hjd": from_counts(items, "hjd", nli_labels)}
        defaults = {"epochs": 5, "learning_rate": 2e-3, "batch_size": 4, "evaluate_every": 4}
        chosen = FineTuning.model_validate(defaults | settings)
        job = FineTuningJob(base, items, nli_labels, FIELDS, 64, CPU, chosen, tmp_path / "waiting")
        runs = [
            FineTuningRun(slug, target, seed, tmp_path / f"{slug}-{seed}", may_lack_items=slug.startswith("mjd"))
            for seed in seeds
            for slug, target in targets.items()
        ]
        return finetune_systems(job, runs, processes)

    return run


def set_hjd(items: pd.DataFrame, split: str, value: float | list[float]) -> pd.DataFrame:
    """A copy of `items` with every `hjd_*` of one split replaced."""
    changed = items.copy()
    changed.loc[changed["split"] == split, ["hjd_e", "hjd_n", "hjd_c"]] = value
    return changed


def test_history_has_its_schema(train: Train) -> None:
    assert io.to_table(train(), schemas.training_history()).num_rows == 4


def test_dev_is_scored_at_intervals_and_at_the_end(train: Train) -> None:
    assert train(epochs=3, evaluate_every=4)["step"].tolist() == [4, 8, 9]


def test_last_step_is_scored_once_if_the_interval_divides(train: Train) -> None:
    assert train(epochs=4, evaluate_every=4)["step"].tolist() == [4, 8, 12]


def test_every_run_has_one_best_step(train: Train) -> None:
    history = train(seeds=(1, 2))
    assert history.groupby(["system", "seed"])["is_best"].sum().tolist() == [1, 1]


@pytest.mark.slow
def test_train_loss_falls(train: Train) -> None:
    history = train(epochs=30, evaluate_every=9)
    assert history["train_loss"].iloc[-1] < history["train_loss"].iloc[0] - 0.1


def test_best_step_has_the_highest_macro_f1(train: Train) -> None:
    history = train(epochs=8, evaluate_every=2)
    assert history.loc[history["is_best"], "dev_macro_f1"].item() == history["dev_macro_f1"].max()


def test_macro_f1_ties_go_to_the_lower_dev_loss(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_run, "f1", lambda *_: 0.5)
    history = train(evaluate_every=2)
    assert history.loc[history["is_best"], "dev_loss"].item() == history["dev_loss"].min()


def test_steps_tied_in_f1_and_loss_go_to_the_earlier_one(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_run, "f1", lambda *_: 0.5)
    monkeypatch.setattr(one_run, "cross_entropy", lambda *_: np.ones(1))
    assert train()["is_best"].tolist() == [True, False, False, False]


def test_weights_of_the_best_step_are_saved(
    train: Train, toy_items: pd.DataFrame, nli_labels: LabelSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.1, 0.9, 0.3, 0.2])
    monkeypatch.setattr(one_run, "f1", lambda *_: next(scores))
    best = train().query("is_best")["dev_loss"].item()
    dev = toy_items[toy_items["split"] == "dev"]
    p = saved_predictions(tmp_path / "hjd-1", dev, nli_labels)
    assert cross_entropy(dev[["hjd_e", "hjd_n", "hjd_c"]], p).mean() == pytest.approx(best, abs=1e-9)


def test_macro_f1_is_taken_against_the_majority_of_the_dev_hjd(
    train: Train, toy_items: pd.DataFrame, nli_labels: LabelSet, tmp_path: Path
) -> None:
    # All dev items to neutral: the gold majority differs from the training labels.
    items = set_hjd(toy_items, "dev", [0.3, 0.4, 0.3])
    best = train(items=items).query("is_best")["dev_macro_f1"].item()
    p = saved_predictions(tmp_path / "hjd-1", items[items["split"] == "dev"], nli_labels)
    assert best == pytest.approx(f1([1] * 12, majority(p), 3, "macro"))


def test_fine_tuning_is_deterministic(train: Train) -> None:
    pd.testing.assert_frame_equal(train(), train(), check_exact=True)


def test_saved_weights_are_deterministic(
    train: Train, toy_items: pd.DataFrame, nli_labels: LabelSet, tmp_path: Path
) -> None:
    found = []
    for _ in range(2):
        train()
        found.append(saved_predictions(tmp_path / "hjd-1", toy_items, nli_labels))
    assert np.array_equal(found[0], found[1])


def test_runs_of_different_seeds_differ(train: Train) -> None:
    history = train(seeds=(1, 2))
    first, second = (history.loc[history["seed"] == seed, "dev_loss"].tolist() for seed in (1, 2))
    assert first != second


@pytest.mark.slow
def test_systems_of_one_seed_start_alike_and_see_the_same_batches(
    train: Train, toy_items: pd.DataFrame, nli_labels: LabelSet
) -> None:
    hjd = from_counts(toy_items, "hjd", nli_labels)
    history = train({"one": hjd, "two": hjd})
    first, second = (history.loc[history["system"] == slug, "dev_loss"].tolist() for slug in ("one", "two"))
    assert first == second


def test_targets_are_joined_on_uid(train: Train, toy_items: pd.DataFrame, nli_labels: LabelSet) -> None:
    hjd = from_counts(toy_items, "hjd", nli_labels)
    listed, shuffled = train({"hjd": hjd}), train({"hjd": hjd.sample(frac=1, random_state=0)})
    pd.testing.assert_frame_equal(listed, shuffled, check_exact=True)


def test_missing_target_names_item_and_system(train: Train, toy_items: pd.DataFrame, nli_labels: LabelSet) -> None:
    hjd = from_counts(toy_items, "hjd", nli_labels)
    with pytest.raises(DataError, match="System varierr: item train-3 has no distribution"):
        train({"varierr": hjd[hjd["uid"] != "train-3"]})


def test_system_that_lacks_items_trains_as_on_the_others_alone(
    train: Train, toy_items: pd.DataFrame, nli_labels: LabelSet, caplog: pytest.LogCaptureFixture
) -> None:
    """MJDs under `unanswered: drop`."""
    hjd = from_counts(toy_items, "hjd", nli_labels)
    lacking = ["train-3", "train-7"]
    partial = train({"mjd": hjd[~hjd["uid"].isin(lacking)]})
    assert "trained on 10 of 12 items" in caplog.text
    alone = train({"mjd": hjd}, items=toy_items[~toy_items["uid"].isin(lacking)])
    pd.testing.assert_frame_equal(partial, alone, check_exact=True)


@pytest.mark.slow
def test_runs_in_worker_processes_give_the_same_histories_in_order(
    train: Train, toy_items: pd.DataFrame, nli_labels: LabelSet
) -> None:
    hjd = from_counts(toy_items, "hjd", nli_labels)
    targets = {"hjd": hjd, "uniform": hjd.assign(p_e=1 / 3, p_n=1 / 3, p_c=1 / 3)}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = train(targets, seeds=(1, 2))
    finally:
        torch.set_num_threads(threads)
    pd.testing.assert_frame_equal(train(targets, seeds=(1, 2), processes=2), alone, check_exact=True)


@pytest.mark.slow
def test_workers_end_with_a_killed_job() -> None:
    job = (
        "import os, time, loky; from mjd.classifiers.finetuning import _start_worker\n"
        "pool = loky.ProcessPoolExecutor(1, initializer=_start_worker, initargs=(None, os.getpid()))\n"
        "print(pool.submit(os.getpid).result(), flush=True); pool.submit(time.sleep, 600).result()"
    )
    with subprocess.Popen([sys.executable, "-c", job], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        process.kill()
        try:
            process.communicate(timeout=20)  # ends when nobody can write there any more
        except subprocess.TimeoutExpired:
            os.kill(worker, signal.SIGKILL)
            pytest.fail("the worker lives on")


@pytest.mark.slow
@pytest.mark.parametrize("change", [{}, {"learning_rate": 1e-3}], ids=["same job", "other settings"])
def test_stopped_job_goes_on_from_its_finished_runs(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, float]
) -> None:
    whole = train(seeds=(1, 2, 3), **change)
    shutil.rmtree(tmp_path / "hjd-1")
    run, trained = one_run._finetune, []

    def finetune_run(*given: Any, stop_at: int) -> pd.DataFrame:
        trained.append(1)
        if len(trained) == stop_at:
            raise KeyboardInterrupt
        return run(*given)

    monkeypatch.setattr(one_run, "_finetune", functools.partial(finetune_run, stop_at=3))
    with pytest.raises(KeyboardInterrupt):
        train(seeds=(1, 2, 3))
    assert not (tmp_path / "hjd-1").exists()
    trained.clear()
    monkeypatch.setattr(one_run, "_finetune", functools.partial(finetune_run, stop_at=0))
    again = train(seeds=(1, 2, 3), **change)
    assert len(trained) == (3 if change else 1)
    pd.testing.assert_frame_equal(again, whole, check_exact=True)
    assert {path.name for path in tmp_path.iterdir()} == {"hjd-1", "hjd-2", "hjd-3"}


def test_second_job_on_the_same_runs_is_refused(train: Train, tmp_path: Path) -> None:
    message = rf"fine-tuning in .*waiting is being done by process {os.getpid()} on"
    with only_process(tmp_path / "waiting.lock", "fine-tuning"), pytest.raises(DataError, match=message):
        train()
    train()


def test_job_killed_while_it_hands_runs_over_keeps_them_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = FinishedRuns(tmp_path / "waiting")
    for key in ("a", "b"):
        runs.put(key, pd.DataFrame({"step": [1]}), lambda directory: save_text(directory / "config.json"))
    copied = shutil.copytree

    def one_only(*given: Any, **more: Any) -> Any:
        if str(given[0]).endswith("b"):
            raise KeyboardInterrupt
        return copied(*given, **more)

    outputs = {key: tmp_path / "checkpoints" / key for key in ("a", "b")}
    monkeypatch.setattr(shutil, "copytree", one_only)
    with pytest.raises(KeyboardInterrupt):
        runs.hand_over(outputs)
    monkeypatch.undo()
    assert all(runs.history(key) is not None for key in ("a", "b"))
    runs.hand_over(outputs)
    assert all((output / "config.json").read_text() == "{}" for output in outputs.values())
    assert not (tmp_path / "waiting").exists()


def save_text(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_text("{}")


@pytest.mark.slow
def test_interrupted_job_ends_its_workers_at_once(tmp_path: Path) -> None:
    job = (
        "import os, sys, time, signal\n"
        "from mjd.classifiers import finetuning as finetune\n"
        "from mjd.runtime.interruption import closing_on_signals\n"
        "def started(job, parent):\n    print(os.getpid(), flush=True)\n"
        "finetune._start_worker = started\n"
        "finetune._run_in_worker = time.sleep\n"
        "with closing_on_signals():\n"
        "    list(finetune._ended(None, [600, 600], 2))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(finetune.__file__).parents[2])}
    with subprocess.Popen([sys.executable, "-c", job], stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        workers = [int(process.stdout.readline()) for _ in range(2)]
        process.terminate()
        try:
            assert process.wait(timeout=30) == 128 + signal.SIGTERM
            process.communicate(timeout=20)  # ends when nobody can write there any more
        except subprocess.TimeoutExpired:
            for one in (*workers, process.pid):
                os.kill(one, signal.SIGKILL)
            pytest.fail("the job waits for its workers")


def test_missing_dev_hjd_is_refused(train: Train, toy_items: pd.DataFrame) -> None:
    with pytest.raises(DataError, match="HJD of the dev items: item dev-12"):
        train(items=set_hjd(toy_items, "dev", np.nan))


@pytest.mark.slow
def test_test_items_are_not_used(train: Train, toy_items: pd.DataFrame) -> None:
    changed = set_hjd(toy_items, "test", np.nan)
    pd.testing.assert_frame_equal(train(), train(items=changed), check_exact=True)


@pytest.mark.parametrize("split", ["train", "dev"])
def test_missing_split_is_named(train: Train, toy_items: pd.DataFrame, split: str) -> None:
    with pytest.raises(DataError, match=f"no {split} items"):
        train(items=toy_items[toy_items["split"] != split])


@pytest.mark.parametrize("n_runs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_base_with_another_label_order_is_refused(
    base: Path, nli_labels: LabelSet, toy_items: pd.DataFrame, tmp_path: Path, n_runs: int
) -> None:
    """In this process (one run) and in worker processes (two)."""
    other = LabelSet(nli_labels.labels[::-1])
    with pytest.raises(ModelError, match="label order differs"):
        finetune_systems(
            FineTuningJob(base, toy_items, other, FIELDS, 64, CPU, FineTuning(), tmp_path / "waiting"),
            [FineTuningRun("hjd", from_counts(toy_items, "hjd", other), 1, tmp_path / "never")] * n_runs,
            processes=n_runs,
        )


# -- ties and truncation -------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("tie", [[0.4, 0.4, 0.2], [0.4, 0.2, 0.4]])
def test_dev_macro_f1_counts_any_tied_label_as_right(
    train: Train, toy_items: pd.DataFrame, nli_labels: LabelSet, tmp_path: Path, tie: list[float]
) -> None:
    items = set_hjd(toy_items, "dev", tie)
    best = train(items=items).query("is_best")
    p = saved_predictions(tmp_path / "hjd-1", items[items["split"] == "dev"], nli_labels)
    gold = np.tile([share == 0.4 for share in tie], (12, 1))
    assert best["dev_macro_f1"].item() == pytest.approx(f1(gold, majority(p), 3, "macro"))
    assert best["dev_share_ties"].item() == 1


def test_fine_tuning_truncated_texts_are_counted_and_named_once(
    train: Train, toy_items: pd.DataFrame, caplog: pytest.LogCaptureFixture
) -> None:
    items = toy_items.assign(premise=toy_items["premise"].where(toy_items["uid"] != "train-3", "rain fell " * 60))
    history = train(items=items, epochs=1)
    assert history.attrs["truncated"]["train"] == {"n": 12, "n_truncated": 1, "first_uids": ["train-3"]}
    assert history.attrs["truncated"]["dev"]["n_truncated"] == 0
    assert caplog.text.count("lose their end") == 1
    assert "train: 1 of 12 texts (8.3 %) are longer than max_length 64 and lose their end: train-3." in caplog.text


@pytest.mark.parametrize("n_runs", [1, 2])
def test_fine_tuning_without_a_base_is_a_model_error(
    nli_labels: LabelSet, toy_items: pd.DataFrame, tmp_path: Path, n_runs: int
) -> None:
    job = FineTuningJob(tmp_path / "none", toy_items, nli_labels, FIELDS, 64, CPU, FineTuning(), tmp_path / "waiting")
    runs = [FineTuningRun("hjd", from_counts(toy_items, "hjd", nli_labels), 1, tmp_path / "never")] * n_runs
    with pytest.raises(ModelError, match="none"):
        finetune_systems(job, runs, processes=n_runs)
