"""What paid LLMs cost: spending, the budget that stops a job before it is crossed, and batches under way.

All of it lies in the response store, so that concurrent jobs of a run share one budget and a killed job's batches are
found again.
"""

from __future__ import annotations

import json
import sqlite3
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from mjd.config import Prices
from mjd.errors import BudgetError
from mjd.llm.base import Usage
from mjd.llm.store import Store


@dataclass(frozen=True)
class Batch:
    """A batch of requests: our id, the server's (None when its creation was not confirmed), keys of its requests."""

    id: str
    server_id: str | None
    keys: tuple[str, ...]


class Ledger:
    """Money of one LLM, against the budget of all.

    Before a request is sent, its greatest possible price is reserved; its reply books the real price instead. Thus
    spent plus reserved never exceeds the budget, whatever the replies' lengths and however many jobs run.

    Args:
        store: the run's response store.
        model: identity of the LLM.
        prices: its prices; None books tokens only.
        budget: most USD in all of the store; None is no limit.
    """

    def __init__(self, store: Store, model: str, prices: Prices | None, budget: float | None) -> None:
        self._store, self._model, self._prices, self._budget = store, model, prices, budget
        # What this job itself was billed.
        self.requests, self.usd = 0, 0.0

    @property
    def has_prices(self) -> bool:
        return self._prices is not None

    def price(self, usage: Usage, batch: bool = False) -> float:
        """USD of one reply; 0 where no prices are configured."""
        if self._prices is None:
            return 0.0
        return self._prices.usd(usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, batch)

    def spent(self) -> float:
        """USD that the store's replies cost so far, all LLMs and jobs together."""
        return float(self._store.db.execute("SELECT coalesce(sum(usd), 0) FROM spending").fetchone()[0])

    def reserve(self, most: Usage, seconds: float) -> str:
        """Set the price of a request that uses at most `most` aside; returns the reservation, "" without a budget.

        Args:
            seconds: when the reservation lapses, should the job be killed.

        Raises:
            BudgetError: the request could cross the budget.
        """
        if self._budget is None:
            return ""
        name = uuid.uuid4().hex
        with self._store.transaction() as db:
            self._set_aside(db, name, self.price(most), seconds)
        return name

    def _set_aside(self, db: sqlite3.Connection, name: str, usd: float, seconds: float) -> None:
        """Reserve `usd` under a name, within the budget."""
        if self._budget is None:
            return
        now = time.time()
        open_usd = "SELECT coalesce(sum(usd), 0) FROM reserved WHERE expires > ?"
        reserved, spent = float(db.execute(open_usd, (now,)).fetchone()[0]), self.spent()
        if spent + reserved + usd > self._budget:
            raise BudgetError(
                f"The budget of {self._budget:.2f} USD could be crossed: {spent:.4f} USD are spent, "
                f"{reserved:.4f} USD are set aside for requests under way, the next may cost {usd:.4f} USD.",
                "Everything paid for is kept. Raise budget_usd or ask for less (limit, scoring.orders); run again.",
            )
        db.execute("INSERT INTO reserved VALUES (?, ?, ?)", (name, usd, now + seconds))

    def book(self, usage: Usage, batch: bool = False, reservation: str | None = None) -> None:
        """Book a reply's price, in place of its reservation."""
        usd = self.price(usage, batch)
        self.requests, self.usd = self.requests + 1, self.usd + usd
        with self._store.transaction() as db:
            db.execute("INSERT OR IGNORE INTO spending VALUES (?, 0, 0, 0, 0)", (self._model,))
            db.execute(
                "UPDATE spending SET requests = requests + 1, prompt_tokens = prompt_tokens + ?, "
                "completion_tokens = completion_tokens + ?, usd = usd + ? WHERE model = ?",
                (usage.prompt_tokens, usage.completion_tokens, usd, self._model),
            )
            if reservation:
                db.execute("DELETE FROM reserved WHERE id = ?", (reservation,))

    def release(self, reservation: str) -> None:
        """Give a reservation back: the request failed."""
        if reservation:
            with self._store.transaction() as db:
                db.execute("DELETE FROM reserved WHERE id = ?", (reservation,))

    # -- batches -----------------------------------------------------------------------------------------------

    def open_batches(self, endpoint: str) -> list[Batch]:
        """Batches sent to an endpoint and not closed yet, oldest first."""
        rows = self._store.db.execute(
            "SELECT id, server_id, keys FROM batches WHERE endpoint = ? ORDER BY created", (endpoint,)
        )
        return [Batch(name, server_id, tuple(json.loads(keys))) for name, server_id, keys in rows]

    def intend_batch(self, endpoint: str, keys: Sequence[str], most: Usage, seconds: float) -> Batch:
        """Note a batch before it is created, so that it can be found if the job is killed while creating it.

        Its greatest possible price is reserved under its id: whichever job closes the batch gives that back.

        Args:
            most, seconds: as for `reserve`.

        Raises:
            BudgetError: the batch could cross the budget.
        """
        name = uuid.uuid4().hex
        with self._store.transaction() as db:
            self._set_aside(db, name, self.price(most, batch=True), seconds)
            db.execute(
                "INSERT INTO batches VALUES (?, ?, NULL, ?, ?)", (name, endpoint, json.dumps(list(keys)), time.time())
            )
        return Batch(name, None, tuple(keys))

    def batch_created(self, batch: Batch, server_id: str) -> Batch:
        """Note the server's id of a batch."""
        with self._store.transaction() as db:
            db.execute("UPDATE batches SET server_id = ? WHERE id = ?", (server_id, batch.id))
        return Batch(batch.id, server_id, batch.keys)

    def close_batch(self, batch: Batch) -> None:
        """Forget a batch and its reservation: its replies are in the store, or it was never created."""
        with self._store.transaction() as db:
            db.execute("DELETE FROM batches WHERE id = ?", (batch.id,))
            db.execute("DELETE FROM reserved WHERE id = ?", (batch.id,))
