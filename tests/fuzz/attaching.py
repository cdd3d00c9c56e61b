"""Attaching: small models of every layout, arguments around the valid region, and attention applied by hand."""

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.models.resnet import ResNet

from attnreid import (
    Attachment,
    AttentionPyramid,
    SqueezeExcitation,
    attach,
    attach_apnet,
    attach_mla,
    attach_pyramid,
    attach_se,
    attachments,
    find_sites,
    load_checkpoint,
    save_checkpoint,
    set_last_stride,
)
from attnreid.backbones.layouts import on_maps
from reference_pipelines.models.narrow import NarrowBottleneck
from tests.fuzz.harness import Arguments, Built, Entry, model_state
from tests.fuzz.layers import WRONG_COUNT, WRONG_FLAG
from tests.layers.support import assert_close, randomise

Draw = Callable[..., Any]


class Last(nn.Module):
    """A block whose map has the channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).relu()


class ChannelsLast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.block = Last()

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.stem(x).permute(0, 2, 3, 1)).mean(dim=(1, 2))


class Tokens(nn.Module):
    """A small vision transformer's shape: patches in rows, a class token before them."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.cls = nn.Parameter(torch.zeros(1, 1, 8))
        self.block = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        return self.block(torch.cat([self.cls.expand(len(x), -1, -1), tokens], dim=1)).mean(dim=1)


class Several(nn.Module):
    """A block that returns its map with something else."""

    def __init__(self, keyed: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.keyed = keyed

    def forward(self, x: Tensor) -> Any:
        y = self.conv(x).relu()
        return {"map": y, "mean": y.mean()} if self.keyed else (y, y.mean())


class OfSeveral(nn.Module):
    def __init__(self, keyed: bool) -> None:
        super().__init__()
        self.block = Several(keyed)
        self.keyed = keyed

    def forward(self, x: Tensor) -> Tensor:
        both = self.block(x)
        return (both["map"] if self.keyed else both[0]).mean(dim=(2, 3))


def _convs() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
    )


MODELS: dict[str, Callable[[], nn.Module]] = {
    "NCHW": _convs,
    "NHWC": ChannelsLast,
    "tokens": Tokens,
    "tuple": lambda: OfSeveral(False),
    "dict": lambda: OfSeveral(True),
}
SITES = {
    **{"NCHW": ["0", "1", "2", "3", "4", "*", "[0-2]", "**"], "NHWC": ["stem", "block", "block.*", "block.linear"]},
    **{"tokens": ["patches", "block", "block.0", "block.1", "block.*"], "tuple": ["block", "block.conv"]},
    "dict": ["block", "block.conv"],
}
BUILDERS: list[Any] = [
    *("se", "pixel", "rga_s", "head", "domain", SqueezeExcitation, partial(SqueezeExcitation, reduction=2)),
    *(partial(AttentionPyramid, attention="se", levels=2), partial(AttentionPyramid, attention="rga_s", levels=2)),
]


class Shrinks(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, ::2]


WRONG_BUILDERS = st.sampled_from(
    [None, 3, "", "sea", "se ", nn.ReLU(), SqueezeExcitation(8), nn.Identity, Shrinks, lambda channels: None, int]
)
WRONG_INPUT_SIZES = st.sampled_from(
    [None, 8, (8,), (0, 8), (-8, 8), (8.0, 8), "88", (3, 3, 8, 8), (1, 8, 8), (True, 8), [8, 8], (1, 1)]
)


