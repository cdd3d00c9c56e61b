"""Worker processes that go through lists ahead of who asks, in their order; one that dies is one sentence."""

import multiprocessing
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import cycle, islice
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

import torch

from reference_pipelines.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

# Not torch's DataLoader: it is as fast and starts as fast, but a worker's death is raised by a signal handler in the
# middle of whatever step, an error comes in 17 lines, pixels need a large /dev/shm and each list its own processes. Not
# ProcessPoolExecutor: Ctrl-C while its workers start leaves it waiting or spinning for ever, in 11 of 60 tries.
AHEAD = 2  # items under way or waiting, for each worker


class Workers(Generic[Item, Result]):
    """Processes that call one function on the items of list after list, until `end`.

    They are started as this Python starts processes (fork, forkserver or spawn), and live as long as the other end of
    their connection: they end with this process, however it ends.

    Args:
        function: what is done; it goes to each worker once, the items and results are pickled. Results are small: a
            worker that waits for its result to be taken takes no item.
        count: processes, at least 1.

    Raises:
        UserError: a worker could not be started.
    """

    def __init__(self, function: Callable[[Item], Result], count: int) -> None:
        self.count = count
        self._members: list[tuple[BaseProcess, Connection]] = []
        try:
            for _ in range(count):
                self._members.append(_start(function))
        except OSError as error:
            self.end()
            raise UserError(
                f"data: {count} worker processes must start, the system refused ({error.strerror}); "
                "lower --data.workers"
            ) from None
        except BaseException:
            self.end()
            raise

    def map(self, items: Iterable[Item]) -> Iterator[Result]:
        """Yield `function(item)` for every item, in the items' order whatever the number of workers.

        At most `AHEAD` items a worker are taken before their results are asked for, so memory is bounded; the next one
        is taken only when who asks comes back for more. An error, or leaving the iterator early, ends the workers.

        Raises:
            UserError: a worker died.
        """
        left = iter(items)
        turns = cycle([connection for _, connection in self._members])
        waiting: deque[Connection] = deque()
        finished = False
        try:
            self._hand_out(islice(left, AHEAD * self.count), turns, waiting)
            while waiting:
                with self._death_is_named():
                    error, result = waiting.popleft().recv()
                if error is not None:
                    raise error
                yield result
                self._hand_out(islice(left, 1), turns, waiting)
            finished = True
        finally:
            if not finished:
                self.end()

    def _hand_out(self, items: Iterator[Item], turns: Iterator[Connection], waiting: deque[Connection]) -> None:
        for item, connection in zip(items, turns, strict=False):
            with self._death_is_named():
                connection.send(item)
            waiting.append(connection)

    @contextmanager
    def _death_is_named(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError):
            raise UserError(
                f"data: all {self.count} worker processes must live until the last image is read, one was killed or "
                "ran out of memory; free memory or lower --data.workers, and run it again"
            ) from None

    def end(self) -> None:
        """End the processes, whatever they are doing."""
        for process, connection in self._members:
            connection.close()
            process.kill()
        for process, _ in self._members:
            process.join()
        self._members.clear()


def map_in_order(function: Callable[[Item], Result], items: Iterable[Item], *, workers: int) -> Iterator[Result]:
    """Yield `function(item)` for every item, by processes of its own; 0 works in this one. See `Workers`."""
    if workers == 0:
        yield from map(function, items)
        return
    crew = Workers(function, workers)
    yield from crew.map(items)
    crew.end()


def _start(function: Callable[[Any], Any]) -> tuple[BaseProcess, Connection]:
    if multiprocessing.get_start_method() == "forkserver":
        # The server imports torch once, and not each worker anew.
        multiprocessing.set_forkserver_preload(["__main__", function.__module__])
    ours, theirs = multiprocessing.Pipe()
    with theirs, _ctrl_c_held_back():  # closed here, so that nobody but the worker holds it
        process = multiprocessing.Process(target=_work, args=(function, theirs, ours), daemon=True)
        process.start()
    return process, ours


@contextmanager
def _ctrl_c_held_back() -> Iterator[None]:
    """Start processes deaf to Ctrl-C, which a terminal sends to all: one that is still importing would say so."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    if multiprocessing.get_start_method() != "fork":
        resource_tracker.ensure_running()  # comes with the first process, and lifts the mask
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(function: Callable[[Any], Any], connection: Connection, other_end: Connection) -> None:
    """Answer item after item, with one thread; Ctrl-C is the main process's to answer."""
    other_end.close()  # else this process would keep its own connection open
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    with suppress(EOFError, ConnectionError):  # nobody is left to ask
        while True:
            item = connection.recv()
            answer: tuple[Exception | None, Any]
            try:
                answer = None, function(item)
            except Exception as error:
                error.add_note(f"in a worker process:\n{traceback.format_exc()}")
                answer = error, None
            connection.send(answer)
