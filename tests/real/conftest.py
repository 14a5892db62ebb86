"""The real data: a mirror of the public files, named by MJD_MIRROR or found beside the repository."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mjd import registry
from mjd.config.files import read_config
from mjd.config.schema import Config
from mjd.data.download import fetch_source

ROOT = Path(__file__).parents[2]
SourceDirectory = Callable[[str], Path]


@pytest.fixture(scope="session")
def mirror() -> Path:
    """The mirror; without one tests are skipped, but fail in CI, where it must be there."""
    path = Path(os.environ.get("MJD_MIRROR") or ROOT.parent / "shared/mirror")
    if not path.is_dir():
        message = f"The real data are not at {path}. Set MJD_MIRROR to a mirror of the public files."
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return path


@pytest.fixture(scope="session")
def source(mirror: Path, tmp_path_factory: pytest.TempPathFactory) -> SourceDirectory:
    """Fetch a source of the registry by id, once a session; returns its directory."""
    base = tmp_path_factory.mktemp("sources")
    sources = registry.sources(ROOT / "resources/registry")

    def fetch(source_id: str) -> Path:
        directory = base / source_id
        if not directory.exists():
            fetch_source(sources[source_id], directory, base / "blobs", mirror)
        return directory

    return fetch


@pytest.fixture(scope="session")
def public_config() -> Config:
    """config/public.yaml: the real items on small models."""
    before = Path.cwd()
    os.chdir(ROOT)  # paths in configurations and registries start at the repository's root
    try:
        return read_config("config/public.yaml")
    finally:
        os.chdir(before)
