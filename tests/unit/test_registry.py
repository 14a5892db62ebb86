"""The registries of the project, and what makes an entry invalid."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import yaml

from mjd import registry
from mjd.config.data import source_ids
from mjd.errors import ConfigError
from mjd.registry import ModelEntry, PublishedSet, Source
from mjd.settings import check

REGISTRY = Path(__file__).parents[2] / "resources/registry"
SHA = "a" * 64
COMMIT = "b" * 40


def test_every_source_is_pinned_and_licensed() -> None:
    sources = registry.sources(REGISTRY)
    for name, source in sources.items():
        assert source.files, name
        assert source.license, name
        assert source.citation, name
    assert {name: len(source.files) for name, source in sources.items() if len(source.files) > 6} == {
        "published-llama3": 1023,
        "published-gpt4o": 1023,
    }


@pytest.mark.parametrize("loader", ["mjd-estimator", "esnli", "multinli", "anli-dev", "anli-test"])
def test_loaders_read_registered_sources(loader: str) -> None:
    assert set(source_ids(loader)) <= set(registry.sources(REGISTRY))


def test_every_model_is_pinned() -> None:
    for name, entry in registry.models(REGISTRY).items():
        assert entry.license, name
        assert entry.title, name
        if entry.hub:
            assert len(entry.revision or "") == 40, name


def test_published_sets_fit_their_sources() -> None:
    sources = registry.sources(REGISTRY)
    for name, published in registry.published(REGISTRY).items():
        answers = {
            published.answers.format(index=index, label=label)
            for index in range(341)
            for label in published.labels.values()
        }
        assert answers == set(sources[published.source].files), name
        assert published.selections_source is not None
        assert set(published.selections.values()) == set(sources[published.selections_source].files), name
        assert list(published.selections) == [
            f"{source}-{selection}" for source in ("lf", "varierr-lg", "mnli-lg") for selection in ("first", "longest")
        ]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"files": {"x": SHA}}, "give either url, or repository and commit"),
        ({"url": "u", "repository": "o/n", "files": {"x": SHA}}, "give either url, or repository and commit"),
        ({"repository": "o/n", "files": {"x": SHA}}, "a repository needs a commit"),
        ({"repository": "o/n", "commit": COMMIT}, "give either files or a manifest"),
        ({"url": "u", "files": {"x": SHA, "y": SHA}}, "exactly one file"),
        ({"url": "u", "files": {"x": "abc"}}, r"files\.x"),
        ({"url": "u", "file": {"x": SHA}}, r"unknown key 'file' \(did you mean 'files'\?\)"),
    ],
)
def test_invalid_sources(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(Source, {"title": "t", "license": "l"} | values, "sources.yaml: x")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "exactly one of package, hub, local, api .got none"),
        ({"hub": "o/n", "api": "x", "revision": "r"}, r"got hub, api"),
        ({"package": "p", "version": "1"}, "needs version, sha256 and path"),
        ({"hub": "o/n"}, "needs a pinned revision"),
    ],
)
def test_invalid_models(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(ModelEntry, values, "models.yaml: x")


@pytest.mark.parametrize(
    ("values", "identity"),
    [
        ({"package": "p", "version": "1", "sha256": SHA, "path": "p/m.gguf"}, f"p==1:p/m.gguf@{SHA}"),
        ({"hub": "o/n", "revision": "r"}, "o/n@r"),
        ({"hub": "o/n", "revision": "r", "path": "x.gguf"}, "o/n@r:x.gguf"),
        ({"api": "m"}, "api:m"),
        ({"local": "not/there"}, "local:not/there"),
    ],
)
def test_identity_without_local_files_is_the_origin(values: dict[str, str], identity: str, tmp_path: Path) -> None:
    entry = ModelEntry.model_validate(values)
    assert entry.identity(tmp_path / "hashes") == entry.origin == identity
    assert not (tmp_path / "hashes").exists()


def test_identity_of_local_files_is_a_hash_of_their_content(tmp_path: Path) -> None:
    for name in ("one.gguf", "copy.gguf"):
        (tmp_path / name).write_bytes(b"weights")
    one, copy = (ModelEntry(local=str(tmp_path / name)) for name in ("one.gguf", "copy.gguf"))
    assert one.identity(tmp_path) == f"local@{hashlib.sha256(b'weights').hexdigest()}"
    assert copy.identity(tmp_path) == one.identity(tmp_path)
    assert one.origin == f"local:{tmp_path / 'one.gguf'}"


def test_manifest_is_read(tmp_path: Path) -> None:
    (tmp_path / "m.sha256").write_text(f"{SHA}  a b/c\n\n{'c' * 64}  d\n")
    (tmp_path / "sources.yaml").write_text(
        f"x: {{title: t, license: l, repository: o/n, commit: '{COMMIT}', manifest: m.sha256}}\n"
    )
    assert registry.sources(tmp_path)["x"].files == {"a b/c": SHA, "d": "c" * 64}


def test_published_set_needs_its_keys() -> None:
    with pytest.raises(ConfigError, match="key 'answers' is missing"):
        check(PublishedSet, {"title": "t", "source": "s", "labels": {}}, "published.yaml: x")


def test_published_set_is_checked_against_the_sources(tmp_path: Path) -> None:
    source = {"title": "t", "license": "l", "repository": "o/n", "commit": COMMIT, "files": {"x": SHA}}
    entry = {"title": "t", "source": "raw", "answers": "{index}/{label}", "labels": {"e": "E"}}
    (tmp_path / "sources.yaml").write_text(yaml.safe_dump({"raw": source}))
    (tmp_path / "published.yaml").write_text(yaml.safe_dump({"third": entry}))
    assert list(registry.published(tmp_path)) == ["third"]
    (tmp_path / "published.yaml").write_text(yaml.safe_dump({"third": entry | {"selections_source": "chosen"}}))
    with pytest.raises(ConfigError, match="third names the source 'chosen', which does not exist"):
        registry.published(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"selections": {"lf-first": "x"}}, "selections need selections_source"),
        ({"selections": {"lf-best": "x"}, "selections_source": "s"}, r"selections\.lf-best"),
    ],
)
def test_invalid_published_sets(values: dict[str, object], message: str) -> None:
    entry = {"title": "t", "source": "s", "answers": "{index}/{label}", "labels": {"e": "E"}}
    with pytest.raises(ConfigError, match=message):
        check(PublishedSet, entry | values, "published.yaml: x")
