"""Adapter of rule first_token."""

import pandas as pd

from mjd.analyses import first_token_agreement as first_token
from mjd.config.schema import System
from mjd.io import read_parquet, write_csv, write_parquet
from mjd.job import job, provenance

with job(snakemake):
    params = snakemake.params
    answers = [read_parquet(path) for path in snakemake.input.answers]
    table = first_token.first_token_table(
        [System(**system) for system in params.systems],
        [read_parquet(path) for path in snakemake.input.scores],
        pd.concat(answers) if answers else pd.DataFrame(columns=first_token.answers_schema().names),
        params.confidence,
        params.data_set,
        params.low_mass,
    )
    write_parquet(table, snakemake.output.parquet, first_token.schema(), provenance(snakemake))
    write_csv(table, snakemake.output.csv)
