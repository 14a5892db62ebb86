"""Adapter of rule selection_agreement."""

from pathlib import Path

from mjd.data.items import train_items
from mjd.io import read_parquet, write_csv, write_parquet
from mjd.job import job, labels_of, provenance
from mjd.registry import PublishedSet
from mjd.reproduction import selection_agreement as agreement
from mjd.reproduction.published_answers import load_published_selections
from mjd.settings import check

with job(snakemake):
    params, labels = snakemake.params, labels_of(snakemake)
    items = train_items(read_parquet(snakemake.input.data_items))
    human_explanations = read_parquet(snakemake.input.human_explanations)
    published = [
        one
        for (name, entry), answers, directory in zip(
            params.sets.items(), snakemake.input.answers, snakemake.input.selections, strict=True
        )
        for one in load_published_selections(
            name,
            check(PublishedSet, entry, f"published set {name}"),
            Path(directory),
            read_parquet(answers),
            items,
            human_explanations,
            params.guided_by,
            labels,
            params.text_fields,
        )
    ]
    compared, differing = agreement.compare_selections(published, labels, params.data_set)
    origin = provenance(snakemake)
    write_parquet(compared, snakemake.output.agreement, agreement.agreement_schema(), origin)
    write_csv(compared, snakemake.output.agreement_csv)
    write_parquet(differing, snakemake.output.disagreements, agreement.disagreements_schema(), origin)
    write_csv(differing, snakemake.output.disagreements_csv)
