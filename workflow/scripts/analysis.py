"""Adapter of the rules of analyses."""

from pathlib import Path

from mjd.analyses.base import AnalysisJob, build_analysis
from mjd.io import write_csv, write_parquet
from mjd.job import job, provenance, unanswered_prompts

with job(snakemake):
    inputs, output, params = snakemake.input, snakemake.output, snakemake.params
    analysis = build_analysis(params.analysis)
    work = AnalysisJob(dict(inputs.items()), dict(params.items()), unanswered_prompts(snakemake).drops)
    table = analysis.run(work)
    write_parquet(table, output.parquet, analysis.schema(work.labels), provenance(snakemake))
    write_csv(analysis.for_people(table), output.csv, analysis.digits)
    if figures := [Path(path) for name, path in output.items() if name in ("svg", "png")]:
        analysis.plot(table, work, figures)
