"""Adapter of rule mjd."""

from mjd import schemas
from mjd.config import transform_of
from mjd.distributions import fill_bounds, model_judgments
from mjd.io import read_parquet, read_provenance, write_parquet
from mjd.job import job, labels_of, log, provenance

with job(snakemake):
    labels = labels_of(snakemake)
    how = transform_of(snakemake.params.transform)
    scores, n_bounded = fill_bounds(read_parquet(snakemake.input.scores), labels)
    if n_bounded:
        log.warning("%d of %d prompts lack a label's score: its upper bound is used", n_bounded, len(scores))
    mjd = model_judgments(scores, how, labels)
    origin = read_provenance(snakemake.input.scores)
    about = provenance(snakemake, transform=how.model_dump(), scores=origin, bounded_prompts=n_bounded)
    write_parquet(mjd, snakemake.output[0], schemas.mjd(labels), about)
