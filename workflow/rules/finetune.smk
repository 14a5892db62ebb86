# Encoders: a base classifier trained on labelled pairs, then soft-label fine-tuning of every system and seed in one job.
TRAINED = systems.trained_systems(CONFIG)
RUNS = [(system.slug, seed) for system in TRAINED for seed in CONFIG.seeds]
BASE = PATHS.checkpoint("{encoder}", "mnli-ft-lm", CONFIG.seed)


rule train_base:
    input:
        pairs=rules.load_pairs.output[0],
        encoder=encoder_directory,
    output:
        directory(BASE),
    log:
        PATHS.log("train_base", "{encoder}"),
    benchmark:
        PATHS.benchmark("train_base", "{encoder}")
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
        targets=[PATHS.distribution_of(system) for system in TRAINED],
    output:
        history=PATHS.training_history("{encoder}"),
        checkpoints=[
            directory(PATHS.checkpoint("{encoder}", slug, seed)) for slug, seed in RUNS
        ],
    log:
        PATHS.log("finetune", "{encoder}"),
    benchmark:
        PATHS.benchmark("finetune", "{encoder}")
    conda:
        "../envs/mjd.yaml"
    threads: lambda wildcards: CONFIG.encoders[wildcards.encoder].resources.threads
    resources:
        mem_mb=lambda wildcards: CONFIG.encoders[wildcards.encoder].finetuning_mem_mb,
        runtime=lambda wildcards: CONFIG.encoders[wildcards.encoder].resources.runtime,
        gpu=lambda wildcards: CONFIG.encoders[wildcards.encoder].resources.gpu,
    params:
        encoder=encoder_params,
        systems=encode(TRAINED, "kind"),
        runs=RUNS,
        training=CONFIG.finetuning.model_dump(exclude={"seeds"}),
        waiting=PATHS.finished_runs("{encoder}"),
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
        PATHS.predictions("{encoder}"),
    log:
        PATHS.log("predict", "{encoder}"),
    benchmark:
        PATHS.benchmark("predict", "{encoder}")
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
