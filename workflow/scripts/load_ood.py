"""Adapter of rule load_ood."""

from mjd import schemas
from mjd.config.data import OodData, Task
from mjd.data.loaders import load_ood
from mjd.data.overlap import items_overlap, report_entry
from mjd.io import read_parquet, write_parquet
from mjd.job import job, provenance, source_directories
from mjd.settings import check

with job(snakemake):
    task = check(Task, snakemake.params.task, "task")
    data = check(OodData, snakemake.params.data, "data.ood")
    ood = load_ood(data, task, source_directories(data.loader, snakemake.input.sources), snakemake.params.limit)
    items = read_parquet(snakemake.input.data_items) if snakemake.input.data_items else None
    overlap = items_overlap(ood, items, task.text_fields, data.path or data.loader, "OOD items")
    origin = provenance(snakemake, loader=data.loader, **report_entry(overlap))
    write_parquet(ood, snakemake.output[0], schemas.ood(task.text_fields), origin)
