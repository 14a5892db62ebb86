"""Soft-label fine-tuning of the base classifier on every system, in one process or several.

Procedure: arXiv 2412.13942, section 5.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import loky
import pandas as pd
import torch

from mjd import schemas
from mjd.classifiers.evaluation import warn_of_near_ties
from mjd.classifiers.model import encode, encoder_tokenizer, warn_of_truncation
from mjd.classifiers.resume import FinishedRuns
from mjd.classifiers.runs import EndedRun, FineTuningJob, FineTuningRun, RunTrainer, hjd_of, items_of
from mjd.logs import Progress
from mjd.runtime.locks import only_process

log = logging.getLogger(__name__)


def finetune_systems(job: FineTuningJob, runs: Sequence[FineTuningRun], processes: int = 1) -> pd.DataFrame:
    """Fine-tune the base classifier on each run's soft labels.

    Every run starts from the same base weights; runs of one seed see the same batches in the same order. The dev set
    is scored every `settings.evaluate_every` steps and after the last; the step with the best macro-F1 against the
    majority label of the dev HJD, any of them where several tie, is kept (equal F1: lower dev loss, then earlier) and
    saved. Test items are not used.

    Many small runs keep several processes with one thread each busier than one process with several threads, and their
    numbers do not depend on how many there are. Model directories are written when all runs have ended; a run that
    ended before the job was killed is not trained again.

    Args:
        processes: runs at a time; 1 trains in this process, with its threads.

    Returns:
        Schema `training_history`, runs in the order given: `train_loss` is the mean over the steps since the last
        evaluation, `dev_loss` the mean soft cross-entropy on dev, both in nats. Its `attrs["truncated"]` says how many
        train and dev texts lost tokens at `max_length`.

    Raises:
        DataError: no train or dev items, or a train item lacks a target or a dev item its HJD.
        ModelError: the base classifier cannot be used, or a loss is not finite.
    """
    train = items_of(job.items, "train")
    for run in runs:
        _, has = run.targets(train["uid"], job.labels)
        if len(has) < len(train):
            log.warning("%s, seed %d: trained on %d of %d items", run.slug, run.seed, len(has), len(train))
    truncated = _truncated(job)
    dev = items_of(job.items, "dev")
    warn_of_near_ties(hjd_of(dev, job.labels), dev["uid"], "dev")
    history: list[pd.DataFrame] = []
    outputs: dict[str, str | Path] = {}
    waiting = Path(job.waiting_dir)
    lock = only_process(waiting.with_name(f"{waiting.name}.lock"), f"fine-tuning in {waiting}")
    with lock, Progress("fine-tuning", len(runs), "runs") as progress:
        for run, ended in zip(runs, _ended(job, runs, processes), strict=True):
            steps = ended.history
            history.append(steps.assign(system=run.slug, seed=run.seed))
            best = steps.loc[steps["is_best"], ["step", "train_loss", "dev_macro_f1", "dev_loss"]].iloc[0]
            log.info("%s, seed %d: best %s", run.slug, run.seed, best.to_dict())
            outputs[ended.key] = run.output_dir
            if ended.earlier:
                progress.cached()
            else:
                progress.done()
        FinishedRuns(waiting).hand_over(outputs)
    columns = schemas.columns(schemas.training_history())
    whole = pd.concat(history, ignore_index=True)[columns] if history else pd.DataFrame(columns=columns)
    whole.attrs["truncated"] = truncated
    return whole


def _truncated(job: FineTuningJob) -> dict[str, dict[str, int | list[str]]]:
    """Truncated texts of train and dev, with a warning each: here, once, and not in every worker process."""
    tokenizer = encoder_tokenizer(job.base_dir)
    found = {}
    for split in ("train", "dev"):
        items = items_of(job.items, split)
        encoded = encode(tokenizer, items, job.text_fields, job.max_length)
        found[split] = warn_of_truncation(encoded.truncated, items["uid"], split, job.max_length)
    return found


def _ended(job: FineTuningJob, runs: Sequence[FineTuningRun], processes: int) -> Iterator[EndedRun]:
    """Every run, in order, as they end."""
    if processes == 1 or len(runs) < 2:
        trainer = RunTrainer(job)
        yield from map(trainer.run, runs)
        return
    # loky's workers are fresh processes (no fork of torch's threads) that leave the main script alone.
    n, given = min(processes, len(runs)), (job, os.getpid())
    pool = loky.ProcessPoolExecutor(n, initializer=_start_worker, initargs=given)
    try:
        yield from pool.map(_run_in_worker, runs)
    except BaseException:
        pool.shutdown(kill_workers=True)  # it would wait for the runs under way
        raise
    pool.shutdown()


# What a worker process was started for, and its trainer once the first run has asked for it.
_worker: dict[str, Any] = {}


def _start_worker(job: FineTuningJob, parent: int) -> None:
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)
    _worker.update(job=job)


def _end_with_parent(parent: int) -> None:
    """End this process soon after its parent, however that ended: loky's workers would go on, then wait for ever."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _run_in_worker(run: FineTuningRun) -> EndedRun:
    if "trainer" not in _worker:  # here and not at the start: an error reaches the parent as it is
        _worker["trainer"] = RunTrainer(_worker["job"])
    ended: EndedRun = _worker["trainer"].run(run)
    return ended
