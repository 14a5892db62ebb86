"""Adapter of rule first_token."""

import pandas as pd

from mjd.analyses import first_token_agreement as first_token
from mjd.io import read_parquet, write_csv, write_parquet
from mjd.job import job, labels_of, provenance
from mjd.systems import decode

with job(snakemake):
    params = snakemake.params
    answers = [read_parquet(path) for path in snakemake.input.answers]
    table = first_token.first_token_table(
        decode(params.systems),
        [read_parquet(path) for path in snakemake.input.scores],
        pd.concat(answers) if answers else pd.DataFrame(columns=first_token.answers_schema().names),
        labels_of(snakemake),
        params.confidence,
        params.data_set,
        params.low_mass,
    )
    write_parquet(table, snakemake.output.parquet, first_token.schema(), provenance(snakemake))
    write_csv(table, snakemake.output.csv)
