"""Adapter of rule candidates."""

from mjd import schemas
from mjd.explanations import candidates
from mjd.io import read_parquet, read_provenance, write_parquet
from mjd.job import job, log, provenance

with job(snakemake):
    found = candidates(read_parquet(snakemake.input[0]))
    log.info("%d candidates, %d of them refusals", len(found), int(found["is_refusal"].sum()))
    origin = read_provenance(snakemake.input[0])
    write_parquet(found, snakemake.output[0], schemas.candidates(), provenance(snakemake, answers=origin))
