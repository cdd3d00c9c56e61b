"""The papers' placements on torchvision's ResNets."""

import copy
import functools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import (
    DenseNet,
    densenet121,
    densenet169,
    inception_v3,
    resnet18,
    resnet50,
    resnet152,
    resnext50_32x4d,
    wide_resnet50_2,
)
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from attnreid.backbones import (
    attach,
    attach_apnet,
    attach_mla,
    attach_se,
    attachments,
    find_sites,
    set_last_stride,
)
from attnreid.backbones.families import is_resnet
from attnreid.layers import MultiLevelAttention, SplitAttention, SqueezeExcitation
from attnreid.pyramid import AttentionPyramid

SIZE = (64, 32)
Observe = Callable[[nn.Module], dict[str, Any]]
RELEASED = functools.partial(attach_apnet, input_size=SIZE, variant="released")
STAGES = ["layer1", "layer2", "layer3", "layer4"]
WIDER = [pytest.param(make, marks=pytest.mark.slow) for make in (resnext50_32x4d, wide_resnet50_2)]
FAMILY = [resnet18, resnet50, *WIDER]


def small(block: Any = BasicBlock) -> ResNet:
    """A real ResNet with one block a stage, so that a test may run it forwards and backwards."""
    torch.manual_seed(0)
    return ResNet(block, [1, 1, 1, 1]).eval()


def small_densenet() -> DenseNet:
    """DenseNet-121's containers with a tenth of its layers."""
    return DenseNet(growth_rate=8, block_config=(3, 3, 3, 2), num_init_features=16)


def on_meta(make: Callable[[], ResNet]) -> ResNet:
    with torch.device("meta"):
        return make().eval()


def images(height: int = 64, width: int = 32) -> Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1))


# APNet --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [*FAMILY, resnet152])
def test_apnet_stands_after_the_four_stages(make: Callable[[], ResNet]) -> None:
    model = on_meta(make)
    plain = list(model.state_dict())
    attachment = attach_apnet(model, levels=3, input_size=(256, 128))
    expansion = model.layer1[0].expansion
    assert [(site.name, site.channels, site.size) for site in attachment.sites] == [
        ("layer1", 64 * expansion, (64, 32)),
        ("layer2", 128 * expansion, (32, 16)),
        ("layer3", 256 * expansion, (16, 8)),
        ("layer4", 512 * expansion, (8, 4)),
    ]
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        assert isinstance(stage.attention, AttentionPyramid)
        assert [level.parts for level in stage.attention.plan] == [1, 2, 4]
    assert [key for key in model.state_dict() if ".attention." not in key] == plain
    assert {key.split(".attention.")[0] for key in attachment.state_dict()} == {f"layer{n}" for n in (1, 2, 3, 4)}


def test_apnet_options_reach_the_pyramids() -> None:
    attachment = attach_apnet(small(), "rga_s", levels=2, radix=1, input_size=SIZE)
    assert [level.parts for level in attachments_of(attachment)[0].plan] == [1, 1]
    explicit = attach_apnet(small(), ["se", "se"], levels=(1, 8), input_size=SIZE)
    assert [level.parts for level in attachments_of(explicit)[3].plan] == [1, 8]


def attachments_of(attachment: Any) -> list[Any]:
    return [one.attention for one in attachment._inserted]


def test_apnet_computes_the_stages_and_pyramids_in_turn() -> None:
    model, x = small(), images()
    attach_apnet(model, "se", input_size=SIZE)
    y = model.maxpool(model.relu(model.bn1(model.conv1(x))))
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        y = stage.attention(stage[0](y))
    expected = model.fc(torch.flatten(model.avgpool(y), 1))
    assert torch.equal(model(x), expected)


@pytest.mark.parametrize("attention", ["se", "rga_s"])
def test_apnet_comes_out_and_starts_as_the_identity(attention: str, observe: Observe) -> None:
    model, x = small(), images()
    before, plain = observe(model), model(x)
    with attach_apnet(model, attention, input_size=SIZE, identity_init=True):
        assert torch.equal(model(x), plain)
    with attach_apnet(model, attention, input_size=SIZE):
        assert not torch.equal(model(x), plain)
    assert observe(model) == before
    assert torch.equal(model(x), plain)


