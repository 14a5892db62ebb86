"""Where artifacts lie: every path of a run, once. Rules, jobs and the plan ask here (docs/artifacts.md lists them).

Arguments may be Snakemake wildcards (`paths.scores("{llm}", VARIANT)`), so that a rule's pattern and a job's path come
from one function.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mjd.config.schema import Config
from mjd.systems import Replacement, System, generator_slug

# What a scorer reads, as rules spell it: see `System.variant`.
VARIANT = "{source}-{selection}-{mode}"


@dataclass(frozen=True)
class Paths:
    """The paths below a configuration's `results_dir` and `downloads_dir`.

    `llm` is a key of `llms`; `generator` a key of `llms` or a published set (`published/llama3`); `variant` a
    `System.variant`.
    """

    results: str
    downloads: str

    @classmethod
    def of(cls, config: Config) -> Paths:
        return cls(config.results_dir, config.downloads_dir)

    # -- downloads -------------------------------------------------------------------------------------------------

    def source(self, source_id: str) -> str:
        """Directory of a public source."""
        return f"{self.downloads}/sources/{source_id}"

    def model(self, model: str) -> str:
        """Directory of a model's weights."""
        return f"{self.downloads}/models/{model}"

    @property
    def blobs(self) -> str:
        """Files as they were downloaded, by SHA-256."""
        return f"{self.downloads}/blobs"

    @property
    def model_hashes(self) -> str:
        """Directory of the kept hashes of local models."""
        return f"{self.downloads}/model_hashes"

    # -- data ------------------------------------------------------------------------------------------------------

    def data(self, name: str) -> str:
        """Loaded data: items, human_explanations, pairs, ood."""
        return f"{self.results}/data/{name}.parquet"

    def prompts(self, name: str) -> str:
        """Prompt templates that are read from public files."""
        return f"{self.results}/prompts/{name}.json"

    def distribution(self, name: str) -> str:
        """A distribution that no model made: hjd, uniform, label counts."""
        return f"{self.results}/distributions/{name}.parquet"

    # -- explanations ----------------------------------------------------------------------------------------------

    def answers(self, generator: str) -> str:
        """A generator's raw answers."""
        return f"{self.results}/explanations/{generator_slug(generator)}/answers.parquet"

    def candidates(self, generator: str) -> str:
        """The explanations that were read out of a generator's answers."""
        return f"{self.results}/explanations/{generator_slug(generator)}/candidates.parquet"

    def selected(self, generator: str, source: str, selection: str) -> str:
        """The explanations of a generator that a source shows."""
        return f"{self.results}/explanations/{generator_slug(generator)}/selected/{source}-{selection}.parquet"

    def replaced(self, replacement: Replacement) -> str:
        """Human explanations some of which are replaced."""
        return f"{self.results}/explanations/replaced/{replacement.slug}.parquet"

    def shown(self, source: str, generator: str, selection: str) -> str | None:
        """The explanations that prompts of a source show; None where they show none.

        Args:
            generator: whose explanations they are, for sources of model explanations.
        """
        if source == "none":
            return None
        if source == "human":
            return self.data("human_explanations")
        if replacement := Replacement.parse(source):
            return self.replaced(replacement)
        return self.selected(generator, source, selection)

    def shown_by(self, system: System) -> str | None:
        """The same for an MJD system."""
        return self.shown(str(system.source), str(system.generator or system.scorer), str(system.selection))

    # -- scores and distributions ----------------------------------------------------------------------------------

    def scores(self, llm: str, variant: str) -> str:
        """Scores of every prompt."""
        return f"{self.results}/scores/{llm}/{variant}.parquet"

    def all_orders(self, llm: str, variant: str) -> str:
        """Scores of a few items in all orders of explanations."""
        return f"{self.results}/analyses/all_orders/{llm}/{variant}.parquet"

    def estimator_answers(self, llm: str, variant: str, estimator: str) -> str:
        """Answers that an estimator without a scores table reads MJDs out of; the name is that of `mjd`."""
        return f"{self.results}/answers/{llm}/{variant}-{estimator}.parquet"

    def mjd(self, llm: str, variant: str, estimator: str) -> str:
        """Model judgment distributions."""
        return f"{self.results}/mjd/{llm}/{variant}-{estimator}.parquet"

    def scores_of(self, system: System) -> str:
        """Scores that an MJD system is made from."""
        return self.scores(str(system.scorer), system.variant)

    def all_orders_of(self, system: System) -> str:
        """Scores in all orders of an MJD system's variant."""
        return self.all_orders(str(system.scorer), system.variant)

    def distribution_of(self, system: System) -> str:
        """The distributions of a system."""
        if system.kind == "mjd":
            return self.mjd(str(system.scorer), system.variant, str(system.estimator))
        return self.distribution(system.slug)

    def sampled_answers(self, llm: str) -> str:
        """Answers in full to a sample of an LLM's scored prompts."""
        return f"{self.results}/analyses/first_token/{llm}.parquet"

    # -- classifiers -----------------------------------------------------------------------------------------------

    def checkpoint(self, encoder: str, system: str, seed: int | str) -> str:
        """Directory of a fine-tuned classifier."""
        return f"{self.results}/checkpoints/{encoder}/{system}/seed{seed}"

    def training_history(self, encoder: str) -> str:
        """Dev scores of every fine-tuning run."""
        return f"{self.results}/finetuning/{encoder}/history.parquet"

    def predictions(self, encoder: str) -> str:
        """What every classifier predicts for dev, test and the OOD rounds."""
        return f"{self.results}/predictions/{encoder}.parquet"

    # -- for people ------------------------------------------------------------------------------------------------

    def table(self, name: str, suffix: str = "parquet") -> str:
        return f"{self.results}/tables/{name}.{suffix}"

    def figure(self, name: str, suffix: str) -> str:
        return f"{self.results}/figures/{name}.{suffix}"

    # -- beside the artifacts: what jobs keep so that nothing is computed or paid for twice ------------------------

    @property
    def store(self) -> str:
        """The response store."""
        return f"{self.results}/store/answers.sqlite"

    def local_answers(self, llm: str) -> str:
        """Directory of the explanations that a local LLM has written."""
        return f"{self.results}/store/answers/{llm}"

    def local_sampled_answers(self, llm: str) -> str:
        """Directory of a local LLM's answers to sampled prompts."""
        return f"{self.results}/store/first_token/{llm}"

    def local_scores(self, llm: str, variant: str) -> str:
        """Directory of a job's finished scores."""
        return f"{self.results}/store/scores/{llm}/{variant}"

    def local_all_orders(self, llm: str, variant: str) -> str:
        """The same for scores in all orders."""
        return f"{self.results}/store/all_orders/{llm}/{variant}"

    def finished_runs(self, encoder: str) -> str:
        """Directory of fine-tuning runs that have ended while others of their job go on."""
        return f"{self.results}/store/finetuning/{encoder}"

    def lock(self, output: str) -> Path:
        """The lock of the job that makes an artifact."""
        return Path(self.results, "store/locks") / Path(output).relative_to(self.results).with_suffix(".lock")

    # -- of runs ---------------------------------------------------------------------------------------------------

    @property
    def resolved_config(self) -> str:
        """Every setting of the newest run, for people."""
        return f"{self.results}/config.resolved.yaml"

    def config_of_runs(self, config_hash: str) -> str:
        """Every setting of the runs with that `config_hash`, for their jobs."""
        return f"{self.results}/configs/{config_hash}.yaml"

    # -- of rules --------------------------------------------------------------------------------------------------

    def log(self, *parts: str) -> str:
        """Log of a rule: its name, and its wildcards."""
        return f"{self.results}/logs/{'/'.join(parts)}.log"

    def benchmark(self, *parts: str) -> str:
        """Run time and memory of a rule, as Snakemake measures them."""
        return f"{self.results}/benchmarks/{'/'.join(parts)}.tsv"
