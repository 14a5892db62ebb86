# How far each system's distributions are from the human ones.
COMPARED = CONFIG.compared_systems()


rule distribution_comparison:
    input:
        data_items=rules.load_items.output.data_items,
        distributions=[system.path for system in COMPARED],
    output:
        parquet=f"{RESULTS}/tables/distribution_comparison.parquet",
        csv=f"{RESULTS}/tables/distribution_comparison.csv",
    log:
        f"{LOGS}/distribution_comparison.log",
    benchmark:
        f"{BENCHMARKS}/distribution_comparison.tsv"
    conda:
        "../envs/mjd.yaml"
    threads: 2
    resources:
        mem_mb=2500,
        runtime=20,
    params:
        systems=[vars(system) for system in COMPARED],
        labels=CONFIG.label_entries,
        statistics=CONFIG.statistics.model_dump(),
        seed=CONFIG.seed,
        data_set=CONFIG.data.label,
    message:
        "Distribution comparison"
    script:
        "../scripts/distribution_comparison.py"