def test_apnet_trains() -> None:
    model = small().train()
    attachment = attach_apnet(model, functools.partial(SqueezeExcitation, reduction=2), input_size=SIZE)
    model(images()).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in attachment.parameters())


@pytest.mark.parametrize(
    ("height", "levels", "last_stride", "got", "answer"),
    [
        (96, 2, 2, "24, 12, 6, 3", "64 or 128"),
        (96, 3, 1, "24, 12, 6, 6", "64 or 128"),
        (40, (1, 2), 2, "10, 5, 3, 2", "64"),
        (250, 2, 1, "63, 32, 16, 16", "224 or 256"),
    ],
)
def test_rga_names_the_input_heights_that_work(
    height: int, levels: Any, last_stride: int, got: str, answer: str, observe: Observe
) -> None:
    model = small()
    set_last_stride(model, last_stride)
    before = observe(model)
    match = (
        f"attach_apnet: .*map .*height that . divides, .*"
        f"got {got} at input height {height}; .*input height of {answer}[.]"
    )
    with pytest.raises(ValueError, match=match):
        attach_apnet(model, "rga_s", levels=levels, input_size=(height, 32))
    assert observe(model) == before
    for works in answer.split(" or "):
        attach_apnet(model, "rga_s", levels=levels, input_size=(int(works), 32)).remove()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"levels": 8}, "no attention for 'layer1'.*AttentionPyramid: .*channels"),
        ({"radix": 0}, "radix .*1, got 0"),
        ({"levels": (1, 0)}, "level 2 .*1, got 0"),
        ({"attention": "see"}, "got 'see': .*'se'"),
        ({"input_size": (63, 32), "attention": "see"}, "got 'see': .*'se'"),
    ],
)
def test_apnet_refuses_in_the_pyramids_words(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        attach_apnet(small(), **{"input_size": SIZE, **options})


@pytest.mark.parametrize(
    ("make", "stages"),
    [
        (
            densenet169,
            [
                ("features.denseblock1", 256, (64, 32)),
                ("features.denseblock2", 512, (32, 16)),
                ("features.denseblock3", 1280, (16, 8)),
                ("features.denseblock4", 1664, (8, 4)),
            ],
        ),
        (
            functools.partial(inception_v3, aux_logits=False, init_weights=False),
            [
                ("Conv2d_4a_3x3", 192, (60, 28)),
                ("Mixed_5d", 288, (29, 13)),
                ("Mixed_6e", 768, (14, 6)),
                ("Mixed_7c", 2048, (6, 2)),
            ],
        ),
    ],
)
def test_apnet_on_the_other_backbones_of_table_5(make: Callable[[], nn.Module], stages: list[Any]) -> None:
    model = on_meta(make)
    plain = list(model.state_dict())
    attachment = attach_apnet(model, levels=3, input_size=(256, 128))
    assert [(site.name, site.channels, site.size) for site in attachment.sites] == stages
    assert [key for key in model.state_dict() if ".attention." not in key] == plain
    attachment.remove()
    assert list(model.state_dict()) == plain


@pytest.mark.slow
def test_rga_names_the_input_heights_of_backbones_without_padding() -> None:
    model = on_meta(functools.partial(inception_v3, aux_logits=False, init_weights=False))
    with pytest.raises(ValueError, match=r"got 60, 29, 14, 6 at input height 256; .*input height of ") as caught:
        attach_apnet(model, "rga_s", input_size=(256, 128))
    heights = [int(word) for word in str(caught.value).rpartition("height of ")[2].rstrip(".").split(" or ")]
    assert len(heights) == 2
    for height in heights:
        attach_apnet(model, "rga_s", input_size=(height, 128)).remove()


def test_only_levels_that_split_the_height_ask_for_it() -> None:
    with pytest.raises(ValueError, match=r"height that 2 divides, .*input height of 192 or 256"):
        attach_apnet(small(), ("rga_s", "rga_s", "se"), levels=3, input_size=(224, 32))


# The released variant of APNet ---------------------------------------------------------------------------------------


def test_the_released_variant_stands_after_the_stem_too() -> None:
    model = on_meta(resnet50)
    set_last_stride(model)
    plain = list(model.state_dict())
    attachment = attach_apnet(model, input_size=(256, 128), variant="released")
    assert [(site.name, site.channels, site.size) for site in attachment.sites] == [
        ("relu", 64, (128, 64)),
        ("maxpool", 64, (64, 32)),
        ("layer1", 256, (64, 32)),
        ("layer2", 512, (32, 16)),
        ("layer3", 1024, (16, 8)),
        ("layer4", 2048, (16, 8)),
    ]
    for name, channels in (("maxpool", 64), ("layer1", 256), ("layer4", 2048)):
        pyramid = model.get_submodule(f"{name}.attention")
        first, second = pyramid.levels
        assert isinstance(first, SqueezeExcitation)
        assert first.reduce.shape == (1, 8, channels)
        assert isinstance(second, SplitAttention)
        assert second.reduce[0].weight.shape == (max(32, channels // 2), channels // 2)
        assert second.norm.bias is None
        assert (pyramid.order, second.parts) == ("fine_to_coarse", 2)
    attachment.remove()
    assert list(model.state_dict()) == plain


@pytest.mark.parametrize("training", [True, False])
def test_the_released_variant_step_by_step(training: bool) -> None:
    model = small().double()
    attach_apnet(model, input_size=SIZE, variant="released")
    for module in model.modules():
        if isinstance(module, SplitAttention):
            nn.init.uniform_(module.norm.running_var, 0.5, 2)
            nn.init.uniform_(module.norm.running_mean, -1, 1)
    model.train(training)
    twin, x = copy.deepcopy(model), images().double()
    wanted = model(x)

    y = twin.maxpool.attended_class.forward(twin.maxpool, twin.bn1(twin.conv1(x)))  # no ReLU in the stem
    for name in ("maxpool", "layer1", "layer2", "layer3", "layer4"):
        host = twin.get_submodule(name)
        if name != "maxpool":
            y = host[0](y)
        se, split = host.attention.levels
        y = split.norm(y * split.gate(y))
        y = y * se.gate(y)
    torch.testing.assert_close(wanted, twin.fc(y.mean(dim=(2, 3))), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("levels", "sites"), [(0, ["relu"]), (1, ["relu", "maxpool", *STAGES])])
def test_the_released_variant_of_fewer_levels(levels: int, sites: list[str], observe: Observe) -> None:
    model = small()
    before, plain = observe(model), model(images())
    attachment = attach_apnet(model, levels=levels, input_size=SIZE, variant="released")
    assert [site.name for site in attachment.sites] == sites
    assert not torch.equal(model(images()), plain)
    attachment.remove()
    assert observe(model) == before
    assert torch.equal(model(images()), plain)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"levels": 3}, r"levels 0, 1 or 2 .* level 3 .*64 channels in 3.*levels=3.*variant='paper'"),
        ({"levels": (1, 2)}, r"got attention='se', levels=\(1, 2\)"),
        ({"attention": "rga_s"}, r"attention='se', .* got attention='rga_s'"),
        ({"radix": 4}, r"radix .*, got .*radix=4"),
        ({"identity_init": True}, r"identity_init .*False .*variant='released'"),
    ],
)
def test_the_released_variant_refuses(options: dict[str, Any], match: str, observe: Observe) -> None:
    model = small()
    before = observe(model)
    with pytest.raises(ValueError, match=match):
        attach_apnet(model, **{"input_size": SIZE, "variant": "released", **options})
    assert observe(model) == before


