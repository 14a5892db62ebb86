"""Spending: booked by the price table, shared between jobs, and never beyond the budget."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mjd.config.llms import Prices
from mjd.errors import BudgetError
from mjd.llm.base import Usage
from mjd.llm.store.ledger import Booking, Ledger
from mjd.llm.store.replies import Store

# A dollar for each token in, two for each token out.
PRICES = Prices(input=1e6, output=2e6, cached_input=0.5e6)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "answers.sqlite") as found:
        yield found


def test_prices_are_per_million_tokens() -> None:
    prices = Prices(input=2.5, output=10, cached_input=1.25)
    assert prices.usd(1e6, 1e5) == pytest.approx(3.5)
    assert prices.usd(1e6, 0, cached=4e5) == pytest.approx(2.0)
    assert prices.usd(1e6, 1e5, batch=True) == pytest.approx(1.75)


def test_a_reply_is_booked_in_place_of_its_reservation(store: Store) -> None:
    ledger = Ledger(store, "m", PRICES, budget=20)
    reservation = ledger.reserve(Usage(10, 4), 60)
    ledger.book(Usage(3, 1, cached_tokens=2), reservation=reservation)
    assert ledger.spent() == ledger.usd == pytest.approx(4.0)
    ledger.reserve(Usage(16), 60)  # 4 + 16: exactly the budget


def test_requests_under_way_count_against_the_budget(store: Store) -> None:
    first, second = Ledger(store, "m", PRICES, 20), Ledger(store, "n", PRICES, 20)
    first.reserve(Usage(15), 60)
    with pytest.raises(BudgetError, match=r"15\.0000 USD are set aside.*may cost 6\.0000"):
        second.reserve(Usage(6), 60)
    second.reserve(Usage(5), 60)


def test_released_and_lapsed_reservations_do_not_count(store: Store) -> None:
    ledger = Ledger(store, "m", PRICES, 20)
    ledger.release(ledger.reserve(Usage(20), 60))
    ledger.reserve(Usage(20), -1)
    ledger.reserve(Usage(20), 60)


def test_spending_lasts_beyond_the_job(store: Store) -> None:
    Ledger(store, "m", PRICES, None).book(Usage(12))
    with pytest.raises(BudgetError, match=r"12\.0000 USD are spent"):
        Ledger(store, "m", PRICES, 20).reserve(Usage(9), 60)


def test_without_prices_tokens_are_booked_alone(store: Store) -> None:
    ledger = Ledger(store, "m", None, None)
    ledger.book(Usage(12, 3))
    assert (ledger.usd, ledger.has_prices) == (0.0, False)
    assert store.db.execute("SELECT prompt_tokens, completion_tokens FROM spending").fetchone() == (12, 3)


def test_batches_are_remembered_until_they_are_closed(store: Store) -> None:
    ledger = Ledger(store, "m", None, None)
    noted = ledger.intend_batch("https://a/v1", ["k1", "k2"], Usage(9), 60)
    assert [batch.server_id for batch in ledger.open_batches("https://a/v1")] == [None]
    created = ledger.batch_created(noted, "batch-7")
    assert ledger.open_batches("https://a/v1") == [created]
    assert ledger.open_batches("https://b/v1") == []
    ledger.close_batch(created)
    assert ledger.open_batches("https://a/v1") == []


def test_the_job_that_closes_a_batch_gives_its_reservation_back(store: Store) -> None:
    killed, next_job = Ledger(store, "m", PRICES, 20), Ledger(store, "m", PRICES, 20)
    killed.intend_batch("https://a/v1", ["k"], Usage(40), 26 * 3600)  # half the price: the whole budget
    with pytest.raises(BudgetError, match=r"20\.0000 USD are set aside"):
        next_job.reserve(Usage(1), 60)
    next_job.book(Usage(30), batch=True)
    (batch,) = next_job.open_batches("https://a/v1")
    next_job.close_batch(batch)
    next_job.reserve(Usage(5), 60)  # 15 + 5: exactly the budget


def test_a_batch_beyond_the_budget_is_not_noted(store: Store) -> None:
    ledger = Ledger(store, "m", PRICES, 20)
    with pytest.raises(BudgetError, match=r"may cost 21\.0000"):
        ledger.intend_batch("https://a/v1", ["k"], Usage(42), 60)
    assert ledger.open_batches("https://a/v1") == []


def test_a_reply_is_kept_with_its_booking_or_not_at_all(store: Store) -> None:
    ledger = Ledger(store, "m", PRICES, None)
    with pytest.raises(TypeError):
        ledger.book(Usage(3), keep=[("k", {"letters": []}, {"scores": object()})])
    assert (ledger.requests, ledger.spent(), len(store), ledger.has_answered) == (0, 0.0, 0, False)
    ledger.book(Usage(3), keep=[("k", {"letters": []}, {"scores": [1.0]})])
    assert (ledger.requests, ledger.spent(), len(store), ledger.has_answered) == (1, 3.0, 1, True)


def test_a_batch_is_booked_stored_and_closed_at_once(store: Store) -> None:
    ledger = Ledger(store, "m", PRICES, 100)
    batch = ledger.intend_batch("https://a/v1", ["k", "l"], Usage(20), 60, {"k": {"letters": []}})
    (noted,) = ledger.open_batches("https://a/v1")
    assert noted.requests == {"k": {"letters": []}}
    with pytest.raises(TypeError):
        ledger.close_batch(batch, [Booking(Usage(4))], [("k", {}, {"scores": object()})])
    assert (ledger.spent(), len(ledger.open_batches("https://a/v1"))) == (0.0, 1)
    ledger.close_batch(batch, [Booking(Usage(4)), Booking(Usage(2), True)], [("k", {}, {"scores": [1.0]})])
    assert (ledger.spent(), ledger.requests, ledger.estimated) == (3.0, 2, 1)
    assert (len(store), ledger.open_batches("https://a/v1")) == (1, [])
