"""Adapter of rule score."""

from mjd import schemas
from mjd.data.items import train_items
from mjd.estimators.first_token import ScoreChunks, StoredScores, score_items, warn_of_low_mass
from mjd.estimators.item_prompts import PromptSettings
from mjd.io import read_parquet, write_parquet
from mjd.job import config_of, engine_of, job, labels_of, provenance, unanswered_prompts
from mjd.llm.store.replies import Store
from mjd.llm.usage import Tally
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
    what, tally = f"{wildcards.llm} {wildcards.source}-{wildcards.selection}-{wildcards.mode}", Tally()
    unanswered = unanswered_prompts(snakemake)
    with engine_of(snakemake, store) as engine:
        cache = StoredScores(store) if engine.is_paid else ScoreChunks(params.chunks)
        scores = score_items(engine, items, explanations, settings, cache, tally, what, unanswered)
    warn_of_low_mass(scores, config_of(snakemake).analyses.label_mass_warning, what)
    about = provenance(snakemake, engine=engine, tally=tally, score=engine.score_kind, **unanswered.provenance())
    write_parquet(scores, snakemake.output[0], schemas.scores(settings.labels), about)
