# Generators write explanations: an LLM of the config, or a published set of raw answers.


rule generate_explanations:
    input:
        data_items=rules.load_items.output.data_items,
        human_explanations=rules.load_items.output.human_explanations,
        prompts=PROMPTS_FILE,
        model=lambda wildcards: model_directory(wildcards.llm),
    output:
        f"{RESULTS}/explanations/{{llm}}/answers.parquet",
    log:
        f"{LOGS}/generate_explanations/{{llm}}.log",
    benchmark:
        f"{BENCHMARKS}/generate_explanations/{{llm}}.tsv"
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
        labels=CONFIG.label_entries,
        text_fields=CONFIG.task.text_fields,
        prompts=PROMPTS,
        sampling=CONFIG.explanations.sampling.model_dump(),
        seed=CONFIG.seed,
        store=f"{RESULTS}/store/answers.sqlite",
    message:
        "{wildcards.llm} writes explanations"
    script:
        "../scripts/generate_explanations.py"


rule published_answers:
    input:
        data_items=rules.load_items.output.data_items,
        source=lambda wildcards: f"{DOWNLOADS}/sources/{PUBLISHED[wildcards.name].source}",
    output:
        f"{RESULTS}/explanations/published-{{name}}/answers.parquet",
    log:
        f"{LOGS}/published_answers/{{name}}.log",
    benchmark:
        f"{BENCHMARKS}/published_answers/{{name}}.tsv"
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
    message:
        "Read the published answers of {wildcards.name}"
    script:
        "../scripts/published_answers.py"


rule candidates:
    input:
        f"{RESULTS}/explanations/{{llm}}/answers.parquet",
    output:
        f"{RESULTS}/explanations/{{llm}}/candidates.parquet",
    log:
        f"{LOGS}/candidates/{{llm}}.log",
    benchmark:
        f"{BENCHMARKS}/candidates/{{llm}}.tsv"
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
