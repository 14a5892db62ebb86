"""Adapter of rule distributions."""

from mjd import schemas
from mjd.data.items import train_items
from mjd.distributions import from_counts, uniform
from mjd.io import read_parquet, write_parquet
from mjd.job import job, labels_of, provenance

with job(snakemake):
    labels = labels_of(snakemake)
    items = train_items(read_parquet(snakemake.input.data_items))
    for name, output in snakemake.output.items():
        distribution = uniform(items, labels) if name == "uniform" else from_counts(items, name, labels)
        write_parquet(distribution, output, schemas.distributions(labels), provenance(snakemake, distribution=name))
