"""Where stages end: on hand-written data, and on small networks of many families."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torchvision.models
from torch import Tensor, nn

from attnreid import AttentionPyramid
from attnreid.backbones import attach, attach_apnet, attach_pyramid, attachments, find_sites
from attnreid.backbones._stages import Part, parts_of, stage_ends
from attnreid.backbones.sites import look
from attnreid.checkpoints import load_checkpoint, save_checkpoint

Row = tuple[str, str, int, int]  # name, kind, height of its square map, weights


def parts(*rows: Row, unfit: tuple[str, ...] = ()) -> list[Part]:
    """Return parts in the order in which they finish."""
    return [
        Part(name, kind, (size, size), order, weights, "unfit" if name in unfit else None)
        for order, (name, kind, size, weights) in enumerate(rows)
    ]


SWIN: tuple[Row, ...] = (
    ("features.0", "Sequential", 56, 1),
    ("features.1.0", "Block", 56, 4),
    ("features.1", "Sequential", 56, 4),
    ("features.2", "PatchMerging", 28, 1),
    ("features.3.0", "Block", 28, 4),
    ("features.3", "Sequential", 28, 4),
    ("features.4", "PatchMerging", 14, 1),
    ("features.5.0", "Block", 14, 4),
    ("features.5.1", "Block", 14, 4),
    ("features.5", "Sequential", 14, 8),
    ("features.6", "PatchMerging", 7, 1),
    ("features.7.0", "Block", 7, 4),
    ("features.7", "Sequential", 7, 4),
    ("features", "Sequential", 7, 23),
    ("norm", "LayerNorm", 7, 0),
)
VIT: tuple[Row, ...] = (
    ("patch_embed", "PatchEmbed", 14, 1),
    *(
        row
        for block in range(10)
        for row in ((f"blocks.{block}.mlp", "Mlp", 14, 2), (f"blocks.{block}", "Block", 14, 4))
    ),
    ("blocks", "Sequential", 14, 40),
    ("norm", "LayerNorm", 14, 0),
)
# Two branches that run side by side; only the modules at the end give each branch's map once more.
BRANCHES: tuple[Row, ...] = (
    ("stem", "Conv2d", 64, 1),
    ("layer1", "Sequential", 32, 6),
    ("stage2.branches.0", "Sequential", 32, 4),
    ("stage2.branches.1", "Sequential", 16, 4),
    ("stage2.fuse.1", "Sequential", 16, 2),
    ("ends.0", "Sequential", 32, 3),
    ("ends.1", "Sequential", 16, 3),
    ("down", "Sequential", 8, 1),
)
PLAIN: tuple[Row, ...] = (
    *(
        (f"features.{2 * layer + act}", ("Conv2d", "ReLU")[act], 64 >> layer, 1 - act)
        for layer in range(6)
        for act in (0, 1)
    ),
    ("features", "Sequential", 2, 6),
)
FIVE_SIZES: tuple[Row, ...] = tuple((f"blocks.{stage}", "Block", 64 >> stage, 3) for stage in range(5))


def test_a_staged_network_ends_its_stages_at_the_last_block_of_each_size() -> None:
    ends = stage_ends(parts(*SWIN))
    assert [stage.ways[0] for stage in ends] == ["features.1", "features.3", "features.5", "features.7"]


def test_the_last_four_sizes_count() -> None:
    assert [stage.ways[0] for stage in stage_ends(parts(*FIVE_SIZES))] == [f"blocks.{stage}" for stage in (1, 2, 3, 4)]


def test_an_isotropic_network_has_four_depths() -> None:
    ends = stage_ends(parts(*VIT))
    assert [stage.ways[0] for stage in ends] == ["blocks.2", "blocks.4", "blocks.7", "blocks.9"]


def test_of_two_long_rows_the_one_with_more_weights_has_the_depths() -> None:
    light = [(f"light.{block}", "Block", 14, 3) for block in range(12)]
    heavy = [(f"heavy.{block}", "Block", 14, 30) for block in range(4)]
    ends = stage_ends(parts(*light, *heavy))
    assert [stage.ways[0] for stage in ends] == ["heavy.0", "heavy.1", "heavy.2", "heavy.3"]


def test_blocks_at_another_scale_that_weigh_next_to_nothing_make_no_stage() -> None:
    stem, late = ("stem", "Block", 56, 2), ("late", "Block", 7, 2)
    ends = stage_ends(parts(stem, *VIT, late))
    assert [stage.ways[0] for stage in ends] == ["blocks.2", "blocks.4", "blocks.7", "blocks.9"]


def test_branches_that_run_side_by_side_end_where_they_are_given_last() -> None:
    assert [stage.ways[0] for stage in stage_ends(parts(*BRANCHES))] == ["ends.0", "ends.1"]


def test_a_plain_row_ends_a_stage_before_each_change_of_size() -> None:
    ends = stage_ends(parts(*PLAIN))
    assert [stage.ways[0] for stage in ends] == ["features.5", "features.7", "features.9", "features.11"]


def test_neither_a_transition_nor_what_works_on_less_is_a_stage() -> None:
    rows: tuple[Row, ...] = (
        ("block1.squeeze", "Sequential", 1, 2),
        ("block1", "Block", 16, 4),
        ("transition", "Sequential", 8, 1),
        ("block2.reduced", "Sequential", 2, 2),
        ("block2", "Block", 8, 4),
        ("head", "Conv2d", 8, 1),
    )
    assert [stage.ways[0] for stage in stage_ends(parts(*rows))] == ["block1", "block2"]


def test_a_block_that_strides_late_does_not_end_the_stage_before_it() -> None:
    """GhostNet: the first block of a stage has a part with two weights at the larger map."""
    rows: tuple[Row, ...] = (
        ("blocks.0", "Sequential", 56, 8),
        ("blocks.1.0.ghost1", "Ghost", 56, 2),
        ("blocks.1.0", "Bottleneck", 28, 5),
        ("blocks.1", "Sequential", 28, 5),
        ("blocks", "Sequential", 28, 13),
    )
    assert [stage.ways[0] for stage in stage_ends(parts(*rows))] == ["blocks.0", "blocks.1"]


def test_a_block_of_several_parts_at_the_larger_map_is_no_stage_of_these() -> None:
    """Xception: two separable convolutions, then a pooling."""
    rows: tuple[Row, ...] = (
        *((f"block{block}", "Block", 32, 6) for block in range(2)),
        *((f"block2.rep.{layer}", "Separable", 32, 2) for layer in range(2)),
        ("block2", "Block", 16, 8),
    )
    assert [stage.ways[0] for stage in stage_ends(parts(*rows))] == ["block1", "block2"]


def test_stages_of_one_block_that_strides_late() -> None:
    """ResNeSt: most of what is computed at a size is in the first, and only, block of the next stage."""
    stages = (
        row
        for stage in range(3)
        for row in (
            (f"layer{stage}.0.conv1", "Conv2d", 64 >> stage, 1),
            (f"layer{stage}.0.conv2", "Split", 64 >> stage, 3),
            (f"layer{stage}.0.conv3", "Conv2d", 32 >> stage, 1),
            (f"layer{stage}", "Sequential", 32 >> stage, 5),
        )
    )
    ends = stage_ends(parts(("stem", "Conv2d", 64, 1), *stages))
    assert [stage.ways[0] for stage in ends] == ["layer0", "layer1", "layer2"]


def test_a_reduction_at_the_end_of_a_stage_is_not_its_end() -> None:
    """GCViT: the stage that is given is half as large as its blocks."""
    rows = tuple(
        row
        for stage in range(3)
        for row in (
            *((f"stages.{stage}.blocks.{block}", "Block", 56 >> stage, 5) for block in (0, 1)),
            (f"stages.{stage}.reduce", "Reduce", 28 >> stage, 3),
            (f"stages.{stage}", "Stage", 28 >> stage, 13),
        )
    )
    ends = [stage.ways[0] for stage in stage_ends(parts(*rows))]
    assert ends[:3] == ["stages.0.blocks.1", "stages.1.blocks.1", "stages.2.blocks.1"]


def test_maps_of_nearly_one_size_are_one_stage_and_layers_before_the_blocks_are_one_too() -> None:
    """Inception-V3: convolutions without padding."""
    rows: tuple[Row, ...] = (
        ("features.stem", "Conv2d", 149, 1),
        ("features.conv3", "Conv2d", 73, 1),
        ("features.conv4", "Conv2d", 71, 1),
        ("features.pool", "MaxPool2d", 35, 0),
        ("features.mixed5", "Inception", 35, 7),
        ("features.mixed6", "Inception", 17, 7),
        ("features.mixed7.branch", "Branch", 9, 2),
        ("features.mixed7", "Inception", 8, 7),
    )
    ends = [f"features.{name}" for name in ("conv4", "mixed5", "mixed6", "mixed7")]
    assert [stage.ways[0] for stage in stage_ends(parts(*rows))] == ends
    assert [stage.ways[0] for stage in stage_ends(parts(*rows, ("features", "Sequential", 8, 24)))] == ends


def test_a_row_may_run_through_several_modules() -> None:
    """CrossViT: three stages of four blocks at one size."""
    rows = tuple(
        row
        for stage in range(3)
        for row in (
            *((f"stages.{stage}.blocks.{block}", "Block", 14, 4) for block in range(4)),
            (f"stages.{stage}", "Stage", 14, 16),
        )
    )
    ends = [stage.ways[0] for stage in stage_ends(parts(*rows))]
    assert ends == ["stages.0.blocks.2", "stages.1.blocks.1", "stages.2.blocks.0", "stages.2.blocks.3"]


def test_what_is_around_and_ends_with_it_comes_last() -> None:
    rows: tuple[Row, ...] = (
        ("stages.0.body", "Block", 56, 4),
        ("stages.0", "Stage", 56, 4),
        ("stages.1.body", "Block", 28, 4),
        ("stages.1", "Stage", 28, 4),
        ("stages", "Sequential", 28, 8),
    )
    ways = [stage.ways for stage in stage_ends(parts(*rows, unfit=("stages.0", "stages.1", "stages.1.body")))]
    assert ways == [("stages.0.body",), ("stages",)]
    quarters = stage_ends(parts(*VIT, unfit=("blocks.2", "blocks.2.mlp", "blocks.9", "blocks.9.mlp")))
    assert [quarters[quarter].ways for quarter in (0, 3)] == [(), ("blocks",)]


def test_what_cannot_take_attention_is_replaced_from_inside() -> None:
    ends = stage_ends(parts(*SWIN, unfit=("features.5", "features.5.1")))
    assert ends[2].ways == ("features.5.0",)
    without = stage_ends(parts(*SWIN, unfit=("features.3", "features.3.0")))[1]
    assert (without.end.name, without.end.refusal, without.ways) == ("features.3", "unfit", ())
    assert stage_ends(parts(*SWIN))[2].ways == ("features.5", "features.5.1", "features.5.0")


def test_nothing_gives_nothing() -> None:
    assert stage_ends([]) == []
    assert stage_ends(parts(("pool", "Pool", 1, 0))) == []


# Networks -------------------------------------------------------------------------------------------------------------


def torchvision_model(name: str, **options: object) -> Callable[[], nn.Module]:
    return lambda: getattr(torchvision.models, name)(**options)


def timm_model(name: str, **options: object) -> Callable[[], nn.Module]:
    return lambda: pytest.importorskip("timm", reason="timm's models need timm").create_model(name, **options)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "resnet18": (torchvision_model("resnet18"), ["layer1", "layer2", "layer3", "layer4"]),
    "densenet": (
        torchvision_model("DenseNet", growth_rate=8, block_config=(2, 2, 2, 2), num_init_features=16),
        [f"features.denseblock{stage}" for stage in (1, 2, 3, 4)],
    ),
    "regnet_y_400mf": (
        torchvision_model("regnet_y_400mf"),
        [f"trunk_output.block{stage}" for stage in (1, 2, 3, 4)],
    ),
    "efficientnet_b0": (torchvision_model("efficientnet_b0"), [f"features.{stage}" for stage in (2, 3, 5, 7)]),
    "mobilenet_v2": (torchvision_model("mobilenet_v2"), [f"features.{stage}" for stage in (3, 6, 13, 17)]),
    "mobilenet_v3_small": (
        torchvision_model("mobilenet_v3_small"),
        [f"features.{stage}" for stage in (1, 3, 8, 11)],
    ),
    "shufflenet": (torchvision_model("shufflenet_v2_x0_5"), ["stage2", "stage3", "stage4"]),
    "convnext_tiny": (torchvision_model("convnext_tiny"), [f"features.{stage}" for stage in (1, 3, 5, 7)]),
    "swin_t": (torchvision_model("swin_t"), [f"features.{stage}" for stage in (1, 3, 5, 7)]),
    "vgg11": (torchvision_model("vgg11"), ["features.4", "features.9", "features.14", "features.19"]),
    "vit": (
        timm_model("vit_tiny_patch16_224", img_size=(64, 32), global_pool="avg"),
        ["blocks.2", "blocks.5", "blocks.8", "blocks.11"],
    ),
    "mixer": (timm_model("mixer_s32_224", img_size=64), ["blocks.1", "blocks.3", "blocks.5", "blocks.7"]),
    "timm efficientnet": (timm_model("test_efficientnet"), [f"blocks.{stage}" for stage in (1, 2, 3, 4)]),
    "timm regnet": (timm_model("regnetx_002"), ["s1.b1", "s2.b1", "s3.b4", "s4.b7"]),
    "ghostnet": (timm_model("ghostnet_050"), [f"blocks.{stage}" for stage in (2, 4, 6, 8)]),
    "dpn": (timm_model("dpn48b"), [f"features.conv{stage}" for stage in ("2_3", "3_4", "4_6", "5_3")]),
    "googlenet": (
        torchvision_model("googlenet", aux_logits=False, init_weights=False),
        ["conv3", "inception3b", "inception4e", "inception5b"],
    ),
    "hrnet": (timm_model("hrnet_w18_small"), [f"incre_modules.{branch}" for branch in (0, 1, 2, 3)]),
}


QUICK = ("resnet18", "mobilenet_v3_small", "vit", "timm regnet")


@pytest.mark.parametrize(
    ("make", "stages"),
    [
        pytest.param(*network, id=name, marks=() if name in QUICK else pytest.mark.slow)
        for name, network in NETWORKS.items()
    ],
)
def test_the_stages_of_published_networks(make: Callable[[], nn.Module], stages: list[str]) -> None:
    torch.manual_seed(0)
    model = make().eval()
    size = (64, 64) if isinstance(model, pytest.importorskip("timm").models.MlpMixer) else (64, 32)
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        plain = model(images)
    attachment = attach_pyramid(model, "se", input_size=size, identity_init=True)
    assert [site.name for site in attachment.sites] == stages
    assert all(name in str(attachment) for name in stages)
    with torch.no_grad():
        assert torch.equal(model(images), plain)
    attachment.remove()
    with torch.no_grad():
        assert torch.equal(model(images), plain)


def small() -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.mobilenet_v3_small().eval()


SIZE = (64, 32)


def test_some_stages_and_every_option_of_the_pyramid() -> None:
    model = small()
    attachment = attach_pyramid(
        model,
        ("se", "rga_s"),
        stages=[4, 2],
        levels=2,
        order="fine_to_coarse",
        input_size=(128, 64),
    )
    assert [site.name for site in attachment.sites] == ["features.3", "features.11"]
    pyramids = [module for module in model.modules() if isinstance(module, AttentionPyramid)]
    assert {(pyramid.order, pyramid.attention) for pyramid in pyramids} == {("fine_to_coarse", ("se", "rga_s"))}
    attachment.remove()
    split = attach_pyramid(model, "pixel", stages=[1], dim="height", input_size=SIZE)
    assert [level.dim for level in model.get_submodule("features.1.attention").plan][-1] == "height"
    split.remove()


def test_the_paper_s_preset_takes_other_backbones() -> None:
    model = small()
    attach_apnet(model, "se", levels=2, input_size=SIZE)
    assert [site.name for site in attachments(model)[0].sites] == NETWORKS["mobilenet_v3_small"][1]


def test_a_checkpoint_rebuilds_it(tmp_path) -> None:
    model, other = small(), small()
    attach_pyramid(model, "se", stages=(3, 4), order="fine_to_coarse", input_size=SIZE)
    save_checkpoint(model, tmp_path / "model.safetensors")
    load_checkpoint(other, tmp_path / "model.safetensors")
    assert attachments(other)[0].call == attachments(model)[0].call
    images = torch.randn(2, 3, *SIZE)
    assert torch.equal(other(images), model(images))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": (5,)}, r"stages .*4 stages .*got \(5,\); .*'features.1'"),
        ({"stages": ()}, r"stages .*got \(\)"),
        ({"stages": (True,)}, r"stages .*got \(True,\)"),
        ({"levels": 5, "input_size": (64, 64)}, "16"),
        ({"attention": "rga_s", "levels": 3}, r"height that 4 divides, .*got 16, 8, 4, 2 at input height 64; .*128"),
        ({"order": "sideways"}, "order .*'sideways'"),
    ],
)
def test_wrong_options(options: dict[str, object], message: str, observe) -> None:
    model = small()
    before = observe(model)
    with pytest.raises(ValueError, match=message):
        attach_pyramid(model, **{"input_size": SIZE, **options})  # type: ignore[arg-type]
    assert observe(model) == before


def test_a_model_without_maps_is_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 32, 4))
    with pytest.raises(ValueError, match="attach_pyramid: .*modules that give a map, got Sequential"):
        attach_pyramid(model, "se", input_size=SIZE)


class Looping(nn.Module):
    """A stage whose forward runs all of its children, whatever they are."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(channels, 8, 1), nn.Conv2d(8, 8, 3, 2, 1))
        self.second = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        for child in self.children():
            x = child(x)
        return x


