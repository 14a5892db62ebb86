"""Adapter of rule published_answers."""

from pathlib import Path

from mjd import schemas
from mjd.data.items import train_items
from mjd.io import read_parquet, write_parquet
from mjd.job import job, labels_of, provenance
from mjd.registry import PublishedSet
from mjd.reproduction.published_answers import load_published_answers
from mjd.settings import check

with job(snakemake):
    published = check(PublishedSet, snakemake.params.published, f"published set {snakemake.wildcards.name}")
    answers = load_published_answers(
        published,
        Path(snakemake.input.source),
        train_items(read_parquet(snakemake.input.data_items)),
        labels_of(snakemake),
        snakemake.params.text_fields,
    )
    write_parquet(
        answers.assign(finish_reason=None),
        snakemake.output[0],
        schemas.answers(),
        provenance(snakemake, model=published.title),
    )