def test_the_released_variant_wants_a_stem() -> None:
    model = small()
    del model.maxpool
    model.forward = lambda x: model.layer4(model.layer3(model.layer2(model.layer1(model.conv1(x)))))
    with pytest.raises(ValueError, match="relu and maxpool, got .*without 'maxpool'"):
        RELEASED(model)
    with pytest.raises(ValueError, match="variant .*'paper' or 'released', got 'code'"):
        attach_apnet(small(), input_size=SIZE, variant="code")


# SE-ResNet -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "norm", "count"), [(resnet18, "bn2", 8), (resnet50, "bn3", 16)])
def test_se_stands_in_every_block(make: Callable[[], ResNet], norm: str, count: int) -> None:
    model = on_meta(make)
    attachment = attach_se(model, reduction=8)
    names = [site.name for site in attachment.sites]
    assert len(names) == count
    assert all(name.split(".")[2:] == [norm] for name in names)
    for site in attachment.sites:
        assert model.get_submodule(f"{site.name}.attention").reduce.shape[1] == site.channels // 8


@pytest.mark.parametrize("block_type", [BasicBlock, Bottleneck])
def test_se_gates_the_branch_before_the_addition(block_type: Any, observe: Observe) -> None:
    model = small(block_type)
    before = observe(model)
    block, x = model.layer1[0], torch.rand(2, 64, 4, 4)
    shortcut = x if block.downsample is None else block.downsample(x)
    branch = block.bn2(block.conv2(block.relu(block.bn1(block.conv1(x)))))
    if block_type is Bottleneck:
        branch = block.bn3(block.conv3(block.relu(branch)))
    with attach_se(model):
        gate = block.get_submodule("bn3" if block_type is Bottleneck else "bn2").attention.gate(branch)
        torch.testing.assert_close(block(x), F.relu(branch * gate + shortcut))
    assert observe(model) == before


