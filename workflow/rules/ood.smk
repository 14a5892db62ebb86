# The main table: every classifier out of distribution.


rule ood_table:
    input:
        ood=rules.load_ood.output[0],
        predictions=expand(PATHS.predictions("{encoder}"), encoder=CONFIG.encoders),
    output:
        parquet=PATHS.table("ood"),
        csv=PATHS.table("ood", "csv"),
    log:
        PATHS.log("ood_table"),
    benchmark:
        PATHS.benchmark("ood_table")
    conda:
        "../envs/mjd.yaml"
    threads: 1
    resources:
        mem_mb=1500,
        runtime=10,
    params:
        systems=encode(CLASSIFIERS, "title", "reference"),
        encoders=[(name, entry.title) for name, entry in CONFIG.encoders.items()],
        labels=CONFIG.label_entries,
        confidence=CONFIG.statistics.confidence,
        data_set=CONFIG.data.label,
    message:
        "OOD table"
    script:
        "../scripts/ood_table.py"
