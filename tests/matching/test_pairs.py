"""Pairs against two loops over all images."""

import re
from pathlib import Path

import numpy as np
import pytest

from reference_pipelines import matching
from reference_pipelines.matching import collect_pairs, pairs
from reference_pipelines.matching.pairs import BINS, draw_images, unit_vectors
from tests.conftest import says
from tests.matching.support import on_a_grid, population
from tests.oracles import matching as oracle


def listed(found):
    """Return both lists of pairs with the people's places, in an order of their own."""
    impostor = [
        (s, *sorted(p))
        for s, *p in zip(found.highest.tolist(), found.first.tolist(), found.second.tolist(), strict=True)
    ]
    return sorted(zip(found.genuine.tolist(), found.genuine_people.tolist(), strict=True)), sorted(impostor)


def expected(features, ids, cameras, **options):
    genuine, impostor = oracle.pairs(oracle.cosine(features), ids, cameras, **options)
    between, some = options.get("between"), np.asarray(ids) > 0
    if between is not None:
        some &= np.isin(cameras, between)
    place = {person: k for k, person in enumerate(sorted(set(np.asarray(ids)[some].tolist())))}
    return (
        sorted((s, place[a]) for s, a in genuine),
        sorted((s, *sorted((place[a], place[b]))) for s, a, b in impostor),
    )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("options", [{}, {"between": (1, 3)}, {"same_camera": True}, {"cameras": None}])
@pytest.mark.parametrize("block", [50, 2**22])
def test_equals_the_loops(seed, options, block, monkeypatch):
    monkeypatch.setattr(pairs, "_BLOCK_NUMBERS", block)  # two rows a block, or all
    features, ids, cameras = on_a_grid(np.random.default_rng(seed))
    given = options.get("cameras", cameras)
    rest = {key: value for key, value in options.items() if key != "cameras"}
    found = collect_pairs(features, ids, given, **rest, thresholds=(0.5, 0.0))
    genuine, impostor = expected(features, ids, given, **rest)
    assert listed(found) == (genuine, impostor)
    assert found.impostors == len(impostor) == found.impostor_histogram.sum()
    assert found.genuine_histogram.sum() == len(genuine)
    assert (np.diff(found.genuine) >= 0).all()
    assert (np.diff(found.highest) <= 0).all()
    for above, least in zip(found.above, (0.5, 0.0), strict=True):
        both = above + above.T
        for a in range(found.people):
            for b in range(a):
                assert both[a, b] == sum(s >= least and p == (b, a) for s, *p in impostor for p in [tuple(p)])
    angles = np.pi - np.arccos([s for s, *_ in impostor])  # the grid's cosines lie on edges, but for rounding
    places = np.repeat(np.arange(BINS), found.impostor_histogram)
    assert np.abs(places - np.sort(angles) * BINS / np.pi).max() <= 1


def test_only_the_highest_are_held_with_what_equals_the_last(monkeypatch):
    monkeypatch.setattr(pairs, "_BLOCK_NUMBERS", 40)  # the lowest are dropped on the way
    features, ids, cameras = population(np.random.default_rng(1), 12)
    whole = collect_pairs(features, ids, cameras)
    part = collect_pairs(features, ids, cameras, depth=0.1)
    count = int(np.ceil(0.1 * whole.impostors))
    assert np.array_equal(part.highest, whole.highest[:count])
    assert part.impostors == whole.impostors
    tied = collect_pairs(np.repeat([[1.0, 0], [0, 1.0]], 6, axis=0), [1, 2, 3] * 4, None, depth=0.01)
    assert set(tied.highest.tolist()) == {1.0}
    assert len(tied.highest) == tied.impostor_histogram[-1]


def test_the_weight_of_all_pairs_is_their_sum():
    features, ids, cameras = on_a_grid(np.random.default_rng(3))
    for options in ({}, {"between": (1, 2)}):
        found = collect_pairs(features, ids, cameras, **options)
        weights = np.random.default_rng(0).integers(0, 4, size=found.people).astype(float)
        assert found.impostor_weight(weights) == (weights[found.first] * weights[found.second]).sum()


def test_unit_vectors_and_draws():
    vectors = unit_vectors([[3e200, 4e200], [3e-200, 4e-200], [0, 0]], "test")
    np.testing.assert_allclose(vectors, [[0.6, 0.8], [0.6, 0.8], [0, 0]], rtol=1e-6)
    assert draw_images(5, 5, 0).tolist() == [0, 1, 2, 3, 4]
    drawn = draw_images(50, 10, 3)
    assert len(set(drawn.tolist())) == 10
    assert drawn.tolist() == sorted(drawn.tolist()) == draw_images(50, 10, 3).tolist()


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"features": np.full((4, 2), np.nan)}, ("features must be finite",)),
        ({"features": np.ones(4)}, ("features must be (N, D)", "(4,)")),
        ({"ids": [1, 2]}, ("ids must be (4,)", "(2,)")),
        ({"ids": [1.5, 2, 3, 4]}, ("ids must be (4,) whole numbers", "float64")),
        ({"cameras": [1]}, ("cameras must be (4,)", "(1,)")),
        ({"ids": [1, 1, 0, -1]}, ("at least 2 people", "got 1")),
        ({"between": (1, 7)}, ("at least 2 people", "got 1 in cameras 1 and 7")),
        ({"cameras": None, "between": (1, 2)}, ("cameras must be given", "None")),
    ],
)
def test_refusals(change, parts):
    given = {"features": np.eye(4), "ids": [1, 2, 1, 2], "cameras": [1, 2, 2, 2], "who": "here"} | change
    with pytest.raises(ValueError, match="^here: ") as refused:
        collect_pairs(**given)
    assert says(str(refused.value), *parts)


def test_the_room_has_no_torch():
    for path in Path(matching.__file__).parent.glob("*.py"):
        assert not re.search(r"^\s*(import|from) torch", path.read_text(encoding="utf-8"), re.MULTILINE), path
