"""Stand-ins for the clock and for cases."""

import torch

from benchmarks.cases import Case, Job, Peer, Problem, Target, Variant

CPU = torch.device("cpu")
SHAPE = (16, 8, 4)
NO_TARGET = Target()


class Clock:
    """Stands in for `time`."""

    now = 0.0

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


CLOCK = Clock()


def problem(shape=SHAPE, *, batch=2, dtype=torch.float32):
    return Problem(CPU, dtype, batch, shape)


def variant(who, *, seconds=0.001, value=1.0, log=None, **options):
    """Return the builder of a variant that takes so long on the stand-in clock and returns so much."""

    def build(problem):
        def work():
            if log is not None:
                log.append(who)
            CLOCK.sleep(seconds)
            return torch.full((2,), value)

        return Variant(work, **options)

    return build


def fake(name, *, ours=0.001, theirs=0.001, log=None, differ=False, target=NO_TARGET, peer=None, **options):
    """Return a case of one peer whose sides take so many seconds."""
    other = peer or variant((name, "theirs"), seconds=theirs, value=1.1 if differ else 1.0, log=log)
    return Case(
        name,
        f"what {name} is",
        variant((name, "ours"), seconds=ours, log=log),
        (Peer("peer", f"other {name}", other, target),),
        (SHAPE,),
        2,
        **options,
    )


def job(case):
    return Job(case, problem(case.shapes[0], batch=case.batch))
