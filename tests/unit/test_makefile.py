"""The Makefile's targets that delete something."""

import shutil
import subprocess
from pathlib import Path

import pytest

from mjd.config.reference import ROOT


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_clean_keeps_stores(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    stores = [tmp_path / folder / "store" for folder in ("results", "results/public")]
    for store in stores:
        for path in (store / "answers.sqlite", store / "scores/chunk.parquet", store.parent / "tables/ood.csv"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True)
    kept = {path for path in tmp_path.glob("results/**/*") if path.is_file()}
    assert kept == {store / name for store in stores for name in ("answers.sqlite", "scores/chunk.parquet")}
    assert not (tmp_path / "results/tables").exists()
