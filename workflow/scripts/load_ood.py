"""Adapter of rule load_ood."""

from mjd import schemas
from mjd.config import OodData, Task
from mjd.data.loaders import load_ood
from mjd.io import write_parquet
from mjd.job import job, provenance, source_directories
from mjd.settings import check

with job(snakemake):
    task = check(Task, snakemake.params.task, "task")
    data = check(OodData, snakemake.params.data, "data.ood")
    ood = load_ood(data, task, source_directories(snakemake.input.sources), snakemake.params.limit)
    write_parquet(ood, snakemake.output[0], schemas.ood(task.text_fields), provenance(snakemake, loader=data.loader))
