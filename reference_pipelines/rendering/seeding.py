"""Random numbers that depend on what is drawn, never on when or by whom it is drawn.

Every person, camera and image has its own generator, derived from (seed, domain, stream, numbers...)
by `numpy.random.SeedSequence`. So one image can be drawn again alone, in any order, on any worker.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from reference_pipelines.errors import closest

Domain = Literal["plaza", "mall"]
Stream = Literal["identity", "camera", "sighting", "image", "plan"]

DOMAINS: tuple[str, ...] = get_args(Domain)
_STREAMS: tuple[str, ...] = get_args(Stream)


def check_domain(domain: str) -> None:
    """Refuse an unknown domain.

    Raises:
        ValueError: The domain is not one of `DOMAINS`.
    """
    if domain not in DOMAINS:
        raise ValueError(
            f"rendered pedestrians: the domain must be one of {list(DOMAINS)}, got {domain!r}"
            f"{closest(str(domain), DOMAINS)}"
        )


def check_seed(seed: int) -> None:
    """Refuse a seed that numpy's seed sequences cannot hold.

    Raises:
        ValueError: The seed is not an integer of at least 0.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"rendered pedestrians: the seed must be an integer >= 0, got {seed!r}; use e.g. 0.")


def generator(seed: int, domain: str, stream: Stream, *numbers: int) -> np.random.Generator:
    """The generator of one person, camera, sighting or image.

    Args:
        seed: The data set's seed, at least 0.
        domain: One of `DOMAINS`.
        stream: What is drawn; streams never share random numbers.
        numbers: What tells this one from the others of its stream, each at least 0.
    """
    key = (seed, DOMAINS.index(domain), _STREAMS.index(stream), *numbers)
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))