def test_se_twice_is_refused() -> None:
    model = small()
    attach_se(model)
    with pytest.raises(ValueError, match="attach_se: 'layer1.0.bn2' .* already carries attention"):
        attach_se(model)


# MLA ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", FAMILY)
@pytest.mark.parametrize("stride", [1, 2])
def test_mla_stands_in_the_last_stage(make: Callable[[], ResNet], stride: int) -> None:
    model = on_meta(make)
    set_last_stride(model, stride)
    plain = list(model.state_dict())
    width = model.layer4[0].conv2.in_channels
    convs = [block.conv2 for block in model.layer4]
    output = model(torch.empty(2, 3, *SIZE, device="meta")).shape
    attachment = attach_mla(model, input_size=SIZE)
    late = 4 // stride
    first = late if isinstance(model.layer4[0], BasicBlock) else 4
    assert [(site.name, site.channels, site.size) for site in attachment.sites] == [
        (
            f"layer4.{index}.conv2",
            width,
            (first if index == 0 else late, (first if index == 0 else late) // 2),
        )
        for index in range(len(convs))
    ]
    assert [key for key in model.state_dict() if ".attention." not in key] == [
        key for key in plain if not (key.startswith("layer4") and "conv2" in key)
    ]
    assert model(torch.empty(2, 3, *SIZE, device="meta")).shape == output
    attachment.remove()
    assert [block.conv2 for block in model.layer4] == convs


def test_mla_keys_are_these() -> None:
    attachment = attach_mla(small(), input_size=SIZE)
    assert sorted(attachment.state_dict()) == [
        f"layer4.0.conv2.attention.{key}" for key in sorted(MultiLevelAttention(512, size=(2, 1)).state_dict())
    ]


def test_mla_in_a_bottleneck_of_stride_2_is_followed_by_pooling() -> None:
    model, x = small(Bottleneck), torch.rand(2, 1024, 4, 2)
    attach_mla(model, input_size=SIZE)
    block = model.layer4[0]
    y = block.relu(block.bn1(block.conv1(x)))
    y = block.conv2.attention(y)
    y = torch.stack([y[..., i::2, j::2] for i in (0, 1) for j in (0, 1)]).mean(0)
    y = block.bn3(block.conv3(block.relu(block.bn2(y))))
    torch.testing.assert_close(block(x), (y + block.downsample(x)).relu())


@pytest.mark.parametrize("block_type", [Bottleneck, BasicBlock])
def test_mla_at_stride_1_takes_the_place_of_the_convolution(block_type: Any) -> None:
    model = small(block_type)
    set_last_stride(model)
    attach_mla(model, input_size=SIZE)
    block, x = model.layer4[0], torch.rand(2, 256 * block_type.expansion, 4, 2)
    y = block.bn2(block.conv2.attention(block.relu(block.bn1(block.conv1(x)))))
    if block_type is Bottleneck:
        y = block.bn3(block.conv3(block.relu(y)))
    assert torch.equal(block(x), (y + block.downsample(x)).relu())


def test_mla_in_a_basic_block_of_stride_2_needs_no_pooling() -> None:
    model = small()
    attach_mla(model, input_size=SIZE)
    block, x = model.layer4[0], torch.rand(2, 256, 4, 2)
    y = block.bn2(block.conv2.attention(F.relu(block.bn1(block.conv1(x)))))
    assert torch.equal(block(x), (y + block.downsample(x)).relu())


def test_mla_pools_an_odd_map_as_the_convolution_would() -> None:
    model = small(Bottleneck)
    attach_mla(model, input_size=(80, 48))  # layer4 takes a 5x3 map
    x = torch.rand(2, 512, 5, 3)
    block = model.layer4[0]
    pooled, attended = block.conv2(x), block.conv2.attention(x)
    assert pooled.shape == (2, 512, 3, 2)
    torch.testing.assert_close(pooled[..., 2, 1], attended[..., 4, 2])
    torch.testing.assert_close(pooled[..., 2, 0], attended[..., 4, :2].mean(-1))
    model(images(80, 48))


def test_mla_options() -> None:
    model = on_meta(resnet50)
    attachment = attach_mla(model, levels=("domain", "pixel"), input_size=SIZE, blocks="last", memory=8)
    assert [site.name for site in attachment.sites] == ["layer4.2.conv2"]
    layer = model.layer4[2].conv2.attention
    assert layer.levels == ("pixel", "domain")
    assert layer.domain.memory == 8
    attach_mla(on_meta(resnet18), heads=2, input_size=SIZE)
    with pytest.raises(ValueError, match="attach_mla: no attention for 'layer4.0.conv2'.*HeadLevelAttention"):
        attach_mla(small(), heads=3, input_size=SIZE)
    with pytest.raises(ValueError, match="attach_mla: blocks .*'all' or 'last', got 'first'"):
        attach_mla(small(), blocks="first", input_size=SIZE)  # type: ignore[arg-type]


def test_mla_twice_is_refused() -> None:
    model = on_meta(resnet50)
    attach_mla(model, input_size=SIZE, blocks="last")
    with pytest.raises(ValueError, match="attach_mla: 'layer4.2.conv2' .* already carries attention"):
        attach_mla(model, input_size=SIZE)
    assert len(attachments(model)) == 1


def test_mla_wants_a_3x3_convolution(observe: Observe) -> None:
    model = small()
    model.layer4[0].conv2 = nn.Conv2d(512, 512, 1)
    before = observe(model)
    with pytest.raises(ValueError, match="'layer4.0.conv2' .*3x3 .*equal channels .*stride 1 or 2"):
        attach_mla(model, input_size=SIZE)
    assert observe(model) == before


@pytest.mark.parametrize("block_type", [Bottleneck, BasicBlock])
def test_mla_trains(block_type: Any) -> None:
    model = small(block_type).train()
    attachment = attach_mla(model, input_size=SIZE)
    model.layer4(torch.rand(2, 256 * block_type.expansion, 4, 2)).square().sum().backward()
    for name, parameter in model.layer4[0].conv2.attention.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
    assert len(list(attachment.parameters())) > 5


def test_both_papers_at_once_come_out_in_any_order(observe: Observe) -> None:
    model, x = small(), images()
    before, plain = observe(model), model(x)
    apnet = attach_apnet(model, input_size=SIZE)
    mla = attach_mla(model, input_size=SIZE)
    model(x)
    apnet.remove()
    mla.remove()
    assert observe(model) == before
    assert torch.equal(model(x), plain)


# The last stride ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", FAMILY)
def test_last_stride(make: Callable[[], ResNet]) -> None:
    model, plain = on_meta(make), on_meta(make)
    set_last_stride(model)
    size = {site.name: site.size for site in find_sites(model, SIZE)}
    assert size["layer4"] == size["layer3"] == (4, 2)
    assert [(key, value.shape) for key, value in model.state_dict().items()] == [
        (key, value.shape) for key, value in plain.state_dict().items()
    ]
    set_last_stride(model, 1)
    set_last_stride(model, 2)
    assert str(model) == str(plain)
    assert [block.stride for block in model.layer4] == [block.stride for block in plain.layer4]


def test_last_stride_keeps_the_weights_and_takes_effect() -> None:
    model, x = small(Bottleneck), torch.rand(2, 1024, 4, 2)
    weights = {key: id(value) for key, value in model.state_dict(keep_vars=True).items()}
    block = model.layer4[0]
    set_last_stride(model)
    y = F.conv2d(F.relu(block.bn1(block.conv1(x))), block.conv2.weight, stride=1, padding=1)
    y = block.bn3(block.conv3(F.relu(block.bn2(y))))
    y = y + block.downsample[1](F.conv2d(x, block.downsample[0].weight))
    torch.testing.assert_close(block(x), F.relu(y))
    assert {key: id(value) for key, value in model.state_dict(keep_vars=True).items()} == weights


@pytest.mark.parametrize(
    "preset", [attach_apnet, attach_mla, functools.partial(attach, attention="se", at="layer4.0.bn1")]
)
def test_last_stride_is_refused_under_attention(preset: Any, observe: Observe) -> None:
    model = small(Bottleneck)
    attachment = preset(model, input_size=SIZE)
    before = observe(model)
    set_last_stride(model, 2)
    with pytest.raises(ValueError, match=r"no attention.* got .*'layer4.*; remove\(\)"):
        set_last_stride(model)
    assert observe(model) == before
    attachment.remove()
    attach(model, "se", "layer3", input_size=SIZE)
    set_last_stride(model)
    assert model.layer4[0].conv2.stride == (1, 1)


def test_last_stride_refuses_other_strides_and_blocks(observe: Observe) -> None:
    model = small()
    with pytest.raises(ValueError, match="set_last_stride: stride .*1 or 2, got 4"):
        set_last_stride(model, 4)
    model.layer4[0].downsample = None
    before = observe(model)
    with pytest.raises(ValueError, match=r"'layer4' .*one map .*failed with"):
        set_last_stride(model)
    assert observe(model) == before


@pytest.mark.parametrize(
    ("make", "before", "last", "heights"),
    [
        (small_densenet, "features.denseblock3", "features.denseblock4", (8, 4, 8)),
        pytest.param(
            functools.partial(inception_v3, aux_logits=False, init_weights=False),
            "Mixed_6e",
            "Mixed_7c",
            (6, 2, 4),
            marks=pytest.mark.slow,
        ),
        *[(name, "layer3", "layer4", (8, 4, 8)) for name in ("resnet26d", "resnetblur18", "resnest14d")],
    ],
)
def test_last_stride_of_other_backbones(make: Any, before: str, last: str, heights: tuple[int, int, int]) -> None:
    if isinstance(make, str):
        timm = pytest.importorskip("timm", reason="the model is timm's")
        make = functools.partial(timm.create_model, make)
    model, plain = on_meta(make), on_meta(make)

    def height(name: str, of: nn.Module) -> int:
        return next(
            site.size[0] for site in find_sites(of, (128, 64 if "features" in name else 128)) if site.name == name
        )

    assert (height(before, model), height(last, model)) == heights[:2]
    set_last_stride(model)
    assert (height(before, model), height(last, model)) == (heights[0], heights[2])
    assert list(model.state_dict()) == list(plain.state_dict())
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert height(last, copied) == heights[2]
    set_last_stride(model, 2)
    assert str(model) == str(plain)
    assert height(last, model) == heights[1]


@pytest.mark.parametrize(
    ("make", "size"),
    [
        (small, (1, 64)),
        (small, (17, 33)),
        (small_densenet, (48, 48)),  # whose pooling makes 1 row of 3
        (functools.partial(inception_v3, aux_logits=False, init_weights=False), (96, 96)),  # 4 rows: 2, or 1
    ],
)
def test_last_stride_is_told_from_small_maps(make: Any, size: tuple[int, int]) -> None:
    model, plain = on_meta(make), on_meta(make)
    set_last_stride(model, input_size=size)
    assert str(model) != str(plain)
    once = str(model)
    set_last_stride(model, input_size=size)
    assert str(model) == once
    set_last_stride(model, 2, input_size=size)
    assert str(model) == str(plain)


@pytest.mark.parametrize("size", [(1, 1), (16, 1)])
@pytest.mark.parametrize("stride", [1, 2])
def test_last_stride_refuses_images_too_small_to_see_one(stride: int, size: tuple[int, int], observe: Observe) -> None:
    model = small()
    before = observe(model)
    match = rf"set_last_stride: the images .*'layer4' .*got {size[0]}x{size[1]} images and a map of 1x1; .*\(256, 128\)"
    with pytest.raises(ValueError, match=match):
        set_last_stride(model, stride, input_size=size)
    assert observe(model) == before


def test_inceptions_reduction_at_stride_1_has_the_old_one_at_every_second_place() -> None:
    torch.manual_seed(0)
    model = inception_v3(aux_logits=False, init_weights=False).eval()
    x = torch.rand(1, 768, 9, 7)
    with torch.no_grad():
        wanted = model.Mixed_7a(x)
        set_last_stride(model)
        torch.testing.assert_close(model.Mixed_7a(x)[..., ::2, ::2], wanted)


@pytest.mark.parametrize("failing", [True, False])
def test_a_last_stage_that_does_not_take_the_stride_is_refused(failing: bool, observe: Observe) -> None:
    model = small()
    if failing:
        model.layer4[0].register_forward_hook(lambda *_: None)
        model.fc = nn.Linear(512 * 2, 4)  # for the flattened map of another size
        model.avgpool = nn.AdaptiveAvgPool2d((2, 1))
        model.layer4[0].downsample = nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.Conv2d(256, 512, 1))
        model.layer4[0].conv1 = nn.Conv2d(256, 512, 2, 2)
        match = "model .*last stride of 1; .*failed with"
    else:
        model.layer4.add_module("1", nn.MaxPool2d(2))
        model.layer4[1].bn1 = model.layer4[1].bn2 = model.layer4[1].conv1 = model.layer4[1].conv2 = nn.Identity()
        model.layer4[0] = BasicBlock(256, 512, 1, nn.Conv2d(256, 512, 1))
        match = "'layer4' .*map .*stride of 1, got"
    before = observe(model)
    with pytest.raises(ValueError, match=match):
        set_last_stride(model)
    assert observe(model) == before


