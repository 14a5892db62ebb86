# Raw sources and model weights are downloaded once, checked by SHA-256, and converted.
rule download_source:
    output:
        directory(f"{DOWNLOADS}/sources/{{source_id}}"),
    log:
        f"{LOGS}/download_source/{{source_id}}.log",
    benchmark:
        f"{BENCHMARKS}/download_source/{{source_id}}.tsv"
    wildcard_constraints:
        source_id="|".join(REGISTRY),
    conda:
        "../envs/mjd.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=120,
    params:
        entry=lambda wildcards: REGISTRY[wildcards.source_id].model_dump(mode="json"),
        blobs=f"{DOWNLOADS}/blobs",
    message:
        "Download {wildcards.source_id} and check its SHA-256"
    script:
        "../scripts/download_source.py"


rule download_model:
    input:
        lambda wildcards: local_model(wildcards.model),
    output:
        directory(f"{DOWNLOADS}/models/{{model}}"),
    log:
        f"{LOGS}/download_model/{{model}}.log",
    benchmark:
        f"{BENCHMARKS}/download_model/{{model}}.tsv"
    conda:
        "../envs/mjd.yaml"
    threads: 2
    resources:
        mem_mb=3500,
        runtime=240,
    params:
        entry=lambda wildcards: CONFIG.model_entry(wildcards.model).model_dump(
            mode="json", exclude={"tokenizer", "published_as"}
        ),
        blobs=f"{DOWNLOADS}/blobs",
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
    log:
        f"{LOGS}/load_items.log",
    benchmark:
        f"{BENCHMARKS}/load_items.tsv"
    priority: CHECKS_FIRST
    conda:
        "../envs/mjd.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        data=CONFIG.data.items.model_dump(),
        task=CONFIG.task.model_dump(),
        sources=CONFIG.explanations.sources,
        limit=CONFIG.limit,
    message:
        "Items and human explanations"
    script:
        "../scripts/load_items.py"


# Pairs and OOD rounds are compared with the items, to warn of shared texts. That is no reason to load them, or to train
# on them, again (hence ancient); without the items' files they are not compared.
ITEMS_TO_COMPARE = (
    ancient(rules.load_items.output.data_items)
    if all(map(os.path.exists, given(CONFIG.data.items.items)))
    else []
)


# Classifiers alone need pairs and OOD rounds: a configuration without encoders may leave them out.
if CONFIG.data.pairs:

    rule load_pairs:
        input:
            data_items=ITEMS_TO_COMPARE,
            files=given(CONFIG.data.pairs.path),
            sources=source_directories(CONFIG.data.pairs.loader),
        output:
            f"{RESULTS}/data/pairs.parquet",
        log:
            f"{LOGS}/load_pairs.log",
        benchmark:
            f"{BENCHMARKS}/load_pairs.tsv"
        priority: CHECKS_FIRST
        conda:
            "../envs/mjd.yaml"
        threads: 1
        resources:
            mem_mb=2000,
            runtime=10,
        params:
            data=CONFIG.data.pairs.model_dump(),
            task=CONFIG.task.model_dump(),
        message:
            "Labelled pairs for the base classifier"
        script:
            "../scripts/load_pairs.py"


if CONFIG.data.ood:

    rule load_ood:
        input:
            data_items=ITEMS_TO_COMPARE,
            files=given(CONFIG.data.ood.path),
            sources=source_directories(CONFIG.data.ood.loader),
        output:
            f"{RESULTS}/data/ood.parquet",
        log:
            f"{LOGS}/load_ood.log",
        benchmark:
            f"{BENCHMARKS}/load_ood.tsv"
        priority: CHECKS_FIRST
        conda:
            "../envs/mjd.yaml"
        threads: 1
        resources:
            mem_mb=1000,
            runtime=10,
        params:
            data=CONFIG.data.ood.model_dump(),
            task=CONFIG.task.model_dump(),
            limit=CONFIG.limit,
        message:
            "Out-of-distribution test rounds"
        script:
            "../scripts/load_ood.py"
