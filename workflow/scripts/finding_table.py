"""Adapter of rule finding_table."""

from mjd.config.analyses import Statistics
from mjd.data.items import train_items
from mjd.io import read_parquet, write_csv, write_parquet
from mjd.job import job, labels_of, provenance, unanswered_prompts
from mjd.reproduction import finding
from mjd.settings import check
from mjd.systems import decode

with job(snakemake):
    params = snakemake.params
    systems = decode(params.systems)
    table = finding.finding_table(
        train_items(read_parquet(snakemake.input.data_items)),
        finding.cases(systems, params.label_guided),
        {s.slug: read_parquet(path) for s, path in zip(systems, snakemake.input.distributions, strict=True)},
        labels_of(snakemake),
        check(Statistics, params.statistics, "statistics"),
        params.seed,
        params.data_set,
        unanswered_prompts(snakemake).drops,
    )
    write_parquet(table, snakemake.output.parquet, finding.schema(), provenance(snakemake))
    write_csv(table, snakemake.output.csv)
