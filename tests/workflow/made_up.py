"""A checkout of its own with a made-up registry and mirror: for what is configured by registry entries alone."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.workflow.conftest import ROOT

REPOSITORY, COMMIT = "someone/answers", "c" * 40
SOURCE = {"title": "Made up", "license": "none", "citation": "none", "repository": REPOSITORY, "commit": COMMIT}


def make_checkout(
    folder: Path, files: Mapping[str, Mapping[str, str]], published: Mapping[str, Any], config: Mapping[str, Any]
) -> None:
    """Copy the project's files, unchanged, to `folder`; write registry, mirror and config/made_up.yaml.

    Args:
        files: source id -> path -> content; they are all the sources of the registry.
        published: published sets of the registry.
    """
    shutil.copy(ROOT / "Snakefile", folder)
    for name in ("src", "workflow", "config", "resources"):
        shutil.copytree(
            ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
        )
    sources = {}
    for name, contents in files.items():
        for path, text in contents.items():
            target = folder / "mirror" / REPOSITORY / COMMIT / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        hashes = {path: hashlib.sha256(text.encode()).hexdigest() for path, text in contents.items()}
        sources[name] = SOURCE | {"files": hashes}
    (folder / "src/mjd/resources/registry/sources.yaml").write_text(yaml.safe_dump(sources))
    (folder / "src/mjd/resources/registry/published.yaml").write_text(yaml.safe_dump(dict(published)))
    (folder / "config/made_up.yaml").write_text(yaml.safe_dump(dict(config)))


def run_checkout(folder: Path, *targets: str) -> None:
    """Make targets below results/ in a checkout; an error of Snakemake fails the test."""
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "1", "--configfile", "config/made_up.yaml", "--"]
        + [f"results/{target}" for target in targets],
        cwd=folder,
        env=os.environ | {"MJD_MIRROR": str(folder / "mirror")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
