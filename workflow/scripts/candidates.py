"""Adapter of rule candidates."""

from mjd import schemas
from mjd.explanations.selection import candidates, without_answer
from mjd.io import read_parquet, read_provenance, write_parquet
from mjd.job import job, log, provenance

with job(snakemake):
    answers = read_parquet(snakemake.input[0])
    found, unfinished = candidates(answers), without_answer(answers)
    log.info("%d candidates, %d of them refusals", len(found), int(found["is_refusal"].sum()))
    origin = read_provenance(snakemake.input[0])
    about = provenance(snakemake, answers=origin) | ({"end_within_reasoning": unfinished} if unfinished else {})
    write_parquet(found, snakemake.output[0], schemas.candidates(), about)
