"""Adapter of rule published_comparison."""

from pathlib import Path

from mjd.io import read_parquet, write_csv, write_parquet
from mjd.job import job, log, provenance
from mjd.reproduction import published_comparison as comparison
from mjd.reproduction.published_tables import Comparable, read_reading
from mjd.settings import check

with job(snakemake):
    params = snakemake.params
    directory = Path(snakemake.input.reading).parent
    reading = read_reading(directory)
    table = comparison.compare_published(
        comparison.read_published(directory, reading),
        reading,
        check(Comparable, params.comparable, "comparable"),
        {name: read_parquet(snakemake.input[name]) for name in params.ours},
        params.data_set,
    )
    log.info("%d published cells: %s.", len(table), table["status"].value_counts().to_dict())
    write_parquet(table, snakemake.output.parquet, comparison.schema(), provenance(snakemake))
    write_csv(table, snakemake.output.csv)
