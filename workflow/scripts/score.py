"""Adapter of rule score."""

from mjd import schemas
from mjd.data.items import train_items
from mjd.estimators.first_token import score_items
from mjd.estimators.item_prompts import PromptSettings
from mjd.estimators.label_mass import warn_of_low_mass
from mjd.io import read_parquet, write_parquet
from mjd.job import config_of, engine_of, job, labels_of, provenance, unanswered_prompts
from mjd.llm.store.files import LocalScores
from mjd.llm.store.paid import PaidReplies
from mjd.llm.store.replies import Store
from mjd.llm.usage import UsageTracker
from mjd.prompts.templates import prompts_from

with job(snakemake), Store(snakemake.params.store) as store:
    params, wildcards = snakemake.params, snakemake.wildcards
    settings = PromptSettings(
        prompts=prompts_from(params.prompts),
        labels=labels_of(snakemake),
        text_fields=tuple(params.text_fields),
        mode=wildcards.mode,
        orders=params.orders,
        seed=params.seed,
    )
    items = train_items(read_parquet(snakemake.input.data_items))[: params.first_items]
    explanations = read_parquet(snakemake.input.explanations) if snakemake.input.get("explanations") else None
    what, tracker = f"{wildcards.llm} {wildcards.source}-{wildcards.selection}-{wildcards.mode}", UsageTracker()
    unanswered = unanswered_prompts(snakemake)
    with engine_of(snakemake, store) as engine:
        cache = PaidReplies(store) if engine.is_paid else LocalScores(params.local, engine.score_kind)
        scores = score_items(engine, items, explanations, settings, cache, tracker, what, unanswered)
    warn_of_low_mass(scores, config_of(snakemake).analyses.label_mass_warning, what)
    about = provenance(snakemake, engine=engine, tracker=tracker, score=engine.score_kind, **unanswered.provenance())
    write_parquet(scores, snakemake.output[0], schemas.scores(settings.labels), about)
