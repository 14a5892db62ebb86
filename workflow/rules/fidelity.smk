# What the paper published, beside what this configuration makes of the same files.
from mjd.reproduction.published_tables import comparable, read_reading

# Other data sets than the paper's have nothing to compare: `all` leaves these tables out.
FIDELITY_TABLES = (
    ["selection_agreement", "selection_disagreements"]
    + ["published_comparison"] * bool(CONFIG.encoders)
    if CONFIG.data.items.loader == "mjd-estimator"
    else []
)
READING = read_reading()
WITH_SELECTIONS = {name: entry for name, entry in PUBLISHED.items() if entry.selections}


rule selection_agreement:
    input:
        data_items=rules.load_items.output.data_items,
        human_explanations=rules.load_items.output.human_explanations,
        answers=[PATHS.answers(f"published/{name}") for name in WITH_SELECTIONS],
        selections=[
            PATHS.source(entry.selections_source) for entry in WITH_SELECTIONS.values()
        ],
    output:
        agreement=PATHS.table("selection_agreement"),
        agreement_csv=PATHS.table("selection_agreement", "csv"),
        disagreements=PATHS.table("selection_disagreements"),
        disagreements_csv=PATHS.table("selection_disagreements", "csv"),
    log:
        PATHS.log("selection_agreement"),
    benchmark:
        PATHS.benchmark("selection_agreement")
    conda:
        "../envs/mjd.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        sets={name: entry.model_dump() for name, entry in WITH_SELECTIONS.items()},
        guided_by=CONFIG.task.guided_by,
        labels=CONFIG.label_entries,
        text_fields=CONFIG.task.text_fields,
        data_set=CONFIG.data.label,
    message:
        "Compare our selections from published answers with the authors'"
    script:
        "../scripts/selection_agreement.py"


if CONFIG.encoders:

    rule published_comparison:
        input:
            reading="resources/published/reading.yaml",
            published=[f"resources/published/{table}.csv" for table in READING.columns],
            distribution_comparison=PATHS.table("distribution_comparison"),
            finetuning=PATHS.table("finetuning"),
            ood=PATHS.table("ood"),
        output:
            parquet=PATHS.table("published_comparison"),
            csv=PATHS.table("published_comparison", "csv"),
        log:
            PATHS.log("published_comparison"),
        benchmark:
            PATHS.benchmark("published_comparison")
        conda:
            "../envs/mjd.yaml"
        threads: 1
        resources:
            mem_mb=1000,
            runtime=10,
        params:
            ours=["distribution_comparison", "finetuning", "ood"],
            comparable=comparable(CONFIG, READING).model_dump(),
            data_set=CONFIG.data.label,
        message:
            "Set our numbers beside the published ones"
        script:
            "../scripts/published_comparison.py"
