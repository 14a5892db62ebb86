"""What every workflow script does around its one call: log, threads, provenance, errors without tracebacks."""

from __future__ import annotations

import errno
import functools
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mjd import io
from mjd.config.data import source_ids
from mjd.config.files import load_config
from mjd.config.schema import Config
from mjd.data.items import train_items
from mjd.errors import MjdError
from mjd.labels import LabelSet, label_set
from mjd.logs import logging_to
from mjd.paths import Paths
from mjd.runtime.gpus import take_gpus
from mjd.runtime.interruption import closing_on_signals
from mjd.runtime.locks import only_process, unwritable

if TYPE_CHECKING:
    import torch

    from mjd.llm.base import Engine
    from mjd.llm.chat.tokens import ChatTokenizer
    from mjd.llm.store.replies import Store
    from mjd.llm.unanswered import UnansweredPrompts
    from mjd.llm.usage import UsageTracker

log = logging.getLogger("mjd")


@contextmanager
def job(snakemake: Any) -> Iterator[None]:
    """Run a script's body: log to the rule's log and stderr; an `MjdError` ends the job with its message alone.

    A signal that ends the job closes what the body has opened first.
    """
    with logging_to(snakemake.log[0] if snakemake.log else None):
        try:
            with closing_on_signals():
                yield
        except MjdError as error:
            log.error("rule %s: %s", snakemake.rule, error)
            sys.exit(1)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                log.exception("rule %s failed", snakemake.rule)
            else:
                log.error("rule %s: %s", snakemake.rule, unwritable(Path(error.filename or "A file"), error))
            sys.exit(1)
        except Exception:
            log.exception("rule %s failed", snakemake.rule)
            sys.exit(1)


def provenance(
    snakemake: Any, engine: Engine | None = None, tracker: UsageTracker | None = None, **more: Any
) -> dict[str, Any]:
    """Provenance of a job's outputs: the package's, the rule, its seed and params hash, the engine's, and `more`."""
    params: Mapping[str, Any] = dict(snakemake.params.items())
    seed = params.get("seed")
    base = io.provenance(snakemake.config, rule=snakemake.rule, params_hash=io.config_hash(params))
    if seed is not None:
        base["seed"] = seed
    if engine is not None:
        base |= engine.info.provenance() | engine.report()
    if tracker is not None:
        base["usage"] = tracker.provenance()
    return base | more


def config_of(snakemake: Any) -> Config:
    """The run's configuration: every setting as it was when the run started."""
    return load_config(snakemake.config)


def labels_of(snakemake: Any) -> LabelSet:
    """The labels a rule passes in its params."""
    return label_set(snakemake.params.labels)


def source_directories(loader: str, paths: Iterable[str]) -> dict[str, Path]:
    """Downloaded directories of a loader's sources by source id; `paths` in the order of `source_ids`."""
    return {source: Path(path) for source, path in zip(source_ids(loader), paths, strict=True)}


@contextmanager
def engine_of(snakemake: Any, store: Store) -> Iterator[Engine]:
    """The engine of a rule's LLM, with the rule's threads; it ends with the block.

    The rule's params hold what decides the LLM's numbers. Everything else (speed, connection, prices, budget) comes
    from the configuration, so that changing it runs no finished job again.
    """
    from mjd.llm.base import EngineResources
    from mjd.llm.engines import build_engine
    from mjd.llm.store.ledger import Ledger
    from mjd.llm.store.replies import one_at_a_time
    from mjd.planning.prompt_counts import check_prompts_per_item

    config = config_of(snakemake)
    settings = config.llm_settings(snakemake.wildcards.llm)
    # Rule load_items has checked this; `scoring` may have changed since, which runs no rule before this one again.
    human = io.read_parquet(snakemake.input.human_explanations)
    check_prompts_per_item(config, train_items(io.read_parquet(snakemake.input.data_items)), human)
    identity = snakemake.params.engine["identity"]
    ledger = Ledger(store, identity, settings.prices, config.budget_usd)
    # Two runs may share results_dir and not Snakemake's lock: other working directories, --nolock, two configurations.
    output = str(snakemake.output[0])
    lock = Paths.of(config).lock(output)
    is_paid = settings.spec.is_paid
    with nullcontext() if is_paid else only_process(lock, f"work on {output}"):
        take_gpus(settings.resources.gpu, settings.device, f"llms.{snakemake.wildcards.llm}")
        resources = EngineResources(snakemake.threads, ledger, token_counter(config, settings.model))
        engine = build_engine(settings, snakemake.input.get("model") or "", identity, resources)
        try:
            if is_paid:
                store.check_writable()
            with one_at_a_time(store.path, identity) if is_paid else nullcontext():
                yield engine
        finally:
            engine.close()


def token_counter(config: Config, model: str) -> Callable[[str], int] | None:
    """Counts tokens with the tokenizer that an API model's entry names, loaded when first used; None without one.

    One that does not load is warned about, and its tokens are taken from the bytes: the reply to count is paid for.
    """
    from mjd.llm.usage import bytes_count

    named = config.model_entry(model).tokenizer
    directory = Path(Paths.of(config).model(str(named)))
    if not named or not (directory / "config.json").is_file():
        return None

    @functools.cache
    def tokenizer() -> ChatTokenizer | None:
        from mjd.llm.chat.tokens import ChatTokenizer

        try:
            return ChatTokenizer(directory, "none", named)
        except MjdError as error:
            log.warning("tokens of replies that do not say how many they took are estimated by their bytes: %s", error)
            return None

    def count(text: str) -> int:
        found = tokenizer()
        return len(found.tokenizer(text, add_special_tokens=False)["input_ids"]) if found else bytes_count(text)

    return count


def unanswered_prompts(snakemake: Any) -> UnansweredPrompts:
    """Collects a job's unanswered prompts, under the configuration's policy.

    The policy is no parameter of a rule: changing it runs no finished job again.
    """
    from mjd.llm.unanswered import UnansweredPrompts

    return UnansweredPrompts(config_of(snakemake).unanswered)


def encoder_settings(snakemake: Any) -> dict[str, Any]:
    """Keyword arguments `max_length` and `device` of a rule's encoder; uses the rule's threads."""
    settings = config_of(snakemake).encoders[snakemake.wildcards.encoder]
    take_gpus(settings.resources.gpu, settings.device, f"encoders.{snakemake.wildcards.encoder}")
    from mjd.backends.devices import resolve_device, set_threads

    set_threads(snakemake.threads)
    return {"max_length": settings.max_length, "device": resolve_device(settings.device, settings.resources.gpu)}


def parallel_runs(snakemake: Any, device: torch.device) -> int:
    """Fine-tuning runs at a time: the encoder's setting, else one a thread on a CPU and one on a GPU."""
    chosen = config_of(snakemake).encoders[snakemake.wildcards.encoder].parallel_runs
    return chosen or (int(snakemake.threads) if device.type == "cpu" else 1)
