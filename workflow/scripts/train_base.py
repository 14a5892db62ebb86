"""Adapter of rule train_base."""

from mjd.classifiers.training import train_base
from mjd.config.classifiers import BaseClassifier
from mjd.io import read_parquet
from mjd.job import encoder_settings, job, labels_of, provenance
from mjd.settings import check

with job(snakemake):
    params = snakemake.params
    train_base(
        snakemake.input.encoder,
        read_parquet(snakemake.input.pairs),
        snakemake.output[0],
        labels=labels_of(snakemake),
        text_fields=params.text_fields,
        **encoder_settings(snakemake),
        settings=check(BaseClassifier, params.training, "base_classifier"),
        seed=params.seed,
        about=provenance(snakemake, model=params.encoder["identity"]),
    )
