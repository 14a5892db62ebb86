"""Adapter of rule finding."""

from mjd.io import read_parquet
from mjd.job import job, log
from mjd.reproduction import finding

with job(snakemake):
    for line in finding.lines(read_parquet(snakemake.input[0])):
        log.info("%s", line)
