"""The one exception family of mjd: every message says what is wrong, where, and how to cure it."""

from __future__ import annotations


class MjdError(Exception):
    """A problem the user can act on.

    Args:
        problem: what is wrong, naming the file, row, column or key.
        cure: what to do about it, an imperative sentence.
    """

    def __init__(self, problem: str, cure: str) -> None:
        super().__init__(f"{problem} {cure}")
        self.problem = problem
        self.cure = cure

    def __reduce__(self) -> tuple[type[MjdError], tuple[str, str]]:
        """Errors cross process boundaries whole."""
        return type(self), (self.problem, self.cure)


class ConfigError(MjdError):
    """The configuration is invalid."""


class DataError(MjdError):
    """An input table or file is invalid."""


class DownloadError(MjdError):
    """A file could not be fetched, or is not the file it should be."""


class ModelError(MjdError):
    """A language model, tokenizer or classifier cannot be used as asked."""
