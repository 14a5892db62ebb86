# Tables made from other artifacts, each by the rule of its entry in mjd.analyses.specs; what LLMs answer for them; and
# the paper's finding as a check.
from mjd.analyses.specs import analyses_of

FIRST_TOKEN = systems.first_token_systems(CONFIG)


for spec in analyses_of(CONFIG):

    rule:
        name:
            spec.rule
        input:
            **spec.inputs(CONFIG, PATHS),
        output:
            **analysis_outputs(spec),
        log:
            PATHS.log(spec.rule),
        benchmark:
            PATHS.benchmark(spec.rule)
        conda:
            "../envs/mjd.yaml"
        threads: spec.threads
        resources:
            mem_mb=spec.mem_mb,
            runtime=spec.runtime,
        params:
            **spec.params(CONFIG),
            analysis=spec.implementation,
            labels=CONFIG.label_entries,
            data_set=CONFIG.data.label,
        message:
            spec.message
        script:
            "../scripts/analysis.py"


# The rule `score` on a few items, with every explanation order.
use rule score as score_all_orders with:
    output:
        PATHS.all_orders("{llm}", VARIANT),
    log:
        PATHS.log("score_all_orders", "{llm}", VARIANT),
    benchmark:
        PATHS.benchmark("score_all_orders", "{llm}", VARIANT)
    params:
        engine=lambda wildcards: engine_params(wildcards.llm),
        labels=CONFIG.prompted_labels,
        text_fields=CONFIG.task.text_fields,
        prompts=PROMPTS,
        orders="all",
        first_items=CONFIG.analyses.convergence_items,
        seed=CONFIG.seed,
        store=PATHS.store,
        local=PATHS.local_all_orders("{llm}", VARIANT),
    message:
        "{wildcards.llm} scores all orders of a few items"


rule sample_answers:
    input:
        data_items=rules.load_items.output.data_items,
        human_explanations=rules.load_items.output.human_explanations,
        explanations=lambda wildcards: [
            path
            for system in FIRST_TOKEN[wildcards.llm]
            for path in given(PATHS.shown_by(system))
        ],
        scores=lambda wildcards: [
            PATHS.scores_of(system) for system in FIRST_TOKEN[wildcards.llm]
        ],
        model=lambda wildcards: model_directory(wildcards.llm),
        prompts=PROMPTS_FILE,
    output:
        PATHS.sampled_answers("{llm}"),
    log:
        PATHS.log("sample_answers", "{llm}"),
    benchmark:
        PATHS.benchmark("sample_answers", "{llm}")
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
        systems=lambda wildcards: encode(
            FIRST_TOKEN[wildcards.llm], *systems.VARIANT_FIELDS
        ),
        labels=CONFIG.prompted_labels,
        text_fields=CONFIG.task.text_fields,
        prompts=PROMPTS,
        orders=CONFIG.scoring.orders,
        analyses=CONFIG.analyses.model_dump(
            include={"generated_prompts", "generated_tokens"}
        ),
        seed=CONFIG.seed,
        store=PATHS.store,
        local=PATHS.local_sampled_answers("{llm}"),
    message:
        "{wildcards.llm} answers a sample of prompts in full"
    script:
        "../scripts/sample_answers.py"


# No output: whoever asks sees the verdict, however old the table is.
localrules:
    finding,


rule finding:
    input:
        PATHS.table("finding"),
    log:
        PATHS.log("finding"),
    conda:
        "../envs/mjd.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=5,
    message:
        "Does the paper's finding hold here?"
    script:
        "../scripts/finding.py"
