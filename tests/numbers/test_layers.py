"""NaN and Inf in a map: they stay with their image, and no layer makes something finite of them."""

import pytest
import torch

from tests.golden.formulas import fill, wave
from tests.golden.layers import LAYERS, SIZE

CHANNELS = 32


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf], ids=["nan", "inf", "minus inf"])
def test_a_bad_number_is_seen_in_its_own_image_and_in_no_other(name, value):
    layer, x = fill(LAYERS[name]()).eval(), wave(3, CHANNELS, *SIZE, number=50)
    bad = x.clone()
    bad[1, 2, 3, 1] = value
    with torch.no_grad():
        found, wanted = layer(bad), layer(x)
    assert not found[1].isfinite().all()
    torch.testing.assert_close(found[[0, 2]], wanted[[0, 2]], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", LAYERS)
def test_constant_and_black_maps_give_finite_maps_and_gradients(name):
    for value in (0.0, 1.0, -3.0):
        for training in (True, False):
            layer = fill(LAYERS[name]()).train(training)
            x = torch.full((3, CHANNELS, *SIZE), value, dtype=torch.float64, requires_grad=True)
            y = layer(x)
            y.sum().backward()
            assert y.isfinite().all()
            assert all(each.grad.isfinite().all() for each in (x, *layer.parameters()))
