"""Adapter of rule plan."""

from pathlib import Path

from mjd.io import read_parquet, write_csv, write_parquet
from mjd.job import config_of, job, log, provenance
from mjd.planning import estimate as planning
from mjd.planning.progress import Finished, counters, known_answers
from mjd.prompts.templates import prompts_from

with job(snakemake):
    config = config_of(snakemake).model_copy(update={"prompts": prompts_from(snakemake.params.prompts)})
    items, human = read_parquet(snakemake.input.data_items), read_parquet(snakemake.input.human_explanations)
    paths = zip(snakemake.params.published, snakemake.input.published, strict=True)
    published = {name: read_parquet(path) for name, path in paths}
    fallback = dict(zip(snakemake.params.tokenizers, map(Path, snakemake.input.tokenizers), strict=True))
    answers = known_answers(config, items, human, published)
    jobs = planning.plan(config, items, human, answers, counters(config, fallback), Finished(config))
    summary = planning.summary(jobs)
    write_parquet(jobs, snakemake.output.parquet, planning.schema(), provenance(snakemake))
    write_csv(summary, snakemake.output.csv, digits=3)
    for line in planning.report(summary, config.budget_usd):
        log.info("%s", line)
