"""Adapter of rule load_pairs."""

from mjd import schemas
from mjd.config import PairsData, Task
from mjd.data.loaders import load_pairs
from mjd.io import write_parquet
from mjd.job import job, provenance, source_directories
from mjd.settings import check

with job(snakemake):
    task = check(Task, snakemake.params.task, "task")
    data = check(PairsData, snakemake.params.data, "data.pairs")
    pairs = load_pairs(data, task, source_directories(snakemake.input.sources))
    write_parquet(
        pairs, snakemake.output[0], schemas.pairs(task.text_fields), provenance(snakemake, loader=data.loader)
    )
