"""What paid LLMs cost: spending, the budget that stops a job before it is crossed, and batches under way.

All of it lies in the response store, so that concurrent jobs of a run share one budget and a killed job's batches are
found again.
"""

from __future__ import annotations

import json
import sqlite3
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mjd.config.llms import Prices
from mjd.errors import BudgetError
from mjd.llm.base import Usage
from mjd.llm.store.replies import Store, StoredReply


@dataclass(frozen=True)
class Batch:
    """A batch of requests: our id, the server's (None when its creation was not confirmed), keys of its requests.

    `requests` holds them by key as the store keeps requests; batches of earlier versions have none.
    """

    id: str
    server_id: str | None
    keys: tuple[str, ...]
    requests: Mapping[str, Any] = field(default_factory=dict)


class Booking(NamedTuple):
    """What one reply cost; `is_estimated` where it did not say how many tokens it took."""

    usage: Usage
    is_estimated: bool = False


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
        self.requests, self.usd, self.estimated = 0, 0.0, 0

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

    @property
    def has_answered(self) -> bool:
        """True when this LLM was ever billed for a reply."""
        found = self._store.db.execute("SELECT requests FROM spending WHERE model = ?", (self._model,)).fetchone()
        return bool(found and found[0])

    def has_replies(self, engine: Mapping[str, Any], kind: str) -> bool:
        """True when the store holds an answer, or a score that is not all null, by an engine with these very settings.

        Args:
            engine: as requests are stored with it.
            kind: `Generate` or `Score`.
        """
        start = json.dumps({"engine": engine})[:-1]
        rows = self._store.db.execute("SELECT reply FROM replies WHERE substr(request, 1, ?) = ?", (len(start), start))
        replies = (json.loads(reply) for (reply,) in rows)
        if kind == "Generate":
            return any("text" in reply for reply in replies)
        return any(score is not None for reply in replies for score in reply.get("scores") or ())

    def book(
        self,
        usage: Usage,
        batch: bool = False,
        reservation: str | None = None,
        estimated: bool = False,
        keep: Iterable[StoredReply] = (),
    ) -> None:
        """Book a reply's price, in place of its reservation; `keep` stores the reply with it, or neither happens."""
        with self._store.transaction() as db:
            self._book(db, [Booking(usage, estimated)], batch)
            self._store.insert(db, keep)
            if reservation:
                db.execute("DELETE FROM reserved WHERE id = ?", (reservation,))
        self._count([Booking(usage, estimated)], batch)

    def _book(self, db: sqlite3.Connection, bookings: Sequence[Booking], batch: bool) -> None:
        db.execute("INSERT OR IGNORE INTO spending VALUES (?, 0, 0, 0, 0, 0)", (self._model,))
        db.executemany(
            "UPDATE spending SET requests = requests + 1, prompt_tokens = prompt_tokens + ?, "
            "completion_tokens = completion_tokens + ?, usd = usd + ?, estimated = estimated + ? WHERE model = ?",
            [
                (u.prompt_tokens, u.completion_tokens, self.price(u, batch), int(is_estimated), self._model)
                for u, is_estimated in bookings
            ],
        )

    def _count(self, bookings: Sequence[Booking], batch: bool) -> None:
        self.requests += len(bookings)
        self.usd += sum(self.price(one.usage, batch) for one in bookings)
        self.estimated += sum(one.is_estimated for one in bookings)

    def release(self, reservation: str) -> None:
        """Give a reservation back: the request failed."""
        if reservation:
            with self._store.transaction() as db:
                db.execute("DELETE FROM reserved WHERE id = ?", (reservation,))

    # -- batches -----------------------------------------------------------------------------------------------

    def open_batches(self, endpoint: str) -> list[Batch]:
        """Batches sent to an endpoint and not closed yet, oldest first."""
        rows = self._store.db.execute(
            "SELECT id, server_id, keys, requests FROM batches WHERE endpoint = ? ORDER BY created", (endpoint,)
        )
        return [
            Batch(name, server_id, tuple(json.loads(keys)), json.loads(requests or "{}"))
            for name, server_id, keys, requests in rows
        ]

    def intend_batch(
        self,
        endpoint: str,
        keys: Sequence[str],
        most: Usage,
        seconds: float,
        requests: Mapping[str, Any] | None = None,
    ) -> Batch:
        """Note a batch before it is created, so that it can be found if the job is killed while creating it.

        Its greatest possible price is reserved under its id: whichever job closes the batch gives that back.

        Args:
            most, seconds: as for `reserve`.
            requests: by key, as the store keeps requests, so that any later job can read the batch's replies.

        Raises:
            BudgetError: the batch could cross the budget.
        """
        name = uuid.uuid4().hex
        with self._store.transaction() as db:
            self._set_aside(db, name, self.price(most, batch=True), seconds)
            db.execute(
                "INSERT INTO batches VALUES (?, ?, NULL, ?, ?, ?)",
                (name, endpoint, json.dumps(list(keys)), time.time(), json.dumps(requests or {})),
            )
        return Batch(name, None, tuple(keys), requests or {})

    def batch_created(self, batch: Batch, server_id: str) -> Batch:
        """Note the server's id of a batch."""
        with self._store.transaction() as db:
            db.execute("UPDATE batches SET server_id = ? WHERE id = ?", (server_id, batch.id))
        return Batch(batch.id, server_id, batch.keys, batch.requests)

    def close_batch(self, batch: Batch, bookings: Sequence[Booking] = (), keep: Iterable[StoredReply] = ()) -> None:
        """Forget a batch and its reservation: it ended, or was never created.

        Its replies are booked and stored in the same transaction: a killed job has done all of it, or nothing.
        """
        with self._store.transaction() as db:
            if bookings:
                self._book(db, bookings, batch=True)
            self._store.insert(db, keep)
            db.execute("DELETE FROM batches WHERE id = ?", (batch.id,))
            db.execute("DELETE FROM reserved WHERE id = ?", (batch.id,))
        self._count(bookings, batch=True)
