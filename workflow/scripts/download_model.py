"""Adapter of rule download_model."""

from pathlib import Path

from mjd.data.models import fetch_model
from mjd.job import job, log
from mjd.registry import ModelEntry
from mjd.settings import check

with job(snakemake):
    values = dict(snakemake.params.entry)
    identity = values.pop("identity", None)  # of a local model: runs this job again when its content changes
    entry = check(ModelEntry, values, f"model {snakemake.wildcards.model}")
    if identity:
        log.info("%s is %s", entry.origin, identity)
    fetch_model(entry, Path(snakemake.output[0]), blobs=Path(snakemake.params.blobs))
