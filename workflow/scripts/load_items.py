"""Adapter of rule load_items."""

from mjd import schemas
from mjd.config import ItemsData, Task
from mjd.data.loaders import load_items
from mjd.io import write_parquet
from mjd.job import job, provenance, source_directories
from mjd.settings import check

with job(snakemake):
    task = check(Task, snakemake.params.task, "task")
    data = check(ItemsData, snakemake.params.data, "data.items")
    items, human_explanations = load_items(
        data, task, source_directories(snakemake.input.sources), snakemake.params.limit
    )
    origin = provenance(snakemake, loader=data.loader)
    schema = schemas.items(task.label_set, task.text_fields, list(task.label_counts))
    write_parquet(items, snakemake.output.data_items, schema, origin)
    write_parquet(human_explanations, snakemake.output.human_explanations, schemas.human_explanations(), origin)