def test_last_stride_is_refused_where_attention_saw_the_map_behind_it(observe: Observe) -> None:
    model = densenet121().eval()
    attach(model, "se", "features.norm5", input_size=(64, 64))
    before = observe(model)
    with pytest.raises(ValueError, match=r"no attention.* got .*'features.norm5'"):
        set_last_stride(model)
    assert observe(model) == before


# Other models -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", [functools.partial(attach_mla, input_size=SIZE), RELEASED])
def test_other_backbones_are_refused(preset: Callable[[nn.Module], Any]) -> None:
    with pytest.raises(
        ValueError,
        match=r"model .*ResNet, .*conv1, .*layer1, .*; got DenseNet .*"
        r"'features', 'classifier': .*attach\(model",
    ):
        preset(on_meta(densenet121))
    with pytest.raises(ValueError, match="got ModuleDict .*'net': .*inside it, at 'net'"):
        preset(nn.ModuleDict({"net": small()}))
    broken = small()
    broken.layer2 = nn.Sequential()
    with pytest.raises(ValueError, match="model .*ResNet, .*; got ResNet"):
        preset(broken)


@pytest.mark.parametrize("part", ["conv1", "bn1", "conv2", "bn2"])
def test_a_resnet_whose_block_lacks_a_part_is_none(part: str) -> None:
    model = resnet18()
    assert is_resnet(model)
    delattr(model.layer4[1], part)
    assert not is_resnet(model)
