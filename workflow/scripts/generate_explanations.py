"""Adapter of rule generate_explanations."""

from mjd import schemas
from mjd.config.explanations import Sampling
from mjd.data.items import train_items
from mjd.explanations.generation import generate_answers
from mjd.io import read_parquet, write_parquet
from mjd.job import engine_of, job, labels_of, provenance, unanswered_prompts
from mjd.llm.cache import CachedEngine
from mjd.llm.store.files import LocalAnswers
from mjd.llm.store.paid import PaidReplies
from mjd.llm.store.replies import Store
from mjd.llm.usage import UsageTracker
from mjd.prompts.templates import explain_prompts_from
from mjd.settings import check

with job(snakemake), Store(snakemake.params.store) as store, engine_of(snakemake, store) as engine:
    params, tracker, unanswered = snakemake.params, UsageTracker(), unanswered_prompts(snakemake)
    cache = PaidReplies(store) if engine.is_paid else LocalAnswers(params.local, earlier=params.store)
    answers = generate_answers(
        CachedEngine(engine, cache, tracker, unanswered),
        train_items(read_parquet(snakemake.input.data_items)),
        labels_of(snakemake),
        params.text_fields,
        explain_prompts_from(params.prompts),
        check(Sampling, params.sampling, "sampling"),
        params.seed,
        what=f"explanations by {snakemake.wildcards.llm}",
    )
    about = provenance(snakemake, engine=engine, tracker=tracker, **unanswered.provenance())
    write_parquet(answers, snakemake.output[0], schemas.answers(), about)