class Repeated(nn.Module):
    """A stage that runs twice, with all that is in it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.stage = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.stage(self.stage(self.stem(x)))


def test_a_stage_that_runs_its_children_itself_ends_at_the_last_of_them(observe) -> None:
    model = nn.Sequential(Looping(3), Looping(8))
    before = observe(model)
    with pytest.raises(ValueError, match=r"'0' \(Looping\) .*2 times"):
        attach(model, "se", "0", input_size=SIZE)
    attachment = attach_pyramid(model, "se", input_size=SIZE)
    assert [site.name for site in attachment.sites] == ["0.second", "1.second"]
    attachment.remove()
    assert observe(model) == before


def test_a_stage_where_attention_cannot_stand_is_named(observe) -> None:
    model = Repeated()
    before = observe(model)
    with pytest.raises(ValueError, match=r"'stage' .*end of stage 1, .*2 times.*stages=.*attach\(model"):
        attach_pyramid(model, "se", input_size=SIZE)
    assert observe(model) == before


class Pair(nn.Module):
    """A block that returns a map and what it was made of."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(channels, 8, 3, 2, 1), nn.Conv2d(8, 16, 1))

    def forward(self, x: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        given = x if isinstance(x, Tensor) else x[1]
        return given, self.layers(given)


class Last(nn.Module):
    def forward(self, x: tuple[Tensor, Tensor]) -> Tensor:
        return x[1].mean((2, 3))


def test_of_several_maps_the_one_with_the_most_channels_counts(observe) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 2, 2), Pair(4), Pair(16), Last())
    images, before = torch.randn(2, 3, *SIZE), observe(model)
    plain = model(images)
    attachment = attach_pyramid(model, "se", input_size=SIZE, identity_init=True)
    assert [(site.name, site.output, site.channels) for site in attachment.sites] == [("1", 1, 16), ("2", 1, 16)]
    assert torch.equal(model(images), plain)
    attachment.remove()
    assert observe(model) == before


