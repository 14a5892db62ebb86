"""Adapter of rule mjd."""

from mjd import schemas
from mjd.config.scoring import transform_of
from mjd.estimators.calibration import judge
from mjd.io import read_parquet, read_provenance, write_parquet
from mjd.job import job, labels_of, log, provenance

with job(snakemake):
    labels = labels_of(snakemake)
    mjd, applied = judge(
        read_parquet(snakemake.input.scores),
        read_parquet(snakemake.input.data_items),
        transform_of(snakemake.params.transform),
        labels,
        snakemake.params.seed,
    )
    log.info("transform: %s", applied)
    if applied["bounded_prompts"]:
        log.warning("%d prompts lack a label's score: its upper bound is used", applied["bounded_prompts"])
    origin = read_provenance(snakemake.input.scores)
    write_parquet(
        mjd, snakemake.output[0], schemas.mjd(labels), provenance(snakemake, transform=applied, scores=origin)
    )
