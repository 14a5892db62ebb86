# Raw sources and model weights are downloaded once, checked by SHA-256, and converted.
from mjd.config import source_ids

REGISTRY = registry.sources()


def source_directories(loader):
    """Downloaded directories that a loader reads."""
    return [f"{DOWNLOADS}/sources/{source}" for source in source_ids(loader)]


def given(*paths):
    """The user's own input files among `paths`."""
    return [path for path in paths if path]


rule download_source:
    output:
        directory(f"{DOWNLOADS}/sources/{{source_id}}"),
    params:
        entry=lambda wildcards: REGISTRY[wildcards.source_id].model_dump(mode="json"),
        blobs=f"{DOWNLOADS}/blobs",
    log:
        f"{LOGS}/download_source/{{source_id}}.log",
    benchmark:
        f"{BENCHMARKS}/download_source/{{source_id}}.tsv"
    wildcard_constraints:
        source_id="|".join(REGISTRY),
    threads: 1
    resources:
        mem_mb=1000,
        runtime=120,
    conda:
        "../envs/mjd.yaml"
    message:
        "Download {wildcards.source_id} and check its SHA-256"
    script:
        "../scripts/download_source.py"


rule download_model:
    output:
        directory(f"{DOWNLOADS}/models/{{model}}"),
    params:
        entry=lambda wildcards: CONFIG.model_entry(wildcards.model).model_dump(mode="json"),
        blobs=f"{DOWNLOADS}/blobs",
    log:
        f"{LOGS}/download_model/{{model}}.log",
    benchmark:
        f"{BENCHMARKS}/download_model/{{model}}.tsv"
    threads: 2
    resources:
        mem_mb=3500,
        runtime=240,
    conda:
        "../envs/mjd.yaml"
    message:
        "Fetch the weights of {wildcards.model} and convert them once"
    script:
        "../scripts/download_model.py"


rule load_items:
    input:
        files=given(CONFIG.data.items.items, CONFIG.data.items.human_explanations),
        sources=source_directories(CONFIG.data.items.loader),
    output:
        data_items=f"{RESULTS}/data/items.parquet",
        human_explanations=f"{RESULTS}/data/human_explanations.parquet",
    params:
        data=CONFIG.data.items.model_dump(),
        task=CONFIG.task.model_dump(),
        limit=CONFIG.limit,
    log:
        f"{LOGS}/load_items.log",
    benchmark:
        f"{BENCHMARKS}/load_items.tsv"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    conda:
        "../envs/mjd.yaml"
    message:
        "Items and human explanations"
    script:
        "../scripts/load_items.py"


rule load_pairs:
    input:
        files=given(CONFIG.data.pairs.path),
        sources=source_directories(CONFIG.data.pairs.loader),
    output:
        f"{RESULTS}/data/pairs.parquet",
    params:
        data=CONFIG.data.pairs.model_dump(),
        task=CONFIG.task.model_dump(),
    log:
        f"{LOGS}/load_pairs.log",
    benchmark:
        f"{BENCHMARKS}/load_pairs.tsv"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    conda:
        "../envs/mjd.yaml"
    message:
        "Labelled pairs for the base classifier"
    script:
        "../scripts/load_pairs.py"


rule load_ood:
    input:
        files=given(CONFIG.data.ood.path),
        sources=source_directories(CONFIG.data.ood.loader),
    output:
        f"{RESULTS}/data/ood.parquet",
    params:
        data=CONFIG.data.ood.model_dump(),
        task=CONFIG.task.model_dump(),
        limit=CONFIG.limit,
    log:
        f"{LOGS}/load_ood.log",
    benchmark:
        f"{BENCHMARKS}/load_ood.tsv"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    conda:
        "../envs/mjd.yaml"
    message:
        "Out-of-distribution test rounds"
    script:
        "../scripts/load_ood.py"
