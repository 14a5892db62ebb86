# The paper's prompts, read from its public files: nothing of them is kept in this repository.
EXPLAINED_BY = "llama3"


rule upstream_prompts:
    input:
        notebook=f"{DOWNLOADS}/sources/mjd-estimator-notebook",
        data_items=f"{DOWNLOADS}/sources/mjd-estimator-items",
        answers=lambda wildcards: f"{DOWNLOADS}/sources/{PUBLISHED[EXPLAINED_BY].source}",
    output:
        f"{RESULTS}/prompts/mjd-estimator.json",
    log:
        f"{LOGS}/upstream_prompts.log",
    benchmark:
        f"{BENCHMARKS}/upstream_prompts.tsv"
    conda:
        "../envs/mjd.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        published=lambda wildcards: PUBLISHED[EXPLAINED_BY].model_dump(),
        labels=CONFIG.label_entries,
        text_fields=CONFIG.task.text_fields,
    message:
        "Read the paper's prompts from its public files"
    script:
        "../scripts/upstream_prompts.py"
