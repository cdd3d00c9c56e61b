"""Several processes as threads of this one: what they hand each other goes through memory, and nothing is started."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from reference_pipelines.distributed.processes import Processes, SharedError
from reference_pipelines.errors import UserError


class Member(Processes):
    """One of `count` threads that act as processes."""

    def __init__(self, rank, count, barrier, table):
        super().__init__(rank, count, rank)
        object.__setattr__(self, "_barrier", barrier)
        object.__setattr__(self, "_table", table)

    def _everyones(self, value):
        self._table[self.rank] = value
        self._barrier.wait()
        values = list(self._table)
        self._barrier.wait()
        return values

    def once(self, function):
        result, said = self._everyones(_outcome(function) if self.first else None)[0]
        if said is not None:
            raise SharedError(said)
        return result

    def together(self, function):
        outcomes = self._everyones(_outcome(function))
        for _, said in outcomes:
            if said is not None:
                raise SharedError(said)
        return outcomes[self.rank][0]

    def collect(self, rows):
        parts = self._everyones(rows)
        return torch.cat(parts) if self.first else rows[:0]

    def told(self, value):
        values = self._everyones(value)
        return values if self.first else []

    def join(self, rows):
        return np.concatenate(self._everyones(np.array(rows)))

    def spread(self, array):
        return np.array(self._everyones(array)[0])

    def exchange(self, rows):
        return [each[self.place(len(rows))].clone() for each in self._everyones(rows)]


def _outcome(function):
    try:
        return function(), None
    except UserError as error:
        return None, str(error)


def in_threads(count, function):
    """Return what `function(processes)` returns on each of `count` members."""
    barrier, table = threading.Barrier(count, timeout=60), [None] * count

    def work(rank):
        try:
            return function(Member(rank, count, barrier, table))
        except UserError:  # which all raise
            raise
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, range(count)))
