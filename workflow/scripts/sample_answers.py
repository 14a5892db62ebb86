"""Adapter of rule sample_answers."""

from mjd.analyses import first_token_agreement as first_token
from mjd.config.schema import Analyses
from mjd.data.items import train_items
from mjd.estimators.first_token import PromptSettings
from mjd.io import read_parquet, write_parquet
from mjd.job import engine_of, job, labels_of, provenance, unanswered_prompts
from mjd.llm.store.replies import Store
from mjd.llm.usage import Tally
from mjd.prompts.templates import prompts_from
from mjd.settings import check

with job(snakemake), Store(snakemake.params.store) as store:
    params = snakemake.params
    prompts, labels = prompts_from(params.prompts), labels_of(snakemake)
    variants = [
        first_token.Variant(
            slug=variant["slug"],
            settings=PromptSettings(
                prompts, labels, tuple(params.text_fields), variant["mode"], params.orders, params.seed
            ),
            explanations=read_parquet(variant["explanations"]) if variant["explanations"] else None,
            scores=read_parquet(variant["scores"]),
        )
        for variant in params.variants
    ]
    tally, unanswered = Tally(), unanswered_prompts(snakemake)
    with engine_of(snakemake, store) as engine:
        answers = first_token.sample_answers(
            engine,
            train_items(read_parquet(snakemake.input.data_items)),
            variants,
            check(Analyses, params.analyses, "analyses"),
            params.seed,
            store,
            tally,
            unanswered,
        )
    about = provenance(snakemake, engine=engine, tally=tally, **unanswered.provenance())
    write_parquet(answers, snakemake.output[0], first_token.answers_schema(), about)
