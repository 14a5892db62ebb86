"""Adapter of rule sample_answers."""

from mjd.analyses import first_token_agreement as first_token
from mjd.config.analyses import Analyses
from mjd.data.items import train_items
from mjd.estimators.item_prompts import PromptSettings
from mjd.io import read_parquet, write_parquet
from mjd.job import config_of, engine_of, job, labels_of, provenance, unanswered_prompts
from mjd.llm.store.replies import Store
from mjd.llm.usage import Tally
from mjd.paths import Paths
from mjd.prompts.templates import prompts_from
from mjd.settings import check
from mjd.systems import decode

with job(snakemake), Store(snakemake.params.store) as store:
    params = snakemake.params
    prompts, labels = prompts_from(params.prompts), labels_of(snakemake)
    paths = Paths.of(config_of(snakemake))
    variants = [
        first_token.Variant(
            slug=system.slug,
            settings=PromptSettings(
                prompts,
                labels,
                tuple(params.text_fields),
                system.mode,  # type: ignore[arg-type] # a system that an LLM scores has one
                params.orders,
                params.seed,
            ),
            explanations=read_parquet(shown) if (shown := paths.shown_by(system)) else None,
            scores=read_parquet(paths.scores_of(system)),
        )
        for system in decode(params.systems)
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
