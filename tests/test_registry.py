"""The registry builds what it knows and says what is meant where it does not."""

import pytest
import torch
from torch import nn

import attnreid.layers
from attnreid import AttentionPyramid, attach, registry
from attnreid.registry import create_attention, list_attention, register_attention


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    monkeypatch.setattr(registry, "_builders", dict(registry._builders))


def test_lists_the_names_in_order():
    names = list_attention()
    assert {"se", "rga_s", "pixel", "head", "domain", "multi_level"} <= set(names)
    assert names == sorted(names)
    names.clear()
    assert list_attention()


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("se", "SqueezeExcitation", {"reduction": 4, "parts": 2}),
        ("rga_s", "RelationAwareSpatialAttention", {"size": (4, 2)}),
        ("pixel", "PixelLevelAttention", {"shared_map": True}),
        ("head", "HeadLevelAttention", {"size": (4, 2), "heads": 2}),
        ("domain", "DomainLevelAttention", {"memory": 3}),
        ("multi_level", "MultiLevelAttention", {"size": (4, 2), "levels": ("head",)}),
    ],
)
def test_creates_each_layer_with_its_options(name, kind, options):
    layer = create_attention(name, 8, dtype=torch.float64, **options)
    assert type(layer) is getattr(attnreid.layers, kind)
    for option, value in options.items():
        assert getattr(layer, option) == value
    assert layer(torch.ones(1, 8, 4, 2, dtype=torch.float64)).shape == (1, 8, 4, 2)
    assert create_attention(name, 8, **options) is not create_attention(name, 8, **options)


def test_registers_classes_and_functions_and_returns_them():
    @register_attention("mine")
    class Mine(nn.Module):
        def __init__(self, channels, *, sharp=False):
            super().__init__()
            self.channels, self.sharp = channels, sharp

    @register_attention("anything_goes")
    def build(channels, **options):
        return nn.Identity()

    assert isinstance(Mine, type)
    assert "mine" in list_attention()
    assert create_attention("mine", 8, sharp=True).sharp
    assert isinstance(create_attention("anything_goes", 8, whatever=1), nn.Identity)
    assert build(8) is not None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rga", r"name .*registered .*, got 'rga': .*'rga_s'"),
        ("multilevel", r"got 'multilevel': .*'multi_level'\?"),
        ("zzz", r"got 'zzz': .*'?domain'?, .*se"),
    ],
)
def test_an_unknown_name_is_refused_with_the_closest(name, message):
    with pytest.raises(ValueError, match=message):
        create_attention(name, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reducton": 8}, r"attention 'se': no option 'reducton': .*'reduction'\?"),
        ({"zzz": 8}, r"attention 'se': no option 'zzz': .*reduction, hidden, parts, device, dtype"),
    ],
)
def test_an_unknown_option_is_refused_with_the_closest(options, message):
    with pytest.raises(TypeError, match=message):
        create_attention("se", 64, **options)


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match=r"got 'se', .*taken: .*register_attention\('se', replace=True\)"):
        register_attention("se")(nn.Identity)
    assert type(create_attention("se", 8)).__name__ == "SqueezeExcitation"


class Mine(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.factor = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x):
        return x * self.factor


class MineAgain(Mine):
    def forward(self, x):
        return 2 * x * self.factor


def test_a_cell_that_runs_again_takes_its_name_over():
    register_attention("mine", replace=True)(Mine)  # the first time there is nothing to replace
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    attachment = attach(model, "mine", "0", input_size=(4, 4))
    printed, before = repr(AttentionPyramid(4, "mine", levels=1)), str(attachment)
    x = torch.ones(1, 4, 4, 4)

    assert register_attention("mine", replace=True)(MineAgain) is MineAgain
    assert list_attention().count("mine") == 1
    assert torch.equal(create_attention("mine", 4)(x), 2 * x)
    assert torch.equal(model.get_submodule("0.attention")(x), x)  # what was built stays
    assert str(attachment) == before
    assert repr(AttentionPyramid(4, "mine", levels=1)) == printed.replace("Mine(", "MineAgain(")
    attachment.remove()
    attach(model, "mine", "0", input_size=(4, 4))
    assert torch.equal(model.get_submodule("0.attention")(x), 2 * x)


@pytest.mark.parametrize("replace", ["yes", 1, None])
def test_whether_to_replace_is_yes_or_no(replace):
    with pytest.raises(TypeError, match=rf"replace .*bool, got {replace!r}"):
        register_attention("mine", replace=replace)


@pytest.mark.parametrize(
    ("error", "name", "builder", "message"),
    [
        (TypeError, 3, nn.Identity, r"name .*string, got 3"),
        (
            TypeError,
            nn.Identity,
            nn.Identity,
            r"name .*string, got .*register_attention\('name'\)",
        ),
        (ValueError, "", nn.Identity, r"name .*empty"),
        (TypeError, "mine", 3, r"'mine' .*class or function, got 3"),
    ],
)
def test_refuses_what_cannot_be_registered(error, name, builder, message):
    with pytest.raises(error, match=message):
        register_attention(name)(builder)
