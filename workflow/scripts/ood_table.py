"""Adapter of rule ood_table."""

from mjd.classifiers import tables
from mjd.classifiers.evaluation import ood_table
from mjd.io import read_parquet, write_csv, write_parquet
from mjd.job import job, labels_of, provenance
from mjd.systems import decode

with job(snakemake):
    params = snakemake.params
    ood, labels = read_parquet(snakemake.input.ood), labels_of(snakemake)
    scored = [ood_table(read_parquet(path), ood, labels) for path in snakemake.input.predictions]
    table = tables.ood(scored, decode(params.systems), params.encoders, params.confidence, params.data_set)
    write_parquet(table, snakemake.output.parquet, tables.ood_schema(), provenance(snakemake))
    write_csv(tables.ood_for_people(table), snakemake.output.csv)
