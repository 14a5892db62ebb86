"""Adapter of rule bias."""

from mjd.analyses import bias
from mjd.config.analyses import Statistics
from mjd.io import read_parquet, write_csv, write_parquet
from mjd.job import job, labels_of, provenance, unanswered_prompts
from mjd.settings import check
from mjd.systems import decode

with job(snakemake):
    params, labels = snakemake.params, labels_of(snakemake)
    table = bias.bias_table(
        decode(params.systems + params.all_orders),
        [read_parquet(path) for path in [*snakemake.input.scores, *snakemake.input.all_orders]],
        labels,
        check(Statistics, params.statistics, "statistics"),
        params.seed,
        params.data_set,
        unanswered_prompts(snakemake).drops,
    )
    write_parquet(table, snakemake.output.parquet, bias.schema(len(labels)), provenance(snakemake))
    write_csv(table, snakemake.output.csv)
