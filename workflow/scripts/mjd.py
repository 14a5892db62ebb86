"""Adapter of rule mjd."""

from mjd import schemas
from mjd.config import transform_of
from mjd.distributions import model_judgments
from mjd.io import read_parquet, read_provenance, write_parquet
from mjd.job import job, labels_of, provenance

with job(snakemake):
    labels = labels_of(snakemake)
    how = transform_of(snakemake.params.transform)
    mjd = model_judgments(read_parquet(snakemake.input.scores), how, labels)
    origin = read_provenance(snakemake.input.scores)
    write_parquet(
        mjd, snakemake.output[0], schemas.mjd(labels), provenance(snakemake, transform=how.model_dump(), scores=origin)
    )
