"""Adapter of rule generate_explanations."""

from mjd import schemas
from mjd.config.explanations import Sampling
from mjd.data.items import train_items
from mjd.explanations.generation import generate_answers
from mjd.io import read_parquet, write_parquet
from mjd.job import engine_of, job, labels_of, provenance, unanswered_prompts
from mjd.llm.store.replies import Store
from mjd.llm.usage import UsageTracker
from mjd.prompts.templates import prompts_from
from mjd.settings import check

with job(snakemake), Store(snakemake.params.store) as store, engine_of(snakemake, store) as engine:
    tracker, unanswered = UsageTracker(), unanswered_prompts(snakemake)
    answers = generate_answers(
        engine,
        train_items(read_parquet(snakemake.input.data_items)),
        labels_of(snakemake),
        snakemake.params.text_fields,
        prompts_from(snakemake.params.prompts),
        check(Sampling, snakemake.params.sampling, "sampling"),
        snakemake.params.seed,
        store,
        tracker,
        what=f"explanations by {snakemake.wildcards.llm}",
        unanswered=unanswered,
    )
    about = provenance(snakemake, engine=engine, tracker=tracker, **unanswered.provenance())
    write_parquet(answers, snakemake.output[0], schemas.answers(), about)
