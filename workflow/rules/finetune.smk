# Encoders: a base classifier trained on labelled pairs, then soft-label fine-tuning of every system and seed in one job.
TRAINED = CONFIG.trained_systems()
CLASSIFIERS = CONFIG.classifier_systems()
RUNS = [(system.slug, seed) for system in TRAINED for seed in CONFIG.seeds]
BASE = f"{RESULTS}/checkpoints/{{encoder}}/mnli-ft-lm/seed{CONFIG.seed}"


rule train_base:
    input:
        pairs=rules.load_pairs.output[0],
        encoder=encoder_directory,
    output:
        directory(BASE),
    log:
        f"{LOGS}/train_base/{{encoder}}.log",
    benchmark:
        f"{BENCHMARKS}/train_base/{{encoder}}.tsv"
    conda:
        "../envs/mjd.yaml"
    threads: lambda wildcards: CONFIG.encoders[wildcards.encoder].resources.threads
    resources:
        mem_mb=lambda wildcards: CONFIG.encoders[wildcards.encoder].resources.mem_mb,
        runtime=lambda wildcards: CONFIG.encoders[wildcards.encoder].resources.runtime,
        gpu=lambda wildcards: CONFIG.encoders[wildcards.encoder].resources.gpu,
    params:
        encoder=encoder_params,
        training=CONFIG.base_classifier.model_dump(exclude={"title"}),
        labels=CONFIG.label_entries,
        text_fields=CONFIG.task.text_fields,
        seed=CONFIG.seed,
    message:
        "Train the base classifier {wildcards.encoder}"
    script:
        "../scripts/train_base.py"


rule finetune:
    input:
        base=BASE,
        data_items=rules.load_items.output.data_items,
        targets=[system.path for system in TRAINED],
    output:
        history=f"{RESULTS}/finetuning/{{encoder}}/history.parquet",
        checkpoints=[
            directory(f"{RESULTS}/checkpoints/{{encoder}}/{slug}/seed{seed}")
            for slug, seed in RUNS
        ],
    log:
        f"{LOGS}/finetune/{{encoder}}.log",
    benchmark:
        f"{BENCHMARKS}/finetune/{{encoder}}.tsv"
    conda:
        "../envs/mjd.yaml"
    threads: lambda wildcards: CONFIG.encoders[wildcards.encoder].resources.threads
    resources:
        mem_mb=lambda wildcards: CONFIG.encoders[wildcards.encoder].finetuning_mem_mb,
        runtime=lambda wildcards: CONFIG.encoders[wildcards.encoder].resources.runtime,
        gpu=lambda wildcards: CONFIG.encoders[wildcards.encoder].resources.gpu,
    params:
        encoder=encoder_params,
        systems=[system.slug for system in TRAINED],
        runs=RUNS,
        training=CONFIG.finetuning.model_dump(exclude={"seeds"}),
        waiting=f"{RESULTS}/store/finetuning/{{encoder}}",
        labels=CONFIG.label_entries,
        text_fields=CONFIG.task.text_fields,
        seeds=CONFIG.seeds,
    message:
        "Fine-tune {wildcards.encoder} on every system's soft labels"
    script:
        "../scripts/finetune.py"


rule predict:
    input:
        encoder=encoder_directory,
        base=BASE,
        checkpoints=rules.finetune.output.checkpoints,
        data_items=rules.load_items.output.data_items,
        ood=rules.load_ood.output[0],
    output:
        f"{RESULTS}/predictions/{{encoder}}.parquet",
    log:
        f"{LOGS}/predict/{{encoder}}.log",
    benchmark:
        f"{BENCHMARKS}/predict/{{encoder}}.tsv"
    conda:
        "../envs/mjd.yaml"
    threads: lambda wildcards: CONFIG.encoders[wildcards.encoder].resources.threads
    resources:
        mem_mb=lambda wildcards: CONFIG.encoders[wildcards.encoder].resources.mem_mb,
        runtime=lambda wildcards: CONFIG.encoders[wildcards.encoder].resources.runtime,
        gpu=lambda wildcards: CONFIG.encoders[wildcards.encoder].resources.gpu,
    params:
        encoder=encoder_params,
        runs=RUNS,
        labels=CONFIG.label_entries,
        text_fields=CONFIG.task.text_fields,
        seed=CONFIG.seed,
        seeds=CONFIG.seeds,
    message:
        "Classify dev, test and the OOD rounds with every checkpoint of {wildcards.encoder}"
    script:
        "../scripts/predict.py"


rule finetuning_table:
    input:
        data_items=rules.load_items.output.data_items,
        predictions=expand(
            f"{RESULTS}/predictions/{{encoder}}.parquet", encoder=CONFIG.encoders
        ),
        base=expand(BASE, encoder=CONFIG.encoders),
        history=expand(rules.finetune.output.history, encoder=CONFIG.encoders),
    output:
        parquet=f"{RESULTS}/tables/finetuning.parquet",
        csv=f"{RESULTS}/tables/finetuning.csv",
    log:
        f"{LOGS}/finetuning_table.log",
    benchmark:
        f"{BENCHMARKS}/finetuning_table.tsv"
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
        labels=CONFIG.label_entries,
        confidence=CONFIG.statistics.confidence,
        data_set=CONFIG.data.label,
    message:
        "Fine-tuning table"
    script:
        "../scripts/finetuning_table.py"
