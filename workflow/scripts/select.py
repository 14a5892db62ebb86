"""Adapter of rule select."""

from mjd import schemas
from mjd.data.items import train_items
from mjd.explanations.selection import select, wanted_labels
from mjd.io import read_parquet, write_parquet
from mjd.job import job, labels_of, provenance, unanswered_prompts

with job(snakemake):
    items = train_items(read_parquet(snakemake.input.data_items))
    human_explanations = read_parquet(snakemake.input.human_explanations)
    candidates = read_parquet(snakemake.input.candidates)
    for output, variant in zip(snakemake.output, snakemake.params.wanted, strict=True):
        source, selection = variant["source"], variant["selection"]
        guided_by = snakemake.params.guided_by.get(source)
        wanted = wanted_labels(source, guided_by, items, human_explanations, labels_of(snakemake))
        unanswered = unanswered_prompts(snakemake)
        selected = select(
            candidates,
            wanted,
            selection,
            snakemake.input.candidates,
            line_breaks=snakemake.params.line_breaks,
            unanswered=unanswered,
        )
        origin = provenance(snakemake, **variant, **unanswered.provenance())
        write_parquet(selected, output, schemas.explanations(), origin)
