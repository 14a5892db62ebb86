"""Iterators in threads of their own."""

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from mjd.llm.transformers.side_by_side import side_by_side


def numbers(start: int, n: int) -> Iterator[int]:
    yield from range(start, start + n)


@pytest.mark.parametrize("n_workers", [1, 2, 3])
def test_everything_comes_once(n_workers: int) -> None:
    tasks = [lambda start=start: numbers(start, 10) for start in (0, 10, 20, 30)]
    assert sorted(side_by_side(tasks, n_workers)) == list(range(40))


def test_tasks_run_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=10)

    def meet() -> Iterator[int]:
        both.wait()
        yield 1

    assert list(side_by_side([meet, meet], 2)) == [1, 1]


def test_an_error_ends_the_others_and_is_raised() -> None:
    made = []

    def endless() -> Iterator[int]:
        while True:
            made.append(1)
            yield 1
            time.sleep(0.001)

    def failing() -> Iterator[int]:
        yield 1
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        list(side_by_side([endless, failing], 2))
    n = len(made)
    time.sleep(0.05)
    assert len(made) == n


def test_a_consumer_that_stops_ends_the_workers() -> None:
    before = threading.active_count()
    running = side_by_side([lambda: numbers(0, 10_000)] * 2, 2)
    next(running)
    running.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_workers_share_the_threads_and_give_them_back(two_threads: None) -> None:
    def threads() -> Iterator[int]:
        yield torch.get_num_threads()

    assert list(side_by_side([threads, threads], 2)) == [1, 1]
    assert torch.get_num_threads() == 2


@pytest.fixture
def two_threads() -> Iterator[None]:
    n = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(n)
