"""Worker processes that go through a list ahead of who asks, in its order; one that dies is one sentence."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any, TypeVar

import torch

from reference_pipelines.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 2  # items under way or waiting, for each worker


def map_in_order(function: Callable[[Item], Result], items: Iterable[Item], *, workers: int) -> Iterator[Result]:
    """Yield `function(item)` for every item, in the items' order whatever the number of workers.

    At most `AHEAD` items a worker are taken before their results are asked for, so memory is bounded; the next one
    is taken only when who asks comes back for more. Leaving the iterator early ends the workers.

    Args:
        function: what is done; it goes to each worker once, the items and results are pickled.
        items: what it is done to.
        workers: processes; 0 works in this one.

    Raises:
        UserError: a worker died or could not be started.
    """
    if workers == 0:
        yield from map(function, items)
        return
    left = iter(items)
    pool = ProcessPoolExecutor(workers, initializer=_begin, initargs=(function,))
    try:
        waiting: deque[Future[Result]] = deque(pool.submit(_work, item) for item in islice(left, AHEAD * workers))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(_work, item) for item in islice(left, 1))
    except BrokenProcessPool:
        raise UserError(
            f"data: all {workers} worker processes must live until the last image is read, one was killed or ran out "
            "of memory; free memory or lower --data.workers, and run it again"
        ) from None
    except OSError as error:
        raise UserError(
            f"data: {workers} worker processes must start, the system refused ({error.strerror}); lower --data.workers"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


_function: Callable[[Any], Any]


def _begin(function: Callable[[Any], Any]) -> None:
    """Prepare a worker: one thread, no answer to Ctrl-C, which the main process answers, and no life after it."""
    global _function
    _function = function
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(item: Any) -> Any:
    return _function(item)
