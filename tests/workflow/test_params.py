"""What a rule hashes is what its job reads: params, and settings that are none of them."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.workflow.conftest import ROOT

RULES = """
import json, os
from pathlib import Path
from snakemake.api import ConfigSettings, OutputSettings, ResourceSettings, SnakemakeApi
from snakemake.settings.types import Quietness

settings = ConfigSettings(configfiles=[Path("config/public.yaml")])
with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
    workflow = api.workflow(ResourceSettings(cores=1), config_settings=settings, snakefile=Path("Snakefile"))
    rules = workflow._workflow.rules
    print(json.dumps([
        {"name": rule.name, "params": list(rule.params.keys()), "script": os.path.basename(rule.script or ""),
         "analysis": rule.params.get("analysis"), "values": dict(rule.params.items())}
        for rule in rules
    ], default=str))
"""
# Params that helpers of mjd.job read.
HELPERS = {"labels_of": {"labels"}, "engine_of": {"engine"}}
# What an analysis reads of its job (mjd.analyses.base.AnalysisJob).
OF_ANALYSES = {"statistics": "statistics", "distributions": "systems", "systems()": "systems"}
# Read by no script: it makes the rule run every time.
TRIGGERS = {("plan", "asked_at")}
# Settings that jobs read from the configuration and no rule hashes: what they decide is speed, money, policy, a
# warning or a place, and no number. `encoders` in load_items: whether fine-tuning needs dev items, which it checks.
NOT_HASHED = {
    "score.py": {"analyses.label_mass_warning"},
    "load_items.py": {"encoders"},
    "download_source.py": {"mirror"},
    "plan.py": {"budget_usd", "model_copy"},
    "job.py": {"unanswered", "budget_usd", "encoders", "llm_settings", "model_entry"},
}


@pytest.fixture(scope="module")
def rules() -> list[dict[str, Any]]:
    """Name, params, script and analysis of every rule with a script."""
    done = subprocess.run([sys.executable, "-c", RULES], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [rule for rule in json.loads(done.stdout.splitlines()[-1]) if rule["script"]]


def attributes(tree: ast.AST, root: str) -> set[str]:
    """Names that follow `root.` (or stand in `root["..."]`) anywhere in a program."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == root:
            found.add(node.attr)
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == root and isinstance(node.slice, ast.Constant):
            found.add(str(node.slice.value))
    return found


def params_read(script: Path, analysis: str | None) -> set[str]:
    tree = ast.parse(script.read_text(encoding="utf-8"))
    found = attributes(tree, "snakemake.params") | attributes(tree, "params")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            found |= HELPERS.get(node.func.id, set())
    if analysis:
        module, _, name = analysis.partition(":")
        own = ast.parse(inspect.getsource(getattr(importlib.import_module(module), name)))
        found |= attributes(own, "job.params") | attributes(own, "work.params") | {"labels", "data_set"}
        for attribute in attributes(own, "job"):
            found |= {OF_ANALYSES[attribute]} if attribute in OF_ANALYSES else set()
        for call in re.findall(r"job\.systems\((.*?)\)", ast.unparse(own)):
            found.add(ast.literal_eval(call) if call else "systems")
    return found


def test_every_param_of_a_rule_is_read_by_its_job(rules: list[dict[str, Any]]) -> None:
    assert len(rules) > 20
    unread = {
        (rule["name"], param)
        for rule in rules
        for param in set(rule["params"]) - params_read(ROOT / "workflow/scripts" / rule["script"], rule["analysis"])
    }
    assert unread == TRIGGERS


def test_every_param_that_a_script_reads_is_given_by_its_rules(rules: list[dict[str, Any]]) -> None:
    for rule in rules:
        read = params_read(ROOT / "workflow/scripts" / rule["script"], rule["analysis"])
        assert read - {"items", "get"} <= set(rule["params"]), rule["name"]


def test_templates_of_scores_are_no_params_of_generating_explanations(rules: list[dict[str, Any]]) -> None:
    values = {rule["name"]: rule["values"] for rule in rules}
    assert values["generate_explanations"]["prompts"].keys() == {"system", "explain", "label_names"}
    assert values["score"]["prompts"].keys() > {"score", "score_with_explanations", "implicit", "explicit", "option"}


def test_meanings_of_labels_are_params_of_rules_that_write_prompts_only(rules: list[dict[str, Any]]) -> None:
    with_meanings = {
        rule["name"]
        for rule in rules
        for labels in [rule["values"].get("labels") or rule["values"].get("task", {}).get("labels")]
        if labels and "meaning" in labels[0]
    }
    assert with_meanings == {
        "generate_explanations",
        "score",
        "score_all_orders",
        "sample_answers",
        "upstream_prompts",
    }


def settings_read(path: Path) -> set[str]:
    """Keys of the configuration that a program reads, as far as attributes show them."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    chains = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            chain = ast.unparse(node)
            if match := re.fullmatch(r"(?:config_of\(snakemake\)|config)\.([\w.]+)", chain):
                chains.add(match[1])
    return {chain for chain in chains if not any(other.startswith(f"{chain}.") for other in chains)}


def test_settings_that_are_no_params_decide_no_number() -> None:
    for path in [*sorted((ROOT / "workflow" / "scripts").glob("*.py")), ROOT / "src" / "mjd" / "job.py"]:
        assert settings_read(path) <= NOT_HASHED.get(path.name, set()), path.name


def test_scripts_read_the_configuration_through_one_helper() -> None:
    for path in (ROOT / "workflow" / "scripts").glob("*.py"):
        assert not re.search(r"load_config|read_config|snakemake\.config", path.read_text(encoding="utf-8")), path.name
