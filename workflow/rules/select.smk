# Label-free and label-guided selection among a generator's candidates: all sources and selections in one job.


rule select:
    input:
        data_items=rules.load_items.output.data_items,
        human_explanations=rules.load_items.output.human_explanations,
        candidates=PATHS.candidates("{llm}"),
    output:
        [
            PATHS.selected("{llm}", source, selection)
            for source in CONFIG.model_sources
            for selection in CONFIG.explanations.selections
        ],
    log:
        PATHS.log("select", "{llm}"),
    benchmark:
        PATHS.benchmark("select", "{llm}")
    conda:
        "../envs/mjd.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        wanted=[
            {"source": source, "selection": selection}
            for source in CONFIG.model_sources
            for selection in CONFIG.explanations.selections
        ],
        guided_by=CONFIG.task.guided_by,
        line_breaks=lambda wildcards: systems.longest_counts_line_breaks(wildcards.llm),
        labels=CONFIG.label_entries,
    message:
        "Select explanations of {wildcards.llm}"
    script:
        "../scripts/select.py"