def test_a_stage_that_carries_attention_is_refused_and_gets_no_other_place(observe) -> None:
    for model, carrier in ((small(), "features.1"), (nn.Sequential(Looping(3), Looping(8)), "0.second")):
        attach_pyramid(model, "se", input_size=SIZE)
        before = observe(model)
        with pytest.raises(ValueError, match=f"attach_pyramid: '{carrier}' .*already carries attention"):
            attach_pyramid(model, "se", input_size=SIZE)
        assert observe(model) == before


def test_attention_inside_does_not_change_the_stages() -> None:
    model = small()
    attach(model, "se", "features.12.**", input_size=SIZE)
    attach(model, "se", "features.0.0", input_size=SIZE)
    attachment = attach_pyramid(model, "se", input_size=SIZE)
    assert [site.name for site in attachment.sites] == NETWORKS["mobilenet_v3_small"][1]


class Shuffled(nn.Module):
    """Three blocks that give tokens in no order of rows, after one that gives a map."""

    def __init__(self) -> None:
        super().__init__()
        self.stage = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.Conv2d(8, 8, 1))
        self.mixed = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
        x = self.stage(x).flatten(2).transpose(1, 2)[:, order.to(x.device)]
        for block in self.mixed:
            x = block(x)
        return x.mean(1)


def test_stages_that_cannot_be_seen_are_warned_of() -> None:
    torch.manual_seed(0)
    model = Shuffled()
    with pytest.warns(UserWarning, match=r"attach_pyramid: 75% .*'mixed.0' \(Sequential\): .*tokens") as warned:
        attachment = attach_pyramid(model, "se", input_size=SIZE)
    assert warned[0].filename == __file__
    assert [site.name for site in attachment.sites] == ["stage"]


def test_the_order_of_the_modules_is_that_in_which_they_end() -> None:
    model = small()
    survey = look("test", model, SIZE)
    found = {part.name: part.finished for part in parts_of(model, survey)}
    assert found["features.0"] < found["features.1.block.0"] < found["features.1"] < found["features"]
    assert {site.name for site in find_sites(model, SIZE) if site.refusal is None} <= found.keys()
    assert partial(parts_of, model)(survey) == parts_of(model, survey)
