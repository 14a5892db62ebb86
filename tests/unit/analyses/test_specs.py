"""Analyses: what rules know of them, and one that is added by a class and an entry alone."""

import runpy
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pyarrow as pa
import pytest
import yaml
from snakemake.iocontainers import InputFiles, OutputFiles, Params

from mjd.analyses.base import Analysis, AnalysisJob, build_analysis
from mjd.analyses.specs import ANALYSES, AnalysisSpec, analyses_of
from mjd.config.files import load_config, read_config
from mjd.figures import figure
from mjd.io import read_parquet, read_provenance, write_parquet
from mjd.labels import LabelSet
from mjd.paths import Paths

SPECS = {spec.table: spec for spec in ANALYSES}


class PromptsOfSystems(Analysis):
    """How many prompts each system has: the least that an analysis is, with a table for people and a figure."""

    digits = 1

    def schema(self, labels: LabelSet) -> pa.Schema:
        return pa.schema([("system", pa.string()), ("n_prompts", pa.float64()), ("data_set", pa.string())])

    def run(self, job: AnalysisJob) -> pd.DataFrame:
        counts = [frame["n_prompts"].mean() for frame in job.distributions().values()]
        titles = [system.title for system in job.systems()]
        return pd.DataFrame({"system": titles, "n_prompts": counts, "data_set": job.data_set})

    def for_people(self, table: pd.DataFrame) -> pd.DataFrame:
        return table.drop(columns="data_set")

    def plot(self, table: pd.DataFrame, job: AnalysisJob, paths: Sequence[Path]) -> None:
        with figure(paths, job.data_set) as (_, axes):
            axes.bar(table["system"], table["n_prompts"])


@pytest.mark.parametrize("table", SPECS)
def test_entry_of_an_analysis_names_an_implementation_whose_schema_has_the_data_set(
    table: str, nli_labels: LabelSet
) -> None:
    analysis = build_analysis(SPECS[table].implementation)
    assert isinstance(analysis, Analysis)
    assert "data_set" in analysis.schema(nli_labels).names


def test_entries_of_analyses_have_rules_and_tables_of_their_own() -> None:
    assert len({spec.rule for spec in ANALYSES}) == len(SPECS) == len(ANALYSES)


def test_analyses_that_draw_a_figure_have_a_caption() -> None:
    drawn = [spec.table for spec in ANALYSES if spec.figure]
    assert drawn
    assert all(Path(f"workflow/report/{table}.rst").is_file() for table in drawn)


@pytest.mark.parametrize("name", ["config", "public", "public-all-orders", "paper"])
def test_each_system_of_an_analysis_has_one_input_file(name: str) -> None:
    config = read_config(f"config/{name}.yaml")
    paths = Paths.of(config)
    for table, of_systems in (
        ("distribution_comparison", "distributions"),
        ("finding", "distributions"),
        ("bias", "scores"),
        ("convergence", "scores"),
        ("first_token", "scores"),
    ):
        inputs, params = SPECS[table].inputs(config, paths), SPECS[table].params(config)
        assert len(inputs[of_systems]) == len(params["systems"]), table


def test_configuration_without_encoders_has_no_analysis_of_classifiers() -> None:
    config = load_config({"extends": "config/config.yaml", "encoders": {}})
    assert not {"finetuning", "ood"} & {spec.table for spec in analyses_of(config)}
    assert {"finetuning", "ood"} <= {spec.table for spec in analyses_of(read_config("config/config.yaml"))}


def test_all_leaves_out_analyses_that_a_configuration_has_nothing_for() -> None:
    config = load_config({"extends": "config/config.yaml", "task": {"train_hjd": "none"}})
    unwanted = {spec.table for spec in ANALYSES if not spec.is_wanted(config)}
    assert unwanted == {"distribution_comparison", "finding"}
    config = load_config({"extends": "config/config.yaml", "analyses": {"convergence_items": 0}})
    assert {spec.table for spec in ANALYSES if not spec.is_wanted(config)} == {"convergence"}


def test_analysis_added_by_a_class_and_an_entry_runs_through_the_script(tmp_path: Path) -> None:
    values = yaml.safe_load(Path("config/config.yaml").read_text(encoding="utf-8")) | {"results_dir": str(tmp_path)}
    config = load_config(values)
    paths = Paths.of(config)
    spec = AnalysisSpec(
        table="prompts_of_systems",
        rule="prompts_of_systems",
        implementation=f"{__name__}:PromptsOfSystems",
        message="Prompts of systems",
        inputs=lambda config, paths: {"distributions": [paths.mjd("llm", "none-all-plain", name) for name in "ab"]},
        params=lambda config: {"systems": [{"slug": "a", "title": "A"}, {"slug": "b", "title": "B"}]},
        figure="Prompts",
    )
    schema = pa.schema([("uid", pa.string()), ("n_prompts", pa.int64())])
    for n, path in enumerate(spec.inputs(config, paths)["distributions"]):
        write_parquet(pd.DataFrame({"uid": ["1", "2"], "n_prompts": [n, n + 1]}), path, schema)
    common = {"analysis": spec.implementation, "labels": config.label_entries, "data_set": config.data.label}
    snakemake = SimpleNamespace(
        rule=spec.rule,
        config=values,
        log=[],
        input=InputFiles(fromdict=dict(spec.inputs(config, paths))),
        output=OutputFiles(fromdict=spec.outputs(paths)),
        params=Params(fromdict={**spec.params(config), **common}),
    )
    for path in spec.outputs(paths).values():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    runpy.run_path("workflow/scripts/analysis.py", init_globals={"snakemake": snakemake})
    table = read_parquet(tmp_path / "tables/prompts_of_systems.parquet")
    assert table.to_dict("list") == {"system": ["A", "B"], "n_prompts": [0.5, 1.5], "data_set": [config.data.label] * 2}
    assert read_provenance(tmp_path / "tables/prompts_of_systems.parquet")["rule"] == "prompts_of_systems"
    assert (tmp_path / "tables/prompts_of_systems.csv").read_text() == "system,n_prompts\nA,0.5\nB,1.5\n"
    assert "<svg" in (tmp_path / "figures/prompts_of_systems.svg").read_text()
    assert (tmp_path / "figures/prompts_of_systems.png").stat().st_size > 0
