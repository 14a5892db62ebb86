# The paper's prompts, read from its public files: nothing of them is kept in this repository.
EXPLAINED_BY = "llama3"


rule upstream_prompts:
    input:
        notebook=PATHS.source("mjd-estimator-notebook"),
        data_items=PATHS.source("mjd-estimator-items"),
        answers=lambda wildcards: PATHS.source(PUBLISHED[EXPLAINED_BY].source),
    output:
        PATHS.prompts("mjd-estimator"),
    log:
        PATHS.log("upstream_prompts"),
    benchmark:
        PATHS.benchmark("upstream_prompts")
    conda:
        "../envs/mjd.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        published=lambda wildcards: PUBLISHED[EXPLAINED_BY].model_dump(),
        labels=CONFIG.prompted_labels,
        text_fields=CONFIG.task.text_fields,
    message:
        "Read the paper's prompts from its public files"
    script:
        "../scripts/upstream_prompts.py"
