"""The last stride of networks of no family: what is set, what it does to the maps, and what is refused.

Those of ResNets, DenseNets and Inception-V3 are in test_presets.py.
"""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision.models as tv
from torch import Tensor, nn
from torchvision.models.convnext import CNBlockConfig

from attnreid.backbones import attach, set_last_stride
from tests.conftest import says

Observe = Callable[[nn.Module], dict[str, Any]]
SIZE = (128, 64)


def timm_model(name: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: pytest.importorskip("timm", reason="the model is timm's").create_model(name, **options)


def on_meta(make: Callable[[], nn.Module]) -> nn.Module:
    try:
        with torch.device("meta"):
            return make().eval()
    except NotImplementedError:  # torchvision's RegNet computes its widths with tensors
        return make().eval().to("meta")


def small_convnext() -> nn.Module:
    torch.manual_seed(0)
    return tv.ConvNeXt([CNBlockConfig(8, 16, 1), CNBlockConfig(16, 24, 1), CNBlockConfig(24, None, 1)]).eval()


# What is set, by name, as their own code has it: `=` for a window that passes the map, `+` for a far side.
NETWORKS = {
    "convnext": (tv.convnext_tiny, ["features.6.1+"]),
    "efficientnet": (tv.efficientnet_b0, ["features.6.0.block.1.0"]),
    "mobilenet_v2": (tv.mobilenet_v2, ["features.14.conv.1.0"]),
    "mobilenet_v3": (tv.mobilenet_v3_small, ["features.9.block.1.0"]),
    "regnet": (tv.regnet_y_400mf, ["trunk_output.block4.block4-0.f.b.0", "trunk_output.block4.block4-0.proj.0"]),
    "mnasnet": (tv.mnasnet0_5, ["layers.12.0.layers.3"]),
    "shufflenet": (tv.shufflenet_v2_x0_5, ["stage4.0.branch1.0", "stage4.0.branch2.3"]),
    "vgg": (tv.vgg11_bn, ["features.28="]),
    "timm convnext": (timm_model("convnext_atto"), ["stages.3.downsample.1+"]),
    "timm efficientnet of TensorFlow": (timm_model("tf_efficientnet_b0"), ["blocks.5.0.conv_dw"]),
    "timm mobilenetv4": (timm_model("mobilenetv4_conv_small"), ["blocks.3.0.dw_mid.conv"]),
    "timm regnet": (timm_model("regnety_002"), ["s4.b1.conv2.conv", "s4.b1.downsample.conv"]),
    # Its convolutions have a second weight, and its pooling runs before the block's first one.
    "timm normfree": (timm_model("nf_regnet_b0"), ["stages.3.0.conv2", "stages.3.0.downsample.pool="]),
    "timm resnest inside": (
        lambda: nn.Sequential(timm_model("resnest14d")()),
        ["0.layer4.0.avd_last", "0.layer4.0.downsample.0="],
    ),
}


FAST = ("vgg", "timm resnest inside")
every_network = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in NETWORKS]
)


@every_network
def test_the_last_map_gets_larger_and_nothing_before_it(name: str) -> None:
    make, wanted = NETWORKS[name]
    model, plain = on_meta(make), on_meta(make)
    before = sizes(model)
    weights = {key: id(value) for key, value in model.state_dict(keep_vars=True).items()}
    set_last_stride(model)
    assert _changes(model, plain) == wanted
    assert {key: id(value) for key, value in model.state_dict(keep_vars=True).items()} == weights
    after = sizes(model)
    assert list(after) == list(before)
    grown = {module for module in after if after[module] != before[module]}
    assert next(module for module in before if module in grown) in [name.rstrip("+=") for name in wanted]
    assert {(before[module], after[module]) for module in grown if before[module] == (4, 2)} == {((4, 2), (8, 4))}
    assert (4, 2) not in after.values()
    set_last_stride(model)
    assert _changes(model, plain) == wanted
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model):
        assert _changes(other, plain) == wanted
        set_last_stride(other, 2)
        assert str(other) == str(plain)
        assert [sorted(vars(module)) for module in other.modules()] == [sorted(vars(m)) for m in plain.modules()]
    assert sizes(model) == before


