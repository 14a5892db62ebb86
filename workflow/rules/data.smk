# Raw sources and model weights are downloaded once, checked by SHA-256, and converted.
rule download_source:
    output:
        directory(PATHS.source("{source_id}")),
    log:
        PATHS.log("download_source", "{source_id}"),
    benchmark:
        PATHS.benchmark("download_source", "{source_id}")
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
        blobs=PATHS.blobs,
    message:
        "Download {wildcards.source_id} and check its SHA-256"
    script:
        "../scripts/download_source.py"


rule download_model:
    input:
        lambda wildcards: local_model(wildcards.model),
    output:
        directory(PATHS.model("{model}")),
    log:
        PATHS.log("download_model", "{model}"),
    benchmark:
        PATHS.benchmark("download_model", "{model}")
    conda:
        "../envs/mjd.yaml"
    threads: 2
    resources:
        mem_mb=3500,
        runtime=240,
    params:
        entry=lambda wildcards: model_params(wildcards.model),
        blobs=PATHS.blobs,
    message:
        "Fetch the weights of {wildcards.model} and convert them once"
    script:
        "../scripts/download_model.py"


rule load_items:
    input:
        files=given(CONFIG.data.items.items, CONFIG.data.items.human_explanations),
        sources=source_directories(CONFIG.data.items.loader),
    output:
        data_items=PATHS.data("items"),
        human_explanations=PATHS.data("human_explanations"),
    log:
        PATHS.log("load_items"),
    benchmark:
        PATHS.benchmark("load_items")
    priority: CHECKS_FIRST
    conda:
        "../envs/mjd.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        data=CONFIG.data.items.model_dump(),
        task=CONFIG.task.items_settings(),
        sources=CONFIG.explanations.sources,
        limit=CONFIG.limit,
    message:
        "Items and human explanations"
    script:
        "../scripts/load_items.py"


# Pairs and OOD rounds are compared with the items, to warn of shared texts. That is no reason to load them, or to train
# on them, again (hence ancient); without the items' files they are not compared. `ancient` marks the very object that it
# is given: with rules.load_items.output every rule that reads items would take changed ones for old.
ITEMS_TO_COMPARE = (
    ancient(PATHS.data("items"))
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
            PATHS.data("pairs"),
        log:
            PATHS.log("load_pairs"),
        benchmark:
            PATHS.benchmark("load_pairs")
        priority: CHECKS_FIRST
        conda:
            "../envs/mjd.yaml"
        threads: 1
        resources:
            mem_mb=2000,
            runtime=10,
        params:
            data=CONFIG.data.pairs.model_dump(),
            task=CONFIG.task.pairs_settings(),
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
            PATHS.data("ood"),
        log:
            PATHS.log("load_ood"),
        benchmark:
            PATHS.benchmark("load_ood")
        priority: CHECKS_FIRST
        conda:
            "../envs/mjd.yaml"
        threads: 1
        resources:
            mem_mb=1000,
            runtime=10,
        params:
            data=CONFIG.data.ood.model_dump(),
            task=CONFIG.task.pairs_settings(),
            limit=CONFIG.limit,
        message:
            "Out-of-distribution test rounds"
        script:
            "../scripts/load_ood.py"
