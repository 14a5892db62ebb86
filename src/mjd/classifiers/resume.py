"""Fine-tuning runs that ended while others of their job had not: a job that was killed goes on from them.

A rule's outputs are removed before it runs again, so finished runs wait in a directory of their own and become outputs
together when the last one has ended.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa

from mjd.data.files import link_or_copy
from mjd.io import read_parquet, write_parquet


class FinishedRuns:
    """Model directories and histories of finished runs.

    Args:
        directory: where they wait.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)

    def history(self, key: str) -> pd.DataFrame | None:
        """The history of a finished run; None if it has not ended. `key` stands for everything that decides the run."""
        history = self._history_path(key)
        return read_parquet(history) if history.exists() and self._model(key).is_dir() else None

    def put(self, key: str, history: pd.DataFrame, save: Callable[[Path], None]) -> None:
        """Add a finished run; `save` writes its model directory."""
        save(self._model(key))
        write_parquet(history, self._history_path(key), pa.Schema.from_pandas(history, preserve_index=False))

    def hand_over(self, outputs: dict[str, str | Path]) -> None:
        """Put every key's model directory at its output, replace what is there, and forget all runs.

        They are linked, not moved: a job that is killed meanwhile finds them all finished.
        """
        for key, output in outputs.items():
            if Path(output).exists():
                shutil.rmtree(output)
            shutil.copytree(self._model(key), output, copy_function=_link)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _model(self, key: str) -> Path:
        return self.directory / key

    def _history_path(self, key: str) -> Path:
        return self.directory / f"{key}.parquet"


def _link(origin: str, target: str) -> None:
    link_or_copy(Path(origin), Path(target))
