"""Adapter of rule load_items."""

from mjd import schemas
from mjd.config.data import ItemsData, Task
from mjd.data.items import train_items
from mjd.data.loaders import load_items
from mjd.data.overlap import items_report, report_entry
from mjd.explanations.selection import check_sources
from mjd.io import write_parquet
from mjd.job import config_of, job, provenance, source_directories
from mjd.planning.prompt_counts import check_prompts_per_item
from mjd.settings import check

with job(snakemake):
    task = check(Task, snakemake.params.task, "task")
    data = check(ItemsData, snakemake.params.data, "data.items")
    config = config_of(snakemake)
    fine_tuning = bool(config.encoders)
    items, human_explanations = load_items(
        data, task, source_directories(data.loader, snakemake.input.sources), snakemake.params.limit, fine_tuning
    )
    check_sources(snakemake.params.sources, task.guided_by, train_items(items), human_explanations, task.label_set)
    check_prompts_per_item(config, train_items(items), human_explanations)
    where = data.items or data.loader
    warnings = items_report(items, task.label_set, task.text_fields, list(task.label_counts), where)
    origin = provenance(snakemake, loader=data.loader, **report_entry(warnings))
    schema = schemas.items(task.label_set, task.text_fields, list(task.label_counts))
    write_parquet(items, snakemake.output.data_items, schema, origin)
    write_parquet(human_explanations, snakemake.output.human_explanations, schemas.human_explanations(), origin)
