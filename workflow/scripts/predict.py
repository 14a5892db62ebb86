"""Adapter of rule predict."""

from mjd import schemas
from mjd.classifiers.evaluation import predict_systems
from mjd.io import read_parquet, write_parquet
from mjd.job import encoder_settings, job, labels_of, provenance

with job(snakemake):
    params = snakemake.params
    labels = labels_of(snakemake)
    runs = [("mnli-ft-lm", params.seed), *((system, seed) for system, seed in params.runs)]
    predictions = predict_systems(
        dict(zip(runs, [snakemake.input.base, *snakemake.input.checkpoints], strict=True)),
        (snakemake.input.encoder, params.seeds),
        read_parquet(snakemake.input.data_items),
        read_parquet(snakemake.input.ood),
        labels=labels,
        text_fields=params.text_fields,
        **encoder_settings(snakemake),
    )
    write_parquet(
        predictions,
        snakemake.output[0],
        schemas.predictions(labels),
        provenance(
            snakemake,
            model=params.encoder["identity"],
            seeds=params.seeds,
            truncated=predictions.attrs["truncated"],
        ),
    )
