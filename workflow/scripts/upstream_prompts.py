"""Adapter of rule upstream_prompts."""

from pathlib import Path

from mjd.data.public import ITEMS_FILE
from mjd.job import job, labels_of, provenance
from mjd.prompts.templates import write_prompts
from mjd.registry import PublishedSet
from mjd.reproduction.upstream_prompts import NOTEBOOK_FILE, read_prompts
from mjd.settings import check

with job(snakemake):
    params = snakemake.params
    prompts = read_prompts(
        Path(snakemake.input.notebook) / NOTEBOOK_FILE,
        Path(snakemake.input.data_items) / ITEMS_FILE,
        check(PublishedSet, params.published, "published set"),
        Path(snakemake.input.answers),
        labels_of(snakemake),
        params.text_fields,
    )
    write_prompts(prompts, snakemake.output[0], provenance(snakemake))
