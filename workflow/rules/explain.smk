# Generators write explanations: an LLM of the config, or a published set of raw answers.


rule generate_explanations:
    input:
        data_items=rules.load_items.output.data_items,
        human_explanations=rules.load_items.output.human_explanations,
        prompts=PROMPTS_FILE,
        model=lambda wildcards: model_directory(wildcards.llm),
    output:
        PATHS.answers("{llm}"),
    log:
        PATHS.log("generate_explanations", "{llm}"),
    benchmark:
        PATHS.benchmark("generate_explanations", "{llm}")
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
        prompts=EXPLAIN_PROMPTS,
        sampling=CONFIG.explanations.sampling.model_dump(),
        seed=CONFIG.seed,
        store=PATHS.store,
        local=PATHS.local_answers("{llm}"),
    message:
        "{wildcards.llm} writes explanations"
    script:
        "../scripts/generate_explanations.py"


rule published_answers:
    input:
        data_items=rules.load_items.output.data_items,
        source=lambda wildcards: PATHS.source(PUBLISHED[wildcards.name].source),
    output:
        PATHS.answers("published/{name}"),
    log:
        PATHS.log("published_answers", "{name}"),
    benchmark:
        PATHS.benchmark("published_answers", "{name}")
    wildcard_constraints:
        name="|".join(PUBLISHED),
    conda:
        "../envs/mjd.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        published=lambda wildcards: PUBLISHED[wildcards.name].model_dump(
            exclude={"published_as", "prompt_after", "longest_counts_line_breaks"}
        ),
        labels=CONFIG.label_entries,
        text_fields=CONFIG.task.text_fields,
    message:
        "Read the published answers of {wildcards.name}"
    script:
        "../scripts/published_answers.py"


rule candidates:
    input:
        PATHS.answers("{llm}"),
    output:
        PATHS.candidates("{llm}"),
    log:
        PATHS.log("candidates", "{llm}"),
    benchmark:
        PATHS.benchmark("candidates", "{llm}")
    conda:
        "../envs/mjd.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    message:
        "Read the candidate explanations out of the answers of {wildcards.llm}"
    script:
        "../scripts/candidates.py"
