"""Adapter of rule finetune."""

from mjd import schemas
from mjd.config import FineTuning
from mjd.finetune import finetune_systems
from mjd.io import read_parquet, write_parquet
from mjd.job import encoder_settings, job, labels_of, provenance
from mjd.settings import check

with job(snakemake):
    params = snakemake.params
    runs = [(system, seed) for system, seed in params.runs]
    history = finetune_systems(
        snakemake.input.base,
        read_parquet(snakemake.input.data_items),
        {slug: read_parquet(path) for slug, path in zip(params.systems, snakemake.input.targets, strict=True)},
        dict(zip(runs, snakemake.output.checkpoints, strict=True)),
        labels=labels_of(snakemake),
        text_fields=params.text_fields,
        **encoder_settings(snakemake),
        settings=check(FineTuning, params.training, "finetuning"),
        seeds=params.seeds,
    )
    write_parquet(
        history,
        snakemake.output.history,
        schemas.training_history(),
        provenance(snakemake, model=params.encoder["identity"], seeds=params.seeds),
    )
