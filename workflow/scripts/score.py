"""Adapter of rule score."""

from mjd import schemas
from mjd.io import read_parquet, write_parquet
from mjd.job import job, labels_of, provenance, start_engine, train_items
from mjd.prompts import prompts_from
from mjd.scoring import PromptSettings, ScoreChunks, score_items

with job(snakemake):
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
    engine = start_engine(snakemake)
    what = f"{wildcards.llm} {wildcards.source}-{wildcards.selection}-{wildcards.mode}"
    scores = score_items(engine, items, explanations, settings, ScoreChunks(params.chunks), what)
    write_parquet(
        scores,
        snakemake.output[0],
        schemas.scores(settings.labels),
        provenance(snakemake, **engine.info.provenance(), score=engine.score_kind),
    )
