# What rules share: registries, and functions that find their inputs and cut their params.
from mjd import registry, systems
from mjd.config.data import source_ids
from mjd.config.files import write_resolved
from mjd.config.prompts import ExplainPrompts
from mjd.errors import MjdError
from mjd.paths import VARIANT
from mjd.runtime.gpus import find_gpus, limit_gpus
from mjd.runtime.locks import unwritable
from mjd.systems import encode, split_source

REGISTRY = registry.sources()
PUBLISHED = registry.published()

# Prompt templates: a rule's params hold them, or name the file that rule upstream_prompts writes, an input then.
FROM_UPSTREAM = isinstance(CONFIG.prompts, str)
PROMPTS_FILE = PATHS.prompts(CONFIG.prompts) if FROM_UPSTREAM else []
PROMPTS = PROMPTS_FILE if FROM_UPSTREAM else CONFIG.prompts.model_dump()
EXPLAIN_PROMPTS = (
    PROMPTS_FILE
    if FROM_UPSTREAM
    else CONFIG.prompts.model_dump(include=set(ExplainPrompts.model_fields))
)

# Priorities: a mistake in a table ends the run before a model is loaded, a missing API key before anything is trained.
CHECKS_FIRST = 2
LLMS_NEXT = 1


def source_directories(loader):
    """Downloaded directories that a loader reads."""
    return [PATHS.source(source) for source in source_ids(loader)]


def given(*paths):
    """The user's own input files among `paths`."""
    return [path for path in paths if path]


def local_model(model):
    """The user's own files of a model, whose content is in params; where they are missing, the job says so."""
    local = CONFIG.model_entry(model).local
    return [ancient(local)] if local and Path(local).exists() else []


def model_identity(model):
    """Model and revision; that of a local model is read from its files when they are new or have changed."""
    try:
        return CONFIG.model_entry(model).identity(PATHS.model_hashes)
    except MjdError as error:
        raise WorkflowError(str(error)) from None


def model_params(model):
    """What decides a model's weights: its entry and, of a local one, the content of its files, whatever their times."""
    entry = CONFIG.model_entry(model)
    params = entry.model_dump(mode="json", exclude={"tokenizer", "published_as"})
    return params | {"identity": model_identity(model)} if entry.local else params


def model_directory(llm):
    """The model directory of an LLM as an input; nothing for an API model."""
    model = CONFIG.llms[llm].model
    return [] if CONFIG.model_entry(model).api else PATHS.model(model)


def engine_params(llm):
    """What decides an LLM's numbers; a job reads its speed, connection and prices from the configuration."""
    entry = CONFIG.llm_settings(llm)
    return {
        "settings": entry.result_settings(),
        "identity": model_identity(entry.model),
    }


def llm_environment(llm):
    """The conda environment of an LLM's jobs."""
    return f"../envs/{CONFIG.llms[llm].spec.environment}.yaml"


def shown_explanations(wildcards):
    """The explanations that a scoring job shows."""
    source, generator = split_source(wildcards.source)
    return PATHS.shown(source, generator or wildcards.llm, wildcards.selection) or []


def encoder_directory(wildcards):
    """The pre-trained encoder's model directory."""
    return PATHS.model(CONFIG.encoders[wildcards.encoder].model)


def encoder_params(wildcards):
    """What decides an encoder's numbers; a job reads the rest from the configuration."""
    entry = CONFIG.encoders[wildcards.encoder]
    return {
        "settings": entry.result_settings(),
        "identity": model_identity(entry.model),
    }


def analysis_outputs(spec):
    """The outputs of an analysis; its figure, if it draws one, goes into Snakemake's report with its caption."""
    outputs = spec.outputs(PATHS)
    if spec.figure:
        caption = f"../report/{spec.table}.rst"
        outputs["svg"] = report(outputs["svg"], category=spec.figure, caption=caption)
    return outputs


def gpus_asked():
    """GPUs that each LLM and encoder of this run's jobs asks for, by its key in the configuration."""
    asked = {}
    for job in workflow.dag.needrun_jobs():
        for section, wildcard in (("llms", "llm"), ("encoders", "encoder")):
            name = job.wildcards_dict.get(wildcard)
            entry = getattr(CONFIG, section).get(name)
            if entry and "gpu" in job.rule.resources:
                asked[f"{section}.{name}"] = entry.resources.gpu
    return asked


def limit_gpus_of_run():
    """Let no more jobs start than there are GPUs for: `--resources gpu=N`, else this machine's where jobs run here."""
    asked = gpus_asked()
    if not any(asked.values()):
        return
    given = workflow.global_resources.get("gpu")
    given = getattr(given, "value", given)  # a number in Snakemake's earlier versions
    found = len(find_gpus()) if workflow.local_exec else None
    try:
        limit = limit_gpus(asked, given, found)
    except ConfigError as error:
        raise WorkflowError(str(error)) from None
    if given is None and limit is not None:
        # Known now that the executor is: a login node without GPUs must not hold back a cluster's jobs.
        workflow.scheduler.global_resources["gpu"] = limit
        workflow.scheduler.resources["gpu"] = limit


def keep_configuration_of_run():
    """Write down every setting, and let jobs that run in a Snakemake of their own (on a cluster) read that file.

    Snakemake would have them read the user's YAML files, which may change while the run works. The file's name is the
    hash of its content: a later run with other settings leaves it alone.
    """
    if workflow.touch:
        return
    from mjd.io import config_hash  # imports pandas, which a dry run does without

    kept = PATHS.config_of_runs(config_hash(config))
    try:
        write_resolved(CONFIG, [kept, PATHS.resolved_config])
    except OSError as error:
        raise WorkflowError(str(unwritable(Path(kept), error))) from None
    workflow.config_settings.configfiles = [Path(kept).absolute()]
    workflow.config_settings.config_args = []  # `--config` is resolved in the file
