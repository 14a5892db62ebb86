# How far scores can be trusted: biases, convergence over orders, first tokens; and the paper's finding as a check.
VARIANTS = systems.scored_variants(CONFIG)
ALL_ORDERS = systems.all_orders_systems(CONFIG)
MAIN = systems.main_mjd_systems(CONFIG)
ALL_ORDERS_SCORES = [PATHS.all_orders_of(system) for system in ALL_ORDERS]
FIRST_TOKEN = systems.first_token_systems(CONFIG)


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
        labels=CONFIG.label_entries,
        text_fields=CONFIG.task.text_fields,
        prompts=PROMPTS,
        orders="all",
        first_items=CONFIG.analyses.convergence_items,
        seed=CONFIG.seed,
        store=PATHS.store,
        chunks=PATHS.all_orders_chunks("{llm}", VARIANT),
    message:
        "{wildcards.llm} scores all orders of a few items"


rule convergence:
    input:
        data_items=rules.load_items.output.data_items,
        scores=ALL_ORDERS_SCORES,
    output:
        parquet=PATHS.table("convergence"),
        csv=PATHS.table("convergence", "csv"),
        svg=report(
            PATHS.figure("convergence", "svg"),
            category="Trust in the scores",
            caption="../report/convergence.rst",
        ),
        png=PATHS.figure("convergence", "png"),
    log:
        PATHS.log("convergence"),
    benchmark:
        PATHS.benchmark("convergence")
    conda:
        "../envs/mjd.yaml"
    threads: 1
    resources:
        mem_mb=2500,
        runtime=20,
    params:
        systems=encode(ALL_ORDERS),
        titles={name: llm.title for name, llm in CONFIG.llms.items()},
        temperature=CONFIG.analyses.temperature,
        labels=CONFIG.label_entries,
        statistics=CONFIG.statistics.model_dump(),
        seed=CONFIG.seed,
        data_set=CONFIG.data.label,
    message:
        "How many explanation orders are enough"
    script:
        "../scripts/convergence.py"


rule bias:
    input:
        scores=[PATHS.scores_of(system) for system in VARIANTS],
        all_orders=ALL_ORDERS_SCORES,
    output:
        parquet=PATHS.table("bias"),
        csv=PATHS.table("bias", "csv"),
    log:
        PATHS.log("bias"),
    benchmark:
        PATHS.benchmark("bias")
    conda:
        "../envs/mjd.yaml"
    threads: 1
    resources:
        mem_mb=2500,
        runtime=20,
    params:
        systems=encode(VARIANTS),
        all_orders=encode(ALL_ORDERS),
        labels=CONFIG.label_entries,
        statistics=CONFIG.statistics.model_dump(),
        seed=CONFIG.seed,
        data_set=CONFIG.data.label,
    message:
        "What the scores depend on beside the item"
    script:
        "../scripts/bias.py"


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
            FIRST_TOKEN[wildcards.llm],
            *("scorer", "generator", "source", "selection", "mode"),
        ),
        labels=CONFIG.label_entries,
        text_fields=CONFIG.task.text_fields,
        prompts=PROMPTS,
        orders=CONFIG.scoring.orders,
        analyses=CONFIG.analyses.model_dump(
            include={"generated_prompts", "generated_tokens"}
        ),
        seed=CONFIG.seed,
        store=PATHS.store,
    message:
        "{wildcards.llm} answers a sample of prompts in full"
    script:
        "../scripts/sample_answers.py"


rule first_token:
    input:
        answers=expand(PATHS.sampled_answers("{llm}"), llm=FIRST_TOKEN),
        scores=[PATHS.scores_of(system) for system in MAIN],
    output:
        parquet=PATHS.table("first_token"),
        csv=PATHS.table("first_token", "csv"),
    log:
        PATHS.log("first_token"),
    benchmark:
        PATHS.benchmark("first_token")
    conda:
        "../envs/mjd.yaml"
    threads: 1
    resources:
        mem_mb=1500,
        runtime=10,
    params:
        systems=encode(MAIN),
        labels=CONFIG.label_entries,
        confidence=CONFIG.statistics.confidence,
        data_set=CONFIG.data.label,
        low_mass=CONFIG.analyses.label_mass_warning,
    message:
        "How far first-token scores can be trusted"
    script:
        "../scripts/first_token.py"


rule finding_table:
    input:
        data_items=rules.load_items.output.data_items,
        distributions=[PATHS.distribution_of(system) for system in MAIN],
    output:
        parquet=PATHS.table("finding"),
        csv=PATHS.table("finding", "csv"),
    log:
        PATHS.log("finding_table"),
    benchmark:
        PATHS.benchmark("finding_table")
    conda:
        "../envs/mjd.yaml"
    threads: 2
    resources:
        mem_mb=2500,
        runtime=20,
    params:
        systems=encode(MAIN),
        label_guided=systems.label_guided_source(CONFIG),
        labels=CONFIG.label_entries,
        statistics=CONFIG.statistics.model_dump(),
        seed=CONFIG.seed,
        data_set=CONFIG.data.label,
    message:
        "Finding table"
    script:
        "../scripts/finding_table.py"


# No output: whoever asks sees the verdict, however old the table is.
localrules:
    finding,


rule finding:
    input:
        rules.finding_table.output.parquet,
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
