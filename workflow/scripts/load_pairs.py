"""Adapter of rule load_pairs."""

from mjd import schemas
from mjd.config.data import PairsData, Task
from mjd.data.loaders import load_pairs
from mjd.data.overlap import items_overlap, report_entry
from mjd.io import read_parquet, write_parquet
from mjd.job import job, provenance, source_directories
from mjd.settings import check

with job(snakemake):
    task = check(Task, snakemake.params.task, "task")
    data = check(PairsData, snakemake.params.data, "data.pairs")
    pairs = load_pairs(data, task, source_directories(data.loader, snakemake.input.sources))
    items = read_parquet(snakemake.input.data_items) if snakemake.input.data_items else None
    overlap = items_overlap(pairs, items, task.text_fields, data.path or data.loader, "pairs")
    origin = provenance(snakemake, loader=data.loader, **report_entry(overlap))
    write_parquet(pairs, snakemake.output[0], schemas.pairs(task.text_fields), origin)
