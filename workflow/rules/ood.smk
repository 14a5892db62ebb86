# The main table: every classifier out of distribution.


rule ood_table:
    input:
        ood=rules.load_ood.output[0],
        predictions=expand(
            f"{RESULTS}/predictions/{{encoder}}.parquet", encoder=CONFIG.encoders
        ),
    output:
        parquet=f"{RESULTS}/tables/ood.parquet",
        csv=f"{RESULTS}/tables/ood.csv",
    log:
        f"{LOGS}/ood_table.log",
    benchmark:
        f"{BENCHMARKS}/ood_table.tsv"
    conda:
        "../envs/mjd.yaml"
    threads: 1
    resources:
        mem_mb=1500,
        runtime=10,
    params:
        systems=[
            (system.slug, system.title, system.reference) for system in CLASSIFIERS
        ],
        encoders=[(name, entry.title) for name, entry in CONFIG.encoders.items()],
        rounds=CONFIG.data.ood.rounds,
        labels=CONFIG.label_entries,
        confidence=CONFIG.statistics.confidence,
        data_set=CONFIG.data.label,
    message:
        "OOD table"
    script:
        "../scripts/ood_table.py"
