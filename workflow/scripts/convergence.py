"""Adapter of rule convergence."""

from pathlib import Path

from mjd.analyses import convergence
from mjd.config.schema import Statistics, System
from mjd.data.items import train_items
from mjd.io import read_parquet, write_csv, write_parquet
from mjd.job import job, labels_of, provenance
from mjd.report.figures import plot_convergence
from mjd.settings import check

with job(snakemake):
    params, output = snakemake.params, snakemake.output
    table = convergence.convergence_table(
        [System(**system) for system in params.systems],
        [read_parquet(path) for path in snakemake.input.scores],
        train_items(read_parquet(snakemake.input.data_items)),
        labels_of(snakemake),
        params.temperature,
        check(Statistics, params.statistics, "statistics"),
        params.seed,
        params.data_set,
    )
    write_parquet(table, output.parquet, convergence.schema(), provenance(snakemake))
    write_csv(table, output.csv, digits=5)
    plot_convergence(table, params.titles, [Path(output.svg), Path(output.png)])
