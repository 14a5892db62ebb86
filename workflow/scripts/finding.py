"""Adapter of rule finding."""

from mjd import finding
from mjd.io import read_parquet
from mjd.job import job, log

with job(snakemake):
    for line in finding.lines(read_parquet(snakemake.input[0])):
        log.info("%s", line)