def build(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return randomise(MODELS[kind]()).double().eval()


@st.composite
def attach_calls(draw: Draw) -> Arguments:
    kind = draw(st.sampled_from(sorted(MODELS)))
    at: Any = draw(st.sampled_from(SITES[kind]))
    if draw(st.integers(0, 5)) == 0:
        at = draw(st.lists(st.sampled_from(SITES[kind]), max_size=3))
    if draw(st.integers(0, 9)) == 0:
        at = draw(
            st.one_of(st.sampled_from([None, "", "nowhere", 3, [3], "block..", "[", nn.ReLU()]), st.text(max_size=5))
        )
    options: dict[str, Any] = {}
    for name, right, wrong in (
        ("input_size", st.just((8, 4)), WRONG_INPUT_SIZES),
        ("where", st.sampled_from(["after", "after", "instead"]), st.sampled_from(["before", None, 3, ["after"]])),
        ("identity_init", st.booleans(), WRONG_FLAG),
        ("layout", st.sampled_from([None, "NCHW", "NHWC", "tokens"]), st.sampled_from(["nchw", 3, "", ["NCHW"]])),
        ("grid", st.sampled_from([None, (2, 1), (1, 2)]), st.sampled_from([(0, 1), 2, "21", (2,), (2, 1.5), (3, 3)])),
        ("prefix", st.sampled_from([None, 0, 1]), st.sampled_from([-1, 1.0, "1", True, 99])),
        (
            "output",
            st.sampled_from([None, 0, "map"]),
            st.sampled_from([1, "mean", "none", 1.5, -1, True, None, (0,), 7]),
        ),
        ("size", st.nothing(), st.sampled_from([(8, 4), None])),
        ("reduction", st.nothing(), st.just(2)),
    ):
        odd = draw(st.integers(0, 19))
        if odd == 0:
            options[name] = draw(wrong)
        elif name == "input_size" or (not right.is_empty and odd < 5):
            options[name] = draw(right)
    attention = draw(WRONG_BUILDERS) if draw(st.integers(0, 9)) == 0 else draw(st.sampled_from(BUILDERS))
    if draw(st.integers(0, 19)) == 0:
        options.pop("input_size", None)
        shapes = st.sampled_from([(2, 3, 8, 4), (0, 3, 8, 4), (2, 1, 8, 4), (8, 4), (1, 3, 8, 4)])
        options["example_inputs"] = draw(
            st.one_of(
                shapes.map(lambda shape: (torch.zeros(shape, dtype=torch.float64),)),
                st.sampled_from([(), None, 3, ("x",)]),
            )
        )
    return {"kind": kind, "model": Built(build(kind)), "attention": attention, "at": at, "options": options}


def _unchanged(model: nn.Module, call: Callable[[], Any]) -> Any:
    """Call, and require that the model is as it was where that raises."""
    before = model_state(model)
    try:
        return call()
    except BaseException:
        assert model_state(model) == before, "the model was changed by a call that failed"
        raise


def _attach(arguments: Arguments) -> Any:
    model = arguments["model"].value
    plain, before = copy.deepcopy(model), model_state(model)
    result = _unchanged(model, lambda: attach(model, arguments["attention"], arguments["at"], **arguments["options"]))
    return result, plain, before


def _hear(module: nn.Module, heard: dict[str, Any], name: str) -> None:
    """Note what a module takes and gives when it is first called."""

    def hook(module: nn.Module, args: Any, output: Any) -> None:
        heard.setdefault(name, (args[0], output))

    module.register_forward_hook(hook)


def _applied(site: Any, layer: nn.Module, output: Any) -> Any:
    """Apply a layer to the map in what a module returned, by the words of `Site`."""
    if site.output is not None:
        inside = _applied_map(site, layer, output[site.output])
        if isinstance(output, dict):
            return {**output, site.output: inside}
        return tuple(inside if place == site.output else each for place, each in enumerate(output))
    return _applied_map(site, layer, output)


def _applied_map(site: Any, layer: nn.Module, x: Tensor) -> Tensor:
    if site.layout == "NHWC":
        return layer(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    if site.layout == "tokens":
        front, tokens = x[:, : site.prefix], x[:, site.prefix :]
        height, width = site.size
        maps = tokens.transpose(1, 2).reshape(len(x), -1, height, width)
        return torch.cat([front, layer(maps).flatten(2).transpose(1, 2)], dim=1)
    return layer(x)


def check_attachment(arguments: Arguments, result: Any) -> None:
    """The attention acts as it does by hand, and comes out without a trace."""
    attachment, plain, before = result
    model = arguments["model"].value
    assert isinstance(attachment, Attachment)
    assert attachment.sites
    options = arguments["options"]
    x = torch.randn(2, 3, 8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    identity = options.get("identity_init") is True
    if identity:
        assert torch.equal(model(x), plain(x)), "identity_init changes the output"
    with torch.no_grad():
        for value in attachment.parameters():
            value.add_(0.1 * torch.randn(value.shape, dtype=value.dtype, generator=torch.Generator().manual_seed(2)))
    layers = {one.name: copy.deepcopy(on_maps(one.attention)) for one in attachment._inserted}
    by_hand = copy.deepcopy(plain)
    if options.get("where", "after") == "after":
        for site in attachment.sites:
            by_hand.get_submodule(site.name).register_forward_hook(
                lambda module, args, output, site=site: _applied(site, layers[site.name], output)
            )
        assert_close(model(x).detach(), by_hand(x).detach(), 1e-9)
        names = [name for name in model.state_dict() if ".attention." not in f".{name}"]
        assert names == list(plain.state_dict())
    assert model(x).isfinite().all()
    attachment.remove()
    attachment.remove()
    assert attachments(model) == []
    assert model_state(model) == before, "remove() leaves something behind"
    assert torch.equal(model(x), plain(x))


@st.composite
def sites_calls(draw: Draw) -> Arguments:
    arguments = draw(attach_calls())
    options = {
        key: value
        for key, value in arguments["options"].items()
        if key in ("input_size", "example_inputs", "layout", "grid", "prefix", "output")
    }
    if draw(st.integers(0, 14)) == 0:
        return {**arguments, "model": Built(draw(st.sampled_from([None, nn.ReLU, "model", 3]))), "options": options}
    return {**arguments, "options": options}


def _find(arguments: Arguments) -> Any:
    model = arguments["model"].value
    before = model_state(model) if isinstance(model, nn.Module) else None
    try:
        return find_sites(model, **arguments["options"])
    finally:
        assert before is None or model_state(model) == before


def _check_sites(arguments: Arguments, sites: Any) -> None:
    model, heard = arguments["model"].value, {}
    for name, module in model.named_modules():
        _hear(module, heard, name)
    size = arguments["options"].get("input_size")
    inputs = arguments["options"].get("example_inputs")
    if inputs is None:
        size = (3, *size) if len(size) == 2 else tuple(size)
        if math.prod(size) > 10**5:
            return
        inputs = (torch.zeros(2, *size, dtype=torch.float64),)
    model(*inputs)
    for site in sites:
        output = heard[site.name][1]
        if site.refusal is not None or site.channels is None:
            continue
        found = output if site.output is None else output[site.output]
        axes = {"NCHW": (1, 2, 3), "NHWC": (3, 1, 2)}
        if site.layout in axes:
            assert tuple(found.shape[axis] for axis in axes[site.layout]) == (site.channels, *site.size)
        elif site.layout == "tokens":
            assert found.shape[1:] == (site.prefix + math.prod(site.size), site.channels)


# Presets, on a narrow ResNet


@st.composite
def preset_calls(draw: Draw, name: str) -> Arguments:
    size = draw(st.sampled_from([(64, 32)] * 8 + [(32, 16), (33, 17), (16, 8), (3, 64, 32), (1, 64, 32)]))
    options: dict[str, Any] = {"input_size": size}
    counts = st.one_of(st.integers(0, 4), st.lists(st.integers(1, 4), min_size=1, max_size=3), WRONG_COUNT)
    layers = st.one_of(
        st.sampled_from(["se", "rga_s", "split", "pixel", SqueezeExcitation]),
        st.lists(st.sampled_from(["se", "rga_s"]), min_size=1, max_size=3).map(tuple),
        WRONG_BUILDERS,
    )
    levels = st.one_of(
        st.lists(st.sampled_from(["pixel", "head", "domain"]), max_size=3).map(tuple),
        st.sampled_from(["pixel", ("pixl",), None, 3, ["head"], {"head"}]),
    )
    common = {"identity_init": st.one_of(st.booleans(), WRONG_FLAG)}
    of_pyramids = {
        **common,
        **{"attention": layers, "levels": counts, "radix": st.one_of(st.integers(1, 3), WRONG_COUNT)},
        "order": st.sampled_from(["coarse_to_fine", "fine_to_coarse", "up", None, 3]),
    }
    choices: dict[str, dict[str, st.SearchStrategy[Any]]] = {
        "attach_pyramid": {
            **of_pyramids,
            "stages": st.one_of(
                st.none(), st.lists(st.integers(0, 5), max_size=4), st.sampled_from([3, "12", (1.0,), (True,), (-1,)])
            ),
            "dim": st.sampled_from([None, "channels", "height", "width", 3]),
        },
        "attach_apnet": {**of_pyramids, "variant": st.sampled_from(["paper", "released", "x", None, 3])},
        "attach_mla": {
            **common,
            "levels": levels,
            "blocks": st.sampled_from(["all", "last", "first", None, 3]),
            "heads": st.one_of(st.sampled_from([1, 2, 4, 3]), WRONG_COUNT),
            "memory": st.one_of(st.integers(1, 8), WRONG_COUNT),
            "where": st.sampled_from(["instead", "after", "before", None]),
        },
        "attach_se": {"reduction": st.one_of(st.sampled_from([1, 2, 16, 99]), WRONG_COUNT)},
    }
    for option, values in choices[name].items():
        if draw(st.integers(0, 3)) == 0:
            options[option] = draw(values)
    if draw(st.integers(0, 19)) == 0:
        options["input_size"] = draw(WRONG_INPUT_SIZES)
    kind = draw(st.sampled_from(["resnet"] * 9 + ["convs", "attached", "none", "class"]))
    return {"kind": kind, "model": Built(_of_kind(kind)), "options": options}


def _of_kind(kind: str) -> Any:
    if kind in ("none", "class"):
        return None if kind == "none" else nn.ReLU
    torch.manual_seed(0)
    model = nn.Sequential(_convs()) if kind == "convs" else ResNet(NarrowBottleneck, [1, 1, 1, 1], width_per_group=4)
    model = randomise(model).eval()
    if kind == "attached":
        attach_se(model)
    return model


PRESETS: dict[str, Callable[..., Attachment]] = {
    "attach_pyramid": attach_pyramid,
    "attach_apnet": attach_apnet,
    "attach_mla": attach_mla,
    "attach_se": attach_se,
}


def _preset(name: str, arguments: Arguments) -> Any:
    model, options = arguments["model"].value, dict(arguments["options"])
    if not isinstance(model, nn.Module):
        return PRESETS[name](model, **options)
    state = model_state(model)
    plain = copy.deepcopy(model)
    return _unchanged(model, lambda: PRESETS[name](model, **options)), plain, state


def _check_preset(name: str, arguments: Arguments, result: Any) -> None:
    attachment, plain, before = result
    model, size = arguments["model"].value, arguments["options"]["input_size"]
    x = torch.randn(2, *((3, *size) if len(size) == 2 else size), generator=torch.Generator().manual_seed(1))
    heard: dict[str, Any] = {}
    for one in attachment._inserted:
        _hear(on_maps(one.attention), heard, one.name)
    y = model(x)
    assert y.shape == plain(x).shape
    released = arguments["options"].get("variant") == "released"
    if arguments["options"].get("identity_init") is True and not released:
        assert torch.equal(y, plain(x))
    for site in attachment.sites:
        assert heard[site.name][0].shape == (2, site.channels, *site.size), "a site is not what it says"
    attachment.remove()
    after = model_state(model)
    assert [module[:2] for module in after[1]] == [module[:2] for module in before[1]]
    assert after[2] == before[2]
    assert torch.equal(model(x), plain(x))


@st.composite
def stride_calls(draw: Draw) -> Arguments:
    kind = draw(st.sampled_from(["resnet"] * 6 + ["convs", "attached", "none", "class"]))
    options: dict[str, Any] = {}
    if draw(st.booleans()):
        options["stride"] = draw(st.sampled_from([1, 2, 1, 2, 0, 3, -1, None, "1", 1.0, True, (1, 1)]))
    if draw(st.booleans()):
        options["input_size"] = draw(st.one_of(st.sampled_from([(64, 32), (3, 64, 32), (96, 64)]), WRONG_INPUT_SIZES))
    return {"kind": kind, "model": Built(_of_kind(kind)), "options": options}


def _stride(arguments: Arguments) -> Any:
    model = arguments["model"].value
    if not isinstance(model, nn.Module):
        return set_last_stride(model, **arguments["options"])
    plain = copy.deepcopy(model)
    _unchanged(model, lambda: set_last_stride(model, **arguments["options"]))
    return plain


def _check_stride(arguments: Arguments, plain: Any) -> None:
    model, heard = arguments["model"].value, {}
    for name, each in (("now", model), ("before", plain)):
        _hear(each.layer4, heard, name)
        each(torch.zeros(1, 3, 64, 32))
    taken, given = heard["now"]
    assert taken.shape[2] == given.shape[2] * arguments["options"].get("stride", 1)
    assert model.state_dict().keys() == plain.state_dict().keys()


# Resizing, and checkpoints


@st.composite
def resize_calls(draw: Draw) -> Arguments:
    attention = draw(st.sampled_from(BUILDERS))
    size = draw(st.one_of(st.sampled_from([(8, 4), (16, 8), (4, 4), (6, 2), (3, 12, 4), (5, 3)]), WRONG_INPUT_SIZES))
    return {"attention": attention, "size": size, "identity": draw(st.booleans())}


def _resize(arguments: Arguments) -> Any:
    model = build("NCHW")
    attachment = attach(model, arguments["attention"], "2", input_size=(8, 4), identity_init=arguments["identity"])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        attachment.resize(arguments["size"])
    except BaseException:
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert model(torch.zeros(1, 3, 8, 4, dtype=torch.float64)).isfinite().all()
        raise
    return model, attachment, before


def _check_resized(arguments: Arguments, result: Any) -> None:
    model, attachment, before = result
    size = arguments["size"]
    size = (3, *size) if len(size) == 2 else tuple(size)
    assert attachment.sites[0].size == size[1:]
    assert model.state_dict().keys() == before.keys()
    if math.prod(size) < 10**5:
        y = model(torch.randn(2, *size, dtype=torch.float64))
        assert y.isfinite().all()


@st.composite
def checkpoint_calls(draw: Draw) -> Arguments:
    return {
        "saved": draw(st.sampled_from(["plain", "se", "rga_s", "head"])),
        "into": draw(st.sampled_from(["plain", "plain", "se", "rga_s", "other", "none", "text"])),
        "description": draw(
            st.one_of(
                st.none(),
                st.dictionaries(
                    st.text(max_size=3), st.one_of(st.integers(), st.text(max_size=3), st.floats()), max_size=3
                ),
                st.sampled_from(
                    [3, "x", {1: 2}, {"a": object()}, {"a": torch.zeros(1)}, [1], {"a": {"b": [None, True]}}]
                ),
            )
        ),
        "options": draw(
            st.fixed_dictionaries(
                {},
                optional={
                    "strict": st.one_of(st.booleans(), WRONG_FLAG),
                    "prefix": st.sampled_from(["", "0.", "1.", "nowhere.", "0", None, 3]),
                    "resize": st.one_of(st.booleans(), st.sampled_from([(8, 4), (16, 8), 0, None, "x", (0, 1)])),
                },
            )
        ),
    }


def _carrying(kind: str) -> Any:
    if kind in ("none", "text"):
        return None if kind == "none" else "model"
    model = build("NCHW")
    if kind == "other":
        return nn.Sequential(nn.Conv2d(3, 4, 3)).double()
    if kind != "plain":
        attach(model, kind, "2", input_size=(8, 4))
    return model


def _save_and_load(arguments: Arguments) -> Any:
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.safetensors"
        saved = randomise(_carrying(arguments["saved"]), seed=3)
        try:
            save_checkpoint(saved, path, description=arguments["description"])
        except BaseException:
            assert list(Path(folder).iterdir()) == []
            raise
        model = _carrying(arguments["into"])
        if not isinstance(model, nn.Module):
            return load_checkpoint(model, path, **arguments["options"])
        _unchanged(model, lambda: load_checkpoint(model, path, **arguments["options"]))
        return saved, model


def _check_loaded(arguments: Arguments, result: Any) -> None:
    saved, model = result
    prefix = arguments["options"].get("prefix", "")
    theirs = {key.removeprefix(prefix): value for key, value in saved.state_dict().items() if key.startswith(prefix)}
    own = model.state_dict()
    strict = arguments["options"].get("strict", True)
    resized = arguments["options"].get("resize", False) is not False
    if strict:
        assert own.keys() == theirs.keys()
    for key, value in theirs.items():
        if key in own and not (resized and ".attention." in key):
            assert torch.equal(own[key], value), f"{key} is not the file's"


def entries() -> list[Entry]:
    """Return the entry points that put attention into models, find places in them and keep them."""
    presets = [
        Entry(
            name,
            preset_calls(name),
            lambda arguments, name=name: _preset(name, arguments),
            lambda arguments, result, name=name: _check_preset(name, arguments, result),
            weight=0.15,
        )
        for name in PRESETS
    ]
    return [
        Entry("attach", attach_calls(), _attach, check_attachment, weight=1.5),
        Entry("find_sites", sites_calls(), _find, _check_sites, weight=0.8),
        *presets,
        Entry("set_last_stride", stride_calls(), _stride, _check_stride, weight=0.15),
        Entry("Attachment.resize", resize_calls(), _resize, _check_resized, weight=0.5),
        Entry("save_checkpoint, load_checkpoint", checkpoint_calls(), _save_and_load, _check_loaded, weight=0.7),
    ]
