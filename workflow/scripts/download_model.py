"""Adapter of rule download_model."""

from pathlib import Path

from mjd.data.models import fetch_model
from mjd.job import job
from mjd.registry import ModelEntry
from mjd.settings import check

with job(snakemake):
    entry = check(ModelEntry, snakemake.params.entry, f"model {snakemake.wildcards.model}")
    fetch_model(entry, Path(snakemake.output[0]), blobs=Path(snakemake.params.blobs))
