"""How much of a map lies on a mask."""

import numpy as np
import pytest

from reference_pipelines.explaining.on_person import share_on_person
from reference_pipelines.reporting.overlay import grown

LEFT = np.zeros((8, 4), np.float32)
LEFT[:, :2] = 1


def test_shares_worked_by_hand():
    ones = np.ones((1, 4, 2), np.float32)
    assert share_on_person(ones, [LEFT])[0] == pytest.approx(0.5)
    assert share_on_person(ones, [LEFT * 0.5])[0] == pytest.approx(0.25)
    # Twice as large: [a, b] becomes [a, 0.75 a + 0.25 b, 0.25 a + 0.75 b, b].
    one_side = np.tile(np.array([1.0, 0.0], np.float32), (1, 4, 1))
    assert grown(one_side, (8, 4))[0, 3].tolist() == [1, 0.75, 0.25, 0]
    assert share_on_person(one_side, [LEFT])[0] == pytest.approx(1.75 / 2)
    assert share_on_person(np.repeat(np.repeat(one_side, 2, 1), 2, 2), [LEFT])[0] == pytest.approx(1)


def test_what_is_not_known_is_no_number():
    maps = np.stack([np.zeros((4, 2)), np.ones((4, 2)), np.ones((4, 2))]).astype(np.float32)
    found = share_on_person(maps, [LEFT, None, LEFT])
    assert np.isnan(found).tolist() == [True, True, False]


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match="got 1 masks of 2 maps"):
        share_on_person(np.ones((2, 4, 2), np.float32), [LEFT])
    with pytest.raises(ValueError, match="no value below 0.*-1"):
        share_on_person(-np.ones((1, 4, 2), np.float32), [LEFT])
