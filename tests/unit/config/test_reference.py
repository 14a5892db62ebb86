"""Generated files agree with the code they are generated from."""

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from mjd.config.reference import ROOT, config_schema, generated_files


@pytest.mark.parametrize("path", generated_files(), ids=lambda path: path.name)
def test_generated_file_is_up_to_date(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == generated_files()[path], "run `make docs` and commit the result"


@pytest.mark.parametrize("name", ["config.yaml", "public.yaml", "paper.yaml"])
def test_json_schema_accepts_the_shipped_configs(name: str) -> None:
    values: dict[str, Any] = {}
    for part in ("nli.yaml", name):
        values |= yaml.safe_load((ROOT / "config" / part).read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(config_schema()).validate(values)


def test_json_schema_refuses_unknown_keys() -> None:
    assert config_schema()["additionalProperties"] is False
