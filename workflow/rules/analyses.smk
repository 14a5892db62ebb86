# How far scores can be trusted: biases, convergence over orders, first tokens; and the paper's finding as a check.
VARIANTS = CONFIG.scored_variants()
ALL_ORDERS = CONFIG.all_orders_systems()
MAIN = CONFIG.main_mjd_systems()
ALL_ORDERS_SCORES = [
    CONFIG.scores_path(system, "analyses/all_orders") for system in ALL_ORDERS
]
FIRST_TOKEN = CONFIG.first_token_systems()


# The rule `score` on a few items, with every explanation order.
use rule score as score_all_orders with:
    output:
        f"{RESULTS}/analyses/all_orders/{{llm}}/{{source}}-{{selection}}-{{mode}}.parquet",
    log:
        f"{LOGS}/score_all_orders/{{llm}}/{{source}}-{{selection}}-{{mode}}.log",
    benchmark:
        f"{BENCHMARKS}/score_all_orders/{{llm}}/{{source}}-{{selection}}-{{mode}}.tsv"
    params:
        engine=lambda wildcards: engine_params(wildcards.llm),
        labels=CONFIG.label_entries,
        text_fields=CONFIG.task.text_fields,
        prompts=PROMPTS,
        orders="all",
        first_items=CONFIG.analyses.convergence_items,
        seed=CONFIG.seed,
        store=f"{RESULTS}/store/answers.sqlite",
        chunks=f"{RESULTS}/store/all_orders/{{llm}}/{{source}}-{{selection}}-{{mode}}",
    message:
        "{wildcards.llm} scores all orders of a few items"


rule convergence:
    input:
        data_items=rules.load_items.output.data_items,
        scores=ALL_ORDERS_SCORES,
    output:
        parquet=f"{RESULTS}/tables/convergence.parquet",
        csv=f"{RESULTS}/tables/convergence.csv",
        svg=report(
            f"{RESULTS}/figures/convergence.svg",
            category="Trust in the scores",
            caption="../report/convergence.rst",
        ),
        png=f"{RESULTS}/figures/convergence.png",
    log:
        f"{LOGS}/convergence.log",
    benchmark:
        f"{BENCHMARKS}/convergence.tsv"
    conda:
        "../envs/mjd.yaml"
    threads: 1
    resources:
        mem_mb=2500,
        runtime=20,
    params:
        systems=[vars(system) for system in ALL_ORDERS],
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
        scores=[CONFIG.scores_path(system) for system in VARIANTS],
        all_orders=ALL_ORDERS_SCORES,
    output:
        parquet=f"{RESULTS}/tables/bias.parquet",
        csv=f"{RESULTS}/tables/bias.csv",
    log:
        f"{LOGS}/bias.log",
    benchmark:
        f"{BENCHMARKS}/bias.tsv"
    conda:
        "../envs/mjd.yaml"
    threads: 1
    resources:
        mem_mb=2500,
        runtime=20,
    params:
        systems=[vars(system) for system in VARIANTS],
        all_orders=[vars(system) for system in ALL_ORDERS],
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
            for path in given(CONFIG.explanations_path(system))
        ],
        scores=lambda wildcards: [
            CONFIG.scores_path(system) for system in FIRST_TOKEN[wildcards.llm]
        ],
        model=lambda wildcards: model_directory(wildcards.llm),
        prompts=PROMPTS_FILE,
    output:
        f"{RESULTS}/analyses/first_token/{{llm}}.parquet",
    log:
        f"{LOGS}/sample_answers/{{llm}}.log",
    benchmark:
        f"{BENCHMARKS}/sample_answers/{{llm}}.tsv"
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
        variants=lambda wildcards: [
            {
                "slug": system.slug,
                "mode": system.mode,
                "explanations": CONFIG.explanations_path(system),
                "scores": CONFIG.scores_path(system),
            }
            for system in FIRST_TOKEN[wildcards.llm]
        ],
        labels=CONFIG.label_entries,
        text_fields=CONFIG.task.text_fields,
        prompts=PROMPTS,
        orders=CONFIG.scoring.orders,
        analyses=CONFIG.analyses.model_dump(exclude={"label_mass_warning"}),
        seed=CONFIG.seed,
        store=f"{RESULTS}/store/answers.sqlite",
    message:
        "{wildcards.llm} answers a sample of prompts in full"
    script:
        "../scripts/sample_answers.py"


rule first_token:
    input:
        answers=expand(
            f"{RESULTS}/analyses/first_token/{{llm}}.parquet", llm=FIRST_TOKEN
        ),
        scores=[CONFIG.scores_path(system) for system in MAIN],
    output:
        parquet=f"{RESULTS}/tables/first_token.parquet",
        csv=f"{RESULTS}/tables/first_token.csv",
    log:
        f"{LOGS}/first_token.log",
    benchmark:
        f"{BENCHMARKS}/first_token.tsv"
    conda:
        "../envs/mjd.yaml"
    threads: 1
    resources:
        mem_mb=1500,
        runtime=10,
    params:
        systems=[vars(system) for system in MAIN],
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
        distributions=[system.path for system in MAIN],
    output:
        parquet=f"{RESULTS}/tables/finding.parquet",
        csv=f"{RESULTS}/tables/finding.csv",
    log:
        f"{LOGS}/finding_table.log",
    benchmark:
        f"{BENCHMARKS}/finding_table.tsv"
    conda:
        "../envs/mjd.yaml"
    threads: 2
    resources:
        mem_mb=2500,
        runtime=20,
    params:
        systems=[vars(system) for system in MAIN],
        label_guided=CONFIG.label_guided_source(),
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
        f"{LOGS}/finding.log",
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
