"""Adapter of rule finetune."""

from mjd import schemas
from mjd.classifiers.finetuning import finetune_systems
from mjd.classifiers.runs import FineTuningJob, FineTuningRun
from mjd.config.classifiers import FineTuning
from mjd.io import read_parquet, write_parquet
from mjd.job import encoder_settings, job, labels_of, parallel_runs, provenance, unanswered_prompts
from mjd.settings import check
from mjd.systems import decode

with job(snakemake):
    params = snakemake.params
    encoder = encoder_settings(snakemake)
    systems = {system.slug: system for system in decode(params.systems)}
    targets = {slug: read_parquet(path) for slug, path in zip(systems, snakemake.input.targets, strict=True)}
    shared = FineTuningJob(
        snakemake.input.base,
        read_parquet(snakemake.input.data_items),
        labels=labels_of(snakemake),
        text_fields=params.text_fields,
        **encoder,
        settings=check(FineTuning, params.training, "finetuning"),
        waiting_dir=params.waiting,
    )
    # Human label distributions have every item; MJDs may lack some that no prompt of was answered.
    drops = unanswered_prompts(snakemake).drops
    runs = [
        FineTuningRun(slug, targets[slug], seed, checkpoint, may_lack_items=drops and systems[slug].kind == "mjd")
        for (slug, seed), checkpoint in zip(params.runs, snakemake.output.checkpoints, strict=True)
    ]
    history = finetune_systems(shared, runs, parallel_runs(snakemake, encoder["device"]))
    write_parquet(
        history,
        snakemake.output.history,
        schemas.training_history(),
        provenance(
            snakemake,
            model=params.encoder["identity"],
            seeds=params.seeds,
            truncated=history.attrs["truncated"],
        ),
    )
