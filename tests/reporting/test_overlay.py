"""Maps over photographs: what is high stands out in the map's colours, what is low leaves the photograph."""

import colorsys

import matplotlib
import numpy as np
import pytest
from PIL import Image

from reference_pipelines.reporting.figures import as_data_uri
from reference_pipelines.reporting.overlay import GATE, HEAT, Scale, channel_profile, overlaid

GROUND = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 32, 3), dtype=np.uint8))
HALVES = np.repeat([[0.0], [1.0]], 8, axis=0).reshape(16, 1)  # nothing in the upper half


def part(image, rows):
    return np.asarray(image, dtype=float)[rows].reshape(-1, 3)


@pytest.mark.parametrize("colours", [HEAT, GATE])
def test_high_is_in_colour_and_low_is_the_photograph_in_grey(colours):
    shown = overlaid(GROUND, HALVES, Scale(colours, 0, 1))
    assert shown.size == GROUND.size
    low, high = part(shown, slice(0, 28)), part(shown, slice(36, 64))
    grey = part(GROUND.convert("L").convert("RGB"), slice(0, 28))
    assert np.corrcoef(low.mean(axis=1), grey.mean(axis=1))[0, 1] > 0.99
    top = 255 * np.array(matplotlib.colormaps[colours](1.0)[:3])
    assert np.abs(high.mean(axis=0) - top).max() < 60
    saturation = [np.mean([colorsys.rgb_to_hsv(*(rgb / 255))[1] for rgb in half]) for half in (low, high)]
    assert saturation[0] < 0.35
    if colours == GATE:  # inferno ends in a light yellow
        assert saturation[1] > 0.55


def test_the_scale_is_the_ends_that_are_given():
    scale = Scale(GATE, 0.4, 0.6)
    np.testing.assert_allclose(scale.to_unit(np.array([0.3, 0.4, 0.5, 0.7])), [0, 0, 0.5, 1], atol=1e-12)
    assert not Scale(GATE, 0.5, 0.5).to_unit(np.array([0.5, 0.5])).any()
    assert scale.gradient().startswith("linear-gradient(90deg,#440154,")
    assert scale.gradient().endswith("#fde725)")
    one, other = (np.asarray(overlaid(GROUND, HALVES, Scale(HEAT, 0, high)), float) for high in (1, 4))
    assert one[40:].mean() > other[40:].mean() + 20


def test_a_map_lies_as_it_lies_in_the_image():
    corner = np.zeros((8, 4))
    corner[0, 3] = 1
    difference = np.asarray(overlaid(GROUND, corner, Scale(HEAT, 0, 1)), float) - np.asarray(
        overlaid(GROUND, np.zeros((8, 4)), Scale(HEAT, 0, 1)), float
    )
    changed = np.abs(difference).sum(axis=2)
    assert changed[:8, 24:].mean() > 50
    assert changed[16:].max() == 0
    assert changed[:, :12].max() == 0


def test_channels_are_bars_from_0_to_1_the_widest_at_the_top():
    values = np.array([0.25, 1.0, 0.5, 0.0])
    shown = np.asarray(channel_profile(values, (40, 4)), int)
    lit = (shown.max(axis=2) > 60).sum(axis=1)
    assert lit[0] >= 37  # less the three lines
    assert lit.tolist() == sorted(lit.tolist(), reverse=True)
    assert 18 <= lit[1] <= 20
    assert lit[3] == 0


def test_a_data_uri_holds_the_image():
    assert as_data_uri(GROUND).startswith("data:image/jpeg;base64,/9j/")
