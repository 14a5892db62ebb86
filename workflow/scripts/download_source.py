"""Adapter of rule download_source."""

from pathlib import Path

from mjd.data.download import fetch_source, mirror_directory
from mjd.job import config_of, job
from mjd.registry import Source
from mjd.settings import check

with job(snakemake):
    entry = check(Source, snakemake.params.entry | {"manifest": None}, f"source {snakemake.wildcards.source_id}")
    fetch_source(
        entry,
        Path(snakemake.output[0]),
        blobs=Path(snakemake.params.blobs),
        mirror=mirror_directory(config_of(snakemake).mirror),
    )
