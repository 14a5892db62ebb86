"""Iterators that run in threads of their own, the CPU's cores shared out among them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from queue import Empty, Queue, SimpleQueue
from threading import Event, Thread
from typing import TypeVar

import torch

T = TypeVar("T")


def side_by_side(tasks: Sequence[Callable[[], Iterable[T]]], n_workers: int) -> Iterator[T]:
    """Everything that the tasks yield, as it comes; `n_workers` of them run at a time, begun in their order.

    PyTorch's operators let other threads run Python meanwhile. Each worker's operators use its share of the threads
    that PyTorch has here, so that large operators do not wait for one another at every step. One worker is this thread.

    Raises:
        Exception: what a task raised first; the others stop at what they yield next.
    """
    if n_workers == 1:
        for task in tasks:
            yield from task()
        return
    n_threads = torch.get_num_threads()
    waiting: SimpleQueue[Callable[[], Iterable[T]]] = SimpleQueue()
    for task in tasks:
        waiting.put(task)
    found: Queue[tuple[T] | BaseException | None] = Queue(2 * n_workers)
    stop = Event()

    def work() -> None:
        torch.set_num_threads(max(n_threads // n_workers, 1))
        try:
            while not stop.is_set():
                for one in waiting.get_nowait()():
                    found.put((one,))
                    if stop.is_set():
                        break
        except Empty:
            pass
        except BaseException as error:
            found.put(error)
        finally:
            found.put(None)

    workers = [Thread(target=work, daemon=True) for _ in range(n_workers)]
    for worker in workers:
        worker.start()
    working = n_workers
    try:
        while working:
            one = found.get()
            if isinstance(one, BaseException):
                raise one
            if one is None:
                working -= 1
            else:
                yield one[0]
    finally:
        stop.set()
        while working:
            working -= found.get() is None
        for worker in workers:
            worker.join()
        torch.set_num_threads(n_threads)