def sizes(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Return the size of every map for an image of 128x64, in the order in which the modules end."""
    seen = {}
    hooks = [
        module.register_forward_hook(
            lambda module, arguments, result, name=name: (
                seen.update({name: tuple(result.shape[2:])})
                if isinstance(result, Tensor) and result.ndim == 4
                else None
            )
        )
        for name, module in model.named_modules()
    ]
    model(torch.zeros(1, 3, *SIZE, device="meta"))
    for hook in hooks:
        hook.remove()
    return {name: size for name, size in seen.items() if size > (1, 1)}


def _changes(model: nn.Module, plain: nn.Module) -> list[str]:
    """Return the modules whose stride is another, with signs for their windows and padding."""
    changed = []
    for name, module in model.named_modules():
        other = plain.get_submodule(name)
        if getattr(module, "stride", None) != getattr(other, "stride", None):
            assert module.stride in (1, (1, 1))
            kernel = getattr(module, "kernel_size", None)
            passes = kernel != getattr(other, "kernel_size", None)
            assert not passes or kernel in (1, (1, 1))
            padded = getattr(module, "padding", None) != getattr(other, "padding", None)
            changed.append(f"{name}{'=' * passes}{'+' * padded}")
    return sorted(changed)


@pytest.mark.parametrize(
    ("make", "stage", "shape"),
    [
        (small_convnext, "features.4", (2, 16, 6, 4)),
        (lambda: tv.mobilenet_v2().eval(), "features.14", (2, 96, 6, 4)),
        (lambda: tv.shufflenet_v2_x0_5().eval(), "stage4.0", (2, 96, 6, 4)),
        (lambda: timm_model("tf_efficientnet_lite0")().eval(), "blocks.5.0.conv_dw", (2, 672, 6, 4)),
    ],
    ids=["convnext", "mobilenet_v2", "shufflenet", "tensorflow"],
)
def test_at_every_second_place_the_larger_map_has_what_the_old_one_had(
    make: Callable[[], nn.Module], stage: str, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    model, x = make(), torch.randn(shape, generator=torch.Generator().manual_seed(1))
    part = model.get_submodule(stage)
    with torch.no_grad():
        old = part(x)
        set_last_stride(model)
        new = part(x)
    assert new.shape[2:] == x.shape[2:]
    offset = 1 if stage.endswith("conv_dw") else 0  # TensorFlow pads the far side first
    torch.testing.assert_close(new[..., offset::2, offset::2], old)


def test_it_trains() -> None:
    model = small_convnext().train()
    set_last_stride(model)
    model(torch.rand(2, 3, 64, 32)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("make", "size", "parts"),
    [
        (tv.swin_t, None, ("stride of 2 to set", "'features.6' (PatchMerging)", "its own forward", "larger images")),
        (lambda: tv.vit_b_16(image_size=64), (64, 64), ("VisionTransformer", "maps are 4x4", "only larger images")),
        (lambda: tv.vit_b_16(image_size=64), None, ("must run on an input of shape (2, 3, 256, 128)", "64")),
        (
            tv.squeezenet1_1,
            None,
            ("must give a map of 31x15, as 'features.7' does", "29x13", "stride of 1", "features.8"),
        ),
        (timm_model("hrnet_w18_small"), None, ("must run with a last stride of 1", "failed with")),
        (lambda: nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU()), None, ("got Sequential", "maps are 128x64")),
        (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), None, ("lazy",)),
        (lambda: nn.ModuleDict({"net": nn.Conv2d(3, 8, 3)}), None, ("must run on an input of shape",)),
    ],
    ids=["swin", "vit", "vit of another size", "squeezenet", "hrnet", "one stage", "lazy", "no forward"],
)
def test_other_networks_are_refused_with_the_reason(
    make: Callable[[], nn.Module], size: Any, parts: tuple[str, ...]
) -> None:
    model = on_meta(make)
    before, own = str(model), [sorted(vars(module)) for module in model.modules()]
    with pytest.raises(ValueError, match=r"^set_last_stride: ") as refused:
        set_last_stride(model, input_size=size)
    assert says(str(refused.value), *parts), str(refused.value)
    assert str(model) == before
    assert [sorted(vars(module)) for module in model.modules()] == own


def block(channels: int, out: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out, 3, stride, 1), nn.ReLU(), nn.Conv2d(out, out, 3, 1, 1), nn.ReLU())


class Reducing(nn.Module):
    """Looks at its own map halved, as an attention with fewer keys does."""

    def __init__(self) -> None:
        super().__init__()
        self.reduce, self.value = nn.Conv2d(8, 8, 2, 2), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.value(self.reduce(x)).mean((2, 3), keepdim=True)


def test_what_halves_a_map_on_the_side_stays() -> None:
    model = nn.Sequential(block(3, 8, 4), block(8, 8, 2), Reducing(), block(8, 8, 2), Reducing(), block(8, 8, 1)).eval()
    set_last_stride(model)
    assert (model[1][0].stride, model[2].reduce.stride) == ((2, 2), (2, 2))
    assert (model[3][0].stride, model[4].reduce.stride) == ((1, 1), (2, 2))


def test_a_stem_that_halves_the_map_is_no_stage_of_a_network_of_one_size() -> None:
    stem = [nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1)]
    model = nn.Sequential(*stem, nn.Sequential(*[block(8, 8, 1) for _ in range(6)])).eval()
    with pytest.raises(ValueError, match=r"set_last_stride: .*got Sequential with stages whose maps are 64x32; "):
        set_last_stride(model)


def test_an_even_kernel_is_padded_as_its_first_places_saw_it() -> None:
    last = nn.Sequential(nn.Conv2d(8, 8, 4, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 1))
    model = nn.Sequential(block(3, 8, 4), block(8, 8, 2), last).eval()
    set_last_stride(model)
    assert (last[0].stride, last[0].padding) == ((1, 1), "same")
    dilated = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 2, dilation=2), nn.ReLU(), nn.Conv2d(8, 8, 1))
    model = nn.Sequential(block(3, 8, 4), block(8, 8, 2), dilated).eval()
    set_last_stride(model)
    assert (dilated[0].stride, dilated[0].padding) == ((1, 1), (2, 2))


def test_a_stride_that_was_one_number_stays_one() -> None:
    model = tv.DenseNet(4, (1, 1, 1, 1), 8).eval()
    set_last_stride(model)
    pool = model.features.transition3.pool
    assert (pool.kernel_size, pool.stride) == (1, 1)


class Sharing(nn.Module):
    """One pooling halves the map of the last stage, and a copy of the map on the side of an earlier one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.value, self.second, self.third = block(3, 8, 4), block(8, 8, 1), block(8, 8, 2), block(8, 8, 1)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = self.second(x + self.value(self.pool(x)).mean((2, 3), keepdim=True))
        return self.third(self.pool(x))


def test_a_pooling_that_is_used_earlier_too_is_refused(observe: Observe) -> None:
    model = Sharing().eval()
    before = observe(model)
    with pytest.raises(ValueError, match=r"set_last_stride: 'third' .* changes 'value.*' before it too .*'pool'"):
        set_last_stride(model)
    assert observe(model) == before


def test_a_network_inside_another_is_set_once_whichever_is_passed() -> None:
    model = small_convnext()
    wrapped = nn.Sequential(model)
    wanted = str(on_meta(small_convnext))
    set_last_stride(model)
    once = str(model)
    set_last_stride(wrapped)
    assert str(model) == once
    set_last_stride(wrapped, 2)
    assert str(model) == wanted
    set_last_stride(wrapped)
    set_last_stride(model)
    assert str(model) == once
    set_last_stride(model, 2)
    assert str(model) == wanted


def test_two_is_what_a_plain_network_has() -> None:
    model = small_convnext()
    before = str(model)
    set_last_stride(model, 2)
    assert str(model) == before


def test_attention_in_the_last_stage_is_in_the_way_and_before_it_not(observe: Observe) -> None:
    model = small_convnext()
    with attach(model, "se", "features.5", input_size=SIZE):
        before = observe(model)
        with pytest.raises(ValueError, match=r"set_last_stride: .*no attention .*got .*'features.5'; remove\(\)"):
            set_last_stride(model)
        assert observe(model) == before
    with attach(model, "rga_s", "features.3", input_size=SIZE):
        set_last_stride(model)
        with (
            attach(model, "se", "features.5", input_size=SIZE),
            pytest.raises(ValueError, match=r"no attention .*got .*'features.5'"),
        ):
            set_last_stride(model, 2)
        set_last_stride(model, 2)
    assert model.features[4][1].stride == (2, 2)


def test_images_of_one_channel_are_looked_at_as_such() -> None:
    model = nn.Sequential(block(1, 8, 4), block(8, 8, 2), block(8, 8, 2)).eval()
    set_last_stride(model)
    assert model[2][0].stride == (1, 1)
