# One job per scorer and source scores every prompt; cheap jobs turn scores into distributions.


rule score:
    input:
        data_items=rules.load_items.output.data_items,
        human_explanations=rules.load_items.output.human_explanations,
        explanations=shown_explanations,
        prompts=PROMPTS_FILE,
        model=lambda wildcards: model_directory(wildcards.llm),
    output:
        PATHS.scores("{llm}", VARIANT),
    log:
        PATHS.log("score", "{llm}", VARIANT),
    benchmark:
        PATHS.benchmark("score", "{llm}", VARIANT)
    wildcard_constraints:
        llm="|".join(CONFIG.llms),
    priority: LLMS_NEXT
    conda:
        lambda wildcards: llm_environment(wildcards.llm)
    threads: lambda wildcards: CONFIG.llms[wildcards.llm].resources.threads
    resources:
        mem_mb=lambda wildcards: CONFIG.llms[wildcards.llm].resources.mem_mb,
        runtime=lambda wildcards: CONFIG.llms[wildcards.llm].resources.runtime,
        gpu=lambda wildcards: CONFIG.llms[wildcards.llm].resources.gpu,
    params:
        engine=lambda wildcards: engine_params(wildcards.llm),
        labels=CONFIG.prompted_labels,
        text_fields=CONFIG.task.text_fields,
        prompts=PROMPTS,
        orders=CONFIG.scoring.orders,
        first_items=None,
        seed=CONFIG.seed,
        store=PATHS.store,
        local=PATHS.local_scores("{llm}", VARIANT),
    message:
        "{wildcards.llm} scores {wildcards.source} ({wildcards.selection}, {wildcards.mode})"
    script:
        "../scripts/score.py"


rule mjd:
    input:
        data_items=rules.load_items.output.data_items,
        scores=rules.score.output[0],
    output:
        PATHS.mjd("{llm}", VARIANT, "{estimator}"),
    log:
        PATHS.log("mjd", "{llm}", f"{VARIANT}-{{estimator}}"),
    benchmark:
        PATHS.benchmark("mjd", "{llm}", f"{VARIANT}-{{estimator}}")
    conda:
        "../envs/mjd.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        transform=lambda wildcards: CONFIG.scoring.estimators[
            wildcards.estimator
        ].transform.model_dump(),
        labels=CONFIG.label_entries,
        seed=CONFIG.seed,
    message:
        "MJD of {wildcards.llm}: {wildcards.source} ({wildcards.estimator})"
    script:
        "../scripts/mjd.py"


rule distributions:
    input:
        data_items=rules.load_items.output.data_items,
    output:
        **{
            name: PATHS.distribution(name)
            for name in ["hjd", *CONFIG.task.label_counts, "uniform"]
        },
    log:
        PATHS.log("distributions"),
    benchmark:
        PATHS.benchmark("distributions")
    conda:
        "../envs/mjd.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        labels=CONFIG.label_entries,
    message:
        "Human label distributions"
    script:
        "../scripts/distributions.py"
