"""Adapter of rule convergence."""

from pathlib import Path

from mjd.analyses import convergence
from mjd.config.analyses import Statistics
from mjd.data.items import train_items
from mjd.io import read_parquet, write_csv, write_parquet
from mjd.job import job, labels_of, provenance
from mjd.report.figures import plot_convergence
from mjd.settings import check
from mjd.systems import decode

with job(snakemake):
    params, output = snakemake.params, snakemake.output
    table = convergence.convergence_table(
        decode(params.systems),
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
