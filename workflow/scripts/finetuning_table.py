"""Adapter of rule finetuning_table."""

from mjd.classifiers import tables
from mjd.classifiers.evaluation import finetuning_table
from mjd.io import read_parquet, write_csv, write_parquet
from mjd.job import job, labels_of, provenance
from mjd.systems import decode

with job(snakemake):
    params, systems = snakemake.params, decode(snakemake.params.systems)
    items, labels = read_parquet(snakemake.input.data_items), labels_of(snakemake)
    scored = [finetuning_table(read_parquet(path), items, labels) for path in snakemake.input.predictions]
    trained = [
        tables.truncated_in_training(base, history, "mnli-ft-lm")
        for base, history in zip(snakemake.input.base, snakemake.input.history, strict=True)
    ]
    table = tables.finetuning(
        scored, decode(params.systems), params.encoders, params.confidence, params.data_set, trained
    )
    write_parquet(table, snakemake.output.parquet, tables.finetuning_schema(), provenance(snakemake))
    write_csv(tables.finetuning_for_people(table), snakemake.output.csv)
