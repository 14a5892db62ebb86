"""Adapter of rule distribution_comparison."""

from mjd.config.analyses import Statistics
from mjd.data.items import train_items
from mjd.evaluation import comparison
from mjd.io import read_parquet, read_provenance, write_csv, write_parquet
from mjd.job import job, labels_of, provenance, unanswered_prompts
from mjd.settings import check
from mjd.systems import decode

with job(snakemake):
    params = snakemake.params
    systems = decode(params.systems)
    paths = dict(zip([system.slug for system in systems], snakemake.input.distributions, strict=True))
    transforms = {slug: read_provenance(path).get("transform", {}) for slug, path in paths.items()}
    table = comparison.compare(
        train_items(read_parquet(snakemake.input.data_items)),
        systems,
        {slug: read_parquet(path) for slug, path in paths.items()},
        labels_of(snakemake),
        check(Statistics, params.statistics, "statistics"),
        params.seed,
        params.data_set,
        {
            slug: how.get("temperatures", [how["temperature"]])
            for slug, how in transforms.items()
            if "temperature" in how
        },
        unanswered_prompts(snakemake).drops,
    )
    write_parquet(table, snakemake.output.parquet, comparison.schema(), provenance(snakemake))
    write_csv(comparison.for_people(table), snakemake.output.csv, digits=5)
