import os
import sys
from pathlib import Path

from snakemake.utils import min_version

min_version("9.10")

# Jobs import the package from this checkout, whatever environment runs them.
SOURCE = str(Path(workflow.basedir) / "src")
sys.path.insert(0, SOURCE)
# They end with this process.
os.environ.update(PYTHONPATH=SOURCE, MJD_SNAKEMAKE_PID=str(os.getpid()))

from snakemake.common.configfile import load_configfile

from mjd.config.files import check_options_once, check_unchanged, resolve, resolved
from mjd.errors import ConfigError
from mjd.paths import Paths
from mjd.runtime.interruption import end_jobs_on_signals
from mjd.runtime.threads import thread_environment
from mjd.yaml_files import check_keys_once

os.environ.update(thread_environment(os.environ))

if not workflow.overwrite_configfiles:

    configfile: "config/config.yaml"


try:
    if workflow.is_main_process:
        check_options_once(sys.argv[1:])
    check_keys_once(workflow.configfiles)
    # Snakemake would take `--config encoders={}` for nothing to add.
    layers = [load_configfile(file) for file in workflow.configfiles]
    CONFIG = resolve(layers, workflow.config_settings.config)
    if not workflow.is_main_process:
        for file in workflow.configfiles:
            check_unchanged(CONFIG, file)
except ConfigError as error:
    raise WorkflowError(str(error)) from None

config = resolved(CONFIG)  # what Snakemake gives to scripts

PATHS = Paths.of(CONFIG)


wildcard_constraints:
    source=r"[a-z0-9_.-]+(@[a-z0-9_.-]+)?",
    selection="first|longest|all",
    mode="implicit|explicit|plain",
    estimator="|".join(CONFIG.scoring.estimators),
    encoder="|".join(CONFIG.encoders) or "none",
    llm=r"[a-z0-9][a-z0-9._-]*",


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/prompts.smk"
include: "workflow/rules/explain.smk"
include: "workflow/rules/select.smk"
include: "workflow/rules/score.smk"
include: "workflow/rules/plan.smk"
include: "workflow/rules/analyses.smk"


if CONFIG.encoders:

    include: "workflow/rules/finetune.smk"


include: "workflow/rules/fidelity.smk"


TABLES = [spec.table for spec in analyses_of(CONFIG) if spec.is_wanted(CONFIG)]


onstart:
    limit_gpus_of_run()
    keep_configuration_of_run()
    end_jobs_on_signals(workflow.local_exec)


rule all:
    default_target: True
    input:
        expand(
            PATHS.table("{table}", "{suffix}"),
            table=[
                *TABLES,
                *FIDELITY_TABLES,
            ],
            suffix=["parquet", "csv"],
        ),
    message:
        "All tables"


rule mjds:
    input:
        [
            PATHS.distribution_of(system)
            for system in systems.mjd_systems(CONFIG)
            if CONFIG.task.train_hjd != "none"
            or not CONFIG.scoring.estimators[system.estimator].needs_hjds
        ],
    message:
        "All MJDs"


rule data:
    input:
        rules.load_items.output,
        rules.load_pairs.output if CONFIG.data.pairs else [],
        rules.load_ood.output if CONFIG.data.ood else [],
    message:
        "All data sets"


rule models:
    input:
        [PATHS.model(model) for model in CONFIG.used_models],
    message:
        "All model weights that the tables need"
