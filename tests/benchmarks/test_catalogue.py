"""The rows that are promised are there with their targets, and every one of them builds and runs."""

import sys
from functools import partial

import pytest
import torch

from benchmarks import peers
from benchmarks.cases import Job, Skipped, Target
from benchmarks.catalogue import CASES
from benchmarks.layers import STAGES
from benchmarks.measuring import measure
from benchmarks.rendering import rendering_variant
from tests.benchmarks.support import CLOCK, problem
from tests.conftest import says

BY_NAME = {case.name: case for case in CASES}
MODELS = ["apnet_c2", "apnet_c2_folded", "apnet_s2_folded", "mla_folded", "apnet_c2_training"]
LAYERS = [name for name in BY_NAME if BY_NAME[name].resizable and name not in MODELS]


def target(name, peer, shape=None):
    (found,) = (each for each in BY_NAME[name].peers if each.name == peer)
    return found.target_at(shape or BY_NAME[name].shapes[0])


def tiny(name, shape, batch=2, dtype=torch.float32):
    rows = measure(
        [Job(BY_NAME[name], problem(shape, batch=batch, dtype=dtype))], rounds=1, resident=False, progress=False
    )
    skipped = [row for row in rows if any(note.startswith("skipped") for note in row.notes)]
    if len(skipped) == len(rows):
        pytest.skip("; ".join(f"{row.against}: {row.notes[0]}" for row in skipped))
    return [row for row in rows if row not in skipped]


def test_the_promised_targets():
    assert target("rga_s", "literal") == Target(10.0, memory_ratio=10.0)
    for name in ("rga_s", "rga_c"):
        assert BY_NAME[name].shapes == STAGES == ((256, 64, 32), (512, 32, 16), (1024, 16, 8), (2048, 16, 8))
        assert all(target(name, "literal", shape).ratio >= 1 for shape in STAGES)
    assert target("pyramid", "levels").ratio == 3
    assert target("pyramid", "timm").ratio == 1
    assert target("head", "literal", (512, 16, 8)).ratio == 1.05
    assert target("head", "literal", (512, 32, 16)).ratio == 1.12
    assert target("head_peers", "bottleneck_transformer").ratio == 1
    assert target("head_peers", "timm").ratio == 1
    assert target("domain_folded", "unfolded").ratio == 2
    assert target("domain_folded", "fightingcv").ratio == 1.25
    assert [target(name, "plain").ratio for name in MODELS] == [0.97, 1.0, 0.73, 0.87, 0.97]
    assert BY_NAME["rendering"].least_per_second == 150
    assert all(BY_NAME[name].allows for name in MODELS)
    assert BY_NAME["head"].batch == BY_NAME["domain_folded"].batch == 16


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_every_layers_row_builds_agrees_and_runs(name, dtype):
    for row in tiny(name, (32, 8, 4), batch=4, dtype=dtype):
        if dtype == torch.bfloat16 and row.notes and row.notes[-1].startswith("refused"):
            continue  # so few values that its rounding is larger than what is allowed
        assert row.ok, row.notes
        assert row.ratio > 0
        assert row.ours.multiply_adds > 0
        assert row.theirs.peak > 0


@pytest.mark.parametrize(
    "name", [name if name == "apnet_c2" else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)
def test_every_models_row_builds_agrees_and_runs(name):
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    rows = tiny(name, (3, 64, 32))
    assert rows[0].against == "plain ResNet-50"
    for row in rows:
        assert row.ok, row.notes
        assert row.per_second > 0
        assert 0.5 < row.allowed_ratio < 1.2
    if name == "apnet_c2_training":
        assert rows[0].ours.multiply_adds > 2 * tiny("apnet_c2", (3, 64, 32))[0].ours.multiply_adds


def test_the_peer_that_computes_the_same_is_compared_and_what_differs_is_said():
    pytest.importorskip("bottleneck_transformer_pytorch", reason="the extra 'benchmarks' is not installed")
    pytest.importorskip("fightingcv_attention", reason="the extra 'benchmarks' is not installed")
    bottleneck = peers.bottleneck_transformer_variant(problem())
    assert bottleneck.agrees
    assert says(bottleneck.note, "position tables", "shared by the heads")
    external = peers.external_attention_variant(problem())
    assert external.agrees
    assert external.as_ours is not None
    assert "no residual" in external.note


def test_what_differs_from_timms_layers_is_said():
    pytest.importorskip("timm", reason="the extra 'benchmarks' is not installed")
    note = peers.timm_se_variant(problem((64, 8, 4))).note
    assert "3 levels of 1 x 4 + 2 x 2 + 4 x 1 hidden units, no bias" in note
    assert "one of 8 (C/16, rounded to 8s), with bias" in note
    assert says(peers.timm_bottleneck_variant(problem()).note, "relative positions, ours", "absolute")


@pytest.mark.parametrize(
    ("package", "module", "build"),
    [
        ("timm", "timm.layers", peers.timm_se_variant),
        ("timm", "timm.layers.bottleneck_attn", peers.timm_bottleneck_variant),
        (
            "bottleneck-transformer-pytorch",
            "bottleneck_transformer_pytorch.bottleneck_transformer_pytorch",
            peers.bottleneck_transformer_variant,
        ),
        (
            "fightingcv-attention",
            "fightingcv_attention.attention.ExternalAttention",
            peers.external_attention_variant,
        ),
    ],
)
def test_without_a_peer_the_row_is_skipped_and_names_the_extra(package, module, build, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(peers.metadata, "version", lambda package: "1.0")
    reason = f"{package} .*not installed; pip install 'attnreid[benchmarks]'"
    with pytest.raises(Skipped, match=reason.replace("[", r"\[")):
        build(problem())


def test_a_peer_of_a_version_without_the_layer_is_skipped(monkeypatch):
    monkeypatch.setattr(peers.metadata, "version", lambda package: "0.1")
    with pytest.raises(Skipped, match="torch 0.1 .*no Attention in torch.nn; pip install -U"):
        peers.published("torch", "torch.nn", "Attention")


def test_models_keep_their_maps_in_range():
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    scores = BY_NAME["mla_folded"].build("ours", problem((3, 64, 32))).work()
    assert scores.isfinite().all()
    assert 0.01 < scores.abs().max() < 100


def test_the_rendering_row_draws_new_images_each_call_and_counts_them(monkeypatch, clock):
    pytest.importorskip("PIL", reason="the extra 'pipelines' is not installed")
    from reference_pipelines.rendering import market

    drawn = []

    def encode(spec, **options):
        drawn.append((spec, options))
        CLOCK.sleep(0.01)

    monkeypatch.setattr(market, "encode_image", encode)
    case = BY_NAME["rendering"]
    built = Job(type(case)(**{**vars(case), "ours": partial(rendering_variant, images=3)}), problem((3, 128, 64)))
    (row,) = measure([built], rounds=5, resident=False, progress=False)
    assert len({spec for spec, _ in drawn}) == len(drawn) == 3 * (3 + 5)
    assert drawn[0][1]["image_size"] == (128, 64)
    assert row.ours.ms == pytest.approx(10)  # of one image, not of a call
    assert (row.per_second, row.met) == (pytest.approx(100), False)
