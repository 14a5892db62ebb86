# How far each system's distributions are from the human ones.
COMPARED = systems.compared_systems(CONFIG)


rule distribution_comparison:
    input:
        data_items=rules.load_items.output.data_items,
        distributions=[PATHS.distribution_of(system) for system in COMPARED],
    output:
        parquet=PATHS.table("distribution_comparison"),
        csv=PATHS.table("distribution_comparison", "csv"),
    log:
        PATHS.log("distribution_comparison"),
    benchmark:
        PATHS.benchmark("distribution_comparison")
    conda:
        "../envs/mjd.yaml"
    threads: 2
    resources:
        mem_mb=2500,
        runtime=20,
    params:
        systems=encode(COMPARED),
        labels=CONFIG.label_entries,
        statistics=CONFIG.statistics.model_dump(),
        seed=CONFIG.seed,
        data_set=CONFIG.data.label,
    message:
        "Distribution comparison"
    script:
        "../scripts/distribution_comparison.py"
