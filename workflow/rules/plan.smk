# Before spending: what every LLM job will ask, cost and take. `snakemake plan` makes the tables anew every time.
import time

# Their tokenizers count tokens for models that are not on disk; packaged models need no hub.
PLAN_TOKENIZERS = sorted(
    {
        CONFIG.model_entry(entry.model).tokenizer or "smollm2-135m-instruct"
        for entry in CONFIG.llms.values()
    }
)
PLAN_PUBLISHED = (
    sorted(PUBLISHED) if CONFIG.data.items.loader == "mjd-estimator" else []
)


rule plan:
    input:
        data_items=rules.load_items.output.data_items,
        human_explanations=rules.load_items.output.human_explanations,
        prompts=PROMPTS_FILE,
        published=expand(
            PATHS.answers("published/{name}"),
            name=PLAN_PUBLISHED,
        ),
        tokenizers=expand(PATHS.model("{model}"), model=PLAN_TOKENIZERS),
    output:
        parquet=PATHS.table("plan"),
        csv=PATHS.table("plan", "csv"),
    log:
        PATHS.log("plan"),
    benchmark:
        PATHS.benchmark("plan")
    conda:
        "../envs/mjd.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        prompts=PROMPTS,
        published=PLAN_PUBLISHED,
        tokenizers=PLAN_TOKENIZERS,
        asked_at=time.time(),  # what is finished is no input: look again every time
    message:
        "Plan: prompts, tokens, USD and GPU hours"
    script:
        "../scripts/plan.py"
