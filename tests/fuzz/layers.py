"""Layers, the pyramid and the registry: arguments around the valid region, and the literal formulas as oracles."""

import copy
import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from attnreid import (
    AttentionPyramid,
    create_attention,
    explain_levels,
    fold,
    list_attention,
    plan_pyramid,
    record_attention,
    register_attention,
)
from attnreid.registry import find_attention
from tests.fuzz.harness import Accepted, Arguments, Built, Entry, model_state, raised_at
from tests.layers.support import assert_close, randomise
from tests.oracles import domain, head, multi_level, pixel, pyramid, relation_aware, split_attention, squeeze_excitation

Draw = Callable[..., Any]

WRONG_COUNT = st.sampled_from([0, -1, True, 1.5, "8", None, [4], 2**31, 2**63, np.int64(4), math.nan, (4, 4), b"4"])
WRONG_SIZE = st.sampled_from(
    [
        None,
        4,
        (4,),
        (4, 2, 1),
        (0, 2),
        (-1, 2),
        (4, 2.0),
        "42",
        (True, 2),
        {4, 2},
        [4, 2],
        torch.Size((4, 2)),
        (2**40, 1),
    ]
)
WRONG_FLAG = st.sampled_from([0, 1, None, "True", [], np.bool_(True)])
CHANNELS = st.sampled_from([1, 2, 3, 4, 6, 8, 8, 12])
SIZES = st.tuples(st.integers(1, 4), st.integers(1, 3))
DTYPES = st.one_of(
    *[st.just(torch.float64)] * 8,
    st.sampled_from([None, torch.float32, torch.bfloat16, torch.float16, torch.int64, "float32", 3]),
)
INPUT_DTYPES = st.one_of(
    *[st.just(torch.float64)] * 8,
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.complex64]),
)

COUNTS: dict[str, st.SearchStrategy[Any]] = {
    "reduction": st.integers(1, 4),
    "hidden": st.one_of(st.none(), st.integers(1, 4)),
    "parts": st.integers(1, 3),
    "heads": st.sampled_from([1, 2, 4]),
    "memory": st.integers(1, 5),
    "made_for": st.one_of(st.none(), SIZES),
    "shared_map": st.booleans(),
    "norm": st.booleans(),
    "scale": st.sampled_from([None, 1.0, 0.5, 2]),
    "levels": st.lists(st.sampled_from(["pixel", "head", "domain"]), min_size=1, max_size=3, unique=True).map(tuple),
}
WRONG: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(("reduction", "hidden", "parts", "heads", "memory"), WRONG_COUNT),
    **dict.fromkeys(("made_for", "size"), WRONG_SIZE),
    **dict.fromkeys(("shared_map", "norm"), WRONG_FLAG),
    "scale": st.sampled_from([0, -1.0, math.inf, math.nan, True, "1", [1.0], 10**400]),
    "levels": st.sampled_from([(), "pixel", ("pixel", "pixel"), ("pixl",), (None,), 3, None, {"pixel"}, [["head"]]]),
}


def options_of(name: str) -> list[str]:
    names = inspect.signature(find_attention(name)).parameters
    return [each for each in names if each not in ("channels", "size", "device", "dtype")]


def takes_size(name: str) -> bool:
    return "size" in inspect.signature(find_attention(name)).parameters


@st.composite
def maps(draw: Draw, channels: int, size: tuple[int, int]) -> Any:
    """A map of these channels and size, most of the time."""
    shape = [draw(st.integers(0, 3)), channels, *size]
    if draw(st.integers(0, 4)) == 0:
        place, kind = draw(st.integers(0, 3)), draw(st.integers(0, 5))
        if kind == 0:
            del shape[place]
        elif kind == 1:
            shape.insert(place, draw(st.integers(0, 2)))
        else:
            shape[place] = draw(st.integers(0, 5))
    dtype = draw(INPUT_DTYPES)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    x = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    form = draw(st.integers(0, 4))
    if form == 0 and x.ndim == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    elif form == 1:
        x = x.transpose(-1, -2).contiguous().transpose(-1, -2)
    elif form == 2 and x.is_floating_point():
        x = x.requires_grad_()
    return x


@st.composite
def layer_calls(draw: Draw, name: str) -> Arguments:
    size = draw(SIZES)
    options = {each: draw(COUNTS[each]) for each in options_of(name) if draw(st.booleans())}
    if "hidden" in options and options["hidden"] is not None:
        options.pop("reduction", None)
    if takes_size(name):
        options["size"] = size
    channels = draw(CHANNELS)
    for wrong in [each for each in options if draw(st.integers(0, 11)) == 0]:
        options[wrong] = draw(WRONG[wrong])
    if draw(st.integers(0, 24)) == 0:
        options[draw(st.sampled_from(["redction", "size", "levels", "norm", ""]))] = draw(WRONG_COUNT)
    given = draw(WRONG_COUNT) if draw(st.integers(0, 14)) == 0 else channels
    x = draw(maps(channels, size))
    return {"channels": given, "options": options, "dtype": draw(DTYPES), "x": x, "train": draw(st.booleans())}


def _call_layer(name: str, arguments: Arguments) -> Any:
    layer = create_attention(name, arguments["channels"], **arguments["options"], dtype=arguments["dtype"])
    return _run(layer, arguments)


def _run(layer: nn.Module, arguments: Arguments) -> Any:
    torch.manual_seed(0)
    randomise(layer).train(arguments["train"])
    before = copy.deepcopy(layer)
    x = arguments["x"]
    own = next(layer.parameters(), torch.zeros((), dtype=x.dtype)).dtype
    try:
        return layer, before, layer(x)
    except RuntimeError:
        if own != x.dtype and x.is_floating_point() and x.ndim == 4:
            raise Accepted("two dtypes, torch's own error") from None
        raise


ORACLES: dict[str, Callable[..., Tensor]] = {
    "se": lambda layer, x, p: squeeze_excitation.squeeze_excitation(x, p),
    "rga_s": lambda layer, x, p: relation_aware.relation_aware_spatial(
        x, p, parts=layer.parts, training=layer.training
    ),
    "rga_c": lambda layer, x, p: relation_aware.relation_aware_channel(
        x, p, parts=layer.parts, training=layer.training
    ),
    "split": lambda layer, x, p: split_attention.split_attention(x, p, parts=layer.parts, training=layer.training),
    "pixel": lambda layer, x, p: pixel.pixel(x, p),
    "head": lambda layer, x, p: head.head(x, p, heads=layer.heads, scale=layer.scale),
    "domain": lambda layer, x, p: domain.domain(x, p),
    "multi_level": lambda layer, x, p: multi_level.multi_level(x, p, levels=layer.levels, heads=layer.heads),
}


def _check_layer(name: str, arguments: Arguments, result: Any) -> None:
    layer, before, y = result
    x = arguments["x"]
    _check_map(layer, x, y)
    if len(x) and _all_double(layer, x):
        parameters = {key: value.detach().clone() for key, value in before.state_dict().items()}
        assert_close(y.detach(), ORACLES[name](before, x.detach(), parameters), 1e-9)


def _all_double(layer: nn.Module, x: Tensor) -> bool:
    return x.dtype == torch.float64 and all(value.dtype == torch.float64 for value in layer.parameters())


def _check_map(layer: nn.Module, x: Tensor, y: Any) -> None:
    assert x.ndim == 4, f"a map of {x.ndim} dimensions was taken"
    assert x.is_floating_point(), f"{x.dtype} was taken"
    assert x.shape[1] == layer.channels, "a map of other channels was taken"
    size = getattr(layer, "size", None)
    assert size is None or tuple(x.shape[2:]) == tuple(size) or not _of_size(layer), "a map of another size was taken"
    assert x.shape[2] > 0
    assert x.shape[3] > 0
    assert isinstance(y, Tensor)
    assert y.shape == x.shape
    same = {value.dtype for value in layer.parameters()} <= {x.dtype}
    assert y.dtype == x.dtype or not same
    assert y.isfinite().all()


def _of_size(layer: nn.Module) -> bool:
    return not isinstance(layer, AttentionPyramid) and getattr(layer, "head", layer) is not None


# The pyramid

_KINDS = ["se", "se", "rga_s", "rga_c", "split"]


@st.composite
def pyramid_calls(draw: Draw) -> Arguments:
    size = draw(st.sampled_from([(2, 1), (4, 2), (4, 1), (3, 2)]))
    options: dict[str, Any] = {"size": size}
    if draw(st.booleans()):
        options["levels"] = draw(st.one_of(st.integers(0, 3), st.lists(st.integers(1, 3), min_size=1, max_size=3)))
    if draw(st.integers(0, 2)) == 0 and not isinstance(options.get("levels"), list):
        options["radix"] = draw(st.integers(1, 3))
    for name, values in (
        ("order", st.sampled_from(["coarse_to_fine", "fine_to_coarse"])),
        ("identity_init", st.booleans()),
        ("dim", st.sampled_from([None, "channels", "height"])),
    ):
        if draw(st.integers(0, 2)) == 0:
            options[name] = draw(values)
    attention: Any = draw(st.sampled_from(_KINDS))
    if draw(st.integers(0, 3)) == 0:
        attention = draw(st.lists(st.sampled_from(_KINDS), min_size=1, max_size=3).map(tuple))
    channels: Any = draw(st.sampled_from([2, 4, 6, 8, 12]))
    x = draw(maps(channels, size))
    wrong: dict[str, Any] = {
        **{
            "levels": [-1, True, "2", (), (0,), (1, True), 1.5, None, {1: 2}, 40],
            "radix": [0, -1, True, 2.0, "2", None],
        },
        **{
            "order": ["up", None, 3, ["coarse_to_fine"]],
            "identity_init": [1, None, "yes"],
            "dim": ["width", 3, ["height"]],
        },
        **{"size": [(0, 2), 4, "42", (4,), (4, 2.0)], "device": ["nowhere", 3.5], "dtype": [torch.int64, "float32"]},
    }
    if draw(st.integers(0, 4)) == 0:
        name = draw(st.sampled_from(sorted(wrong)))
        options[name] = draw(st.sampled_from(wrong[name]))
    if draw(st.integers(0, 9)) == 0:
        attention = draw(
            st.sampled_from(["sea", "", None, 3, nn.ReLU(), ("se", None), (), [], "timm:no", nn.Identity, len, {}])
        )
    if draw(st.integers(0, 14)) == 0:
        channels = draw(WRONG_COUNT)
    return {"channels": channels, "attention": attention, "options": options, "x": x, "train": draw(st.booleans())}


def _call_pyramid(arguments: Arguments) -> Any:
    layer = AttentionPyramid(arguments["channels"], arguments["attention"], **arguments["options"])
    if any(value.is_floating_point() and value.dtype == torch.float32 for value in layer.state_dict().values()):
        layer = layer.double()
    return _run(layer, arguments)


def _check_pyramid(arguments: Arguments, result: Any) -> None:
    layer, before, y = result
    x = arguments["x"]
    assert y.shape == x.shape
    kinds = arguments["attention"]
    kinds = list(kinds) if isinstance(kinds, tuple | list) else [kinds] * len(layer.plan)
    if not (x.dtype == torch.float64 and len(x) and all(kind in _KINDS for kind in kinds)):
        return
    parameters = {key: value.detach().clone() for key, value in before.state_dict().items()}
    made = pyramid.blended if layer.identity_init and layer.plan else pyramid.pyramid
    parts = [level.parts for level in layer.plan]
    if any(kind == "rga_s" for kind in kinds):
        assert tuple(x.shape[2:]) == layer.size
    wanted = made(x.detach(), parameters, kinds=kinds, parts=parts, order=layer.order, training=layer.training)
    assert_close(y.detach(), wanted, 1e-9)


@st.composite
def plans(draw: Draw) -> Arguments:
    options: dict[str, Any] = {"channels": draw(st.one_of(st.integers(1, 24), WRONG_COUNT))}
    for name, values in (
        ("levels", st.one_of(st.integers(-1, 4), st.lists(st.integers(0, 5), max_size=3), WRONG_COUNT)),
        ("radix", st.one_of(st.integers(0, 3), WRONG_COUNT)),
        ("size", st.one_of(SIZES, st.tuples(st.integers(1, 12), st.just(2)), WRONG_SIZE)),
        (
            "dim",
            st.one_of(
                st.sampled_from([None, "channels", "height", "width", 3, True]),
                st.lists(st.sampled_from(["channels", "height", None]), max_size=3),
                st.sampled_from([[["height"]], {"channels": 1}, nn.ReLU]),
            ),
        ),
    ):
        if draw(st.booleans()):
            options[name] = draw(values)
    return options


def _check_plan(arguments: Arguments, plan: Any) -> None:
    levels, radix = arguments.get("levels", 2), arguments.get("radix", 2)
    parts = [radix**level for level in range(levels)] if isinstance(levels, int) else list(levels)
    assert [level.parts for level in plan] == parts
    for level in plan:
        assert level.channels * (level.parts if level.dim == "channels" else 1) == arguments["channels"]
        if arguments.get("size") is not None:
            height, width = arguments["size"]
            assert level.size == (height // (level.parts if level.dim == "height" else 1), width)
            assert level.size[0] * (level.parts if level.dim == "height" else 1) == height


# The registry


@st.composite
def creations(draw: Draw) -> Arguments:
    names = [*list_attention(), "", "SE", "se ", "rga", "timm:", "timm:se", "timm:none", "../se", "é"]
    name: Any = draw(
        st.one_of(st.sampled_from(names), st.text(max_size=6), st.sampled_from([None, 3, b"se", ["se"], nn.ReLU]))
    )
    known = ["reduction", "parts", "size", "heads", "memory", "levels", "norm", "kernel_size", "bias"]
    options = draw(st.dictionaries(st.sampled_from(known), st.one_of(st.integers(-1, 4), SIZES, st.none()), max_size=2))
    return {"name": name, "channels": draw(st.one_of(CHANNELS, WRONG_COUNT)), "options": options}


def _create(arguments: Arguments) -> Any:
    try:
        return create_attention(arguments["name"], arguments["channels"], **arguments["options"])
    except Exception as error:
        if str(arguments["name"]).startswith("timm:") and raised_at(error.__traceback__):
            raise Accepted("timm's own error") from None
        raise


def _check_created(arguments: Arguments, layer: Any) -> None:
    assert isinstance(layer, nn.Module)
    if arguments["name"] in list_attention():
        rebuilt = eval(repr(layer), {type(layer).__name__: type(layer)}) if "\n" not in repr(layer) else layer
        assert repr(rebuilt) == repr(layer)


@st.composite
def registrations(draw: Draw) -> Arguments:
    name = draw(st.one_of(st.just("fuzzed"), st.sampled_from(["se", "", None, 3, "fuzzed é"]), st.text(max_size=4)))
    builder = draw(st.sampled_from([nn.Identity, len, None, "se", nn.ReLU()]))
    return {"name": name, "replace": draw(st.one_of(st.booleans(), WRONG_FLAG)), "builder": builder}


def _register(arguments: Arguments) -> Any:
    from attnreid import registry

    before = dict(registry._builders)
    try:
        made = register_attention(arguments["name"], replace=arguments["replace"])(arguments["builder"])
        return made, dict(registry._builders), before
    except BaseException:
        assert registry._builders == before
        raise
    finally:
        registry._builders.clear()
        registry._builders.update(before)


def _check_registered(arguments: Arguments, result: Any) -> None:
    made, after, before = result
    assert made is arguments["builder"]
    assert after == {**before, arguments["name"]: made}
    assert arguments["replace"] is True or arguments["name"] not in before


# Folding, recording, explaining


@st.composite
def models(draw: Draw) -> Arguments:
    kinds = ["se", "rga_s", "rga_c", "split", "domain", "pixel", "head", "multi_level", "pyramid"]
    kind = draw(st.sampled_from([*kinds, *kinds, "plain", "none", "text", "class"]))
    train, partly = draw(st.booleans()), draw(st.integers(0, 3))
    return {
        "model": Built(_build_model(kind)),
        "kind": kind,
        "train": train and partly != 1,
        "partly": partly == 0,
        "flag": draw(st.one_of(st.booleans(), WRONG_FLAG)),
    }


def _build_model(kind: str) -> Any:
    other = {"none": None, "text": "model", "class": nn.ReLU}
    if kind in other:
        return other[kind]
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 8, 3, padding=1)
    if kind == "plain":
        return nn.Sequential(conv).double()
    layer = (
        AttentionPyramid(8, "rga_s", size=(4, 2))
        if kind == "pyramid"
        else create_attention(kind, 8, **({"size": (4, 2)} if takes_size(kind) else {}))
    )
    return randomise(nn.Sequential(conv, layer)).double()


def _set_modes(arguments: Arguments) -> Any:
    model = arguments["model"].value
    if isinstance(model, nn.Module):
        model.train(arguments["train"])
        if arguments["partly"] and len(model) > 1:
            model[1].train(not arguments["train"])
    return model


def _fold(arguments: Arguments) -> Any:
    model = _set_modes(arguments)
    before = model_state(model) if isinstance(model, nn.Module) else None
    try:
        return fold(model)
    finally:
        assert before is None or model_state(model) == before


def _check_folded(arguments: Arguments, folded: Any) -> None:
    model = arguments["model"].value
    x = torch.randn(2, 3, 4, 2, dtype=torch.float64)
    assert not folded.training
    assert_close(folded(x).detach(), copy.deepcopy(model).eval()(x).detach(), 1e-9)
    assert not {id(value) for value in folded.parameters()} & {id(value) for value in model.parameters()}


def _record(arguments: Arguments) -> Any:
    model = _set_modes(arguments)
    before = model_state(model) if isinstance(model, nn.Module) else None
    x = torch.randn(2, 3, 4, 2, dtype=torch.float64)
    with record_attention(model, weights=arguments["flag"]) as gates:
        recorded = copy.deepcopy(model)(x)
        own = model.eval()(x)
    model.train(arguments["train"])
    _set_modes(arguments)
    assert before is None or model_state(model) == before
    return gates, own, recorded, x


def _check_recorded(arguments: Arguments, result: Any) -> None:
    gates, own, _, x = result
    model = copy.deepcopy(arguments["model"].value).eval()
    assert torch.equal(own, model(x))
    for levels in gates.values():
        for gate in levels.values():
            assert gate.shape[0] == 2
            assert not gate.requires_grad
            assert ((gate >= 0) & (gate <= 1)).all()
    if arguments["kind"] in ("se", "rga_s", "rga_c", "pixel"):
        (gate,) = gates["1"].values()
        assert torch.equal(model[0](x) * gate, own)
    if arguments["kind"] == "head":
        assert bool(gates) == (arguments["flag"] is True)


def _explain(arguments: Arguments) -> Any:
    model = _set_modes(arguments)
    x = torch.randn(2, 3, 4, 2, dtype=torch.float64)
    with explain_levels(model) as modules:
        heard: dict[str, Tensor] = {}
        for name, module in modules["1"].items():
            module.register_forward_hook(lambda module, args, output, name=name: heard.__setitem__(name, output))
        y = model.eval()(x)
    return heard, y, model(x)


def _check_explained(arguments: Arguments, result: Any) -> None:
    heard, inside, outside = result
    assert list(heard) == ["level1", "level2"]
    assert_close(inside.detach(), outside.detach(), 1e-9)
    assert torch.equal(heard["level2"], inside)


def entries() -> list[Entry]:
    """Return the entry points of layers, the pyramid, the registry and what reads a model."""
    layers = [
        Entry(
            f"layer {name}",
            layer_calls(name),
            lambda arguments, name=name: _call_layer(name, arguments),
            lambda arguments, result, name=name: _check_layer(name, arguments, result),
            weight=1.5,
        )
        for name in ORACLES
    ]
    return [
        *layers,
        Entry("AttentionPyramid", pyramid_calls(), _call_pyramid, _check_pyramid, weight=3.0),
        Entry("plan_pyramid", plans(), lambda arguments: plan_pyramid(**arguments), _check_plan, weight=2.0),
        Entry(
            "create_attention", creations(), _create, _check_created, (TypeError, ValueError, ImportError), weight=1.5
        ),
        Entry("register_attention", registrations(), _register, _check_registered),
        Entry("fold", models(), _fold, _check_folded, weight=0.5),
        Entry("record_attention", models(), _record, _check_recorded, weight=0.5),
        Entry("explain_levels", models(), _explain, _check_explained, weight=0.5),
    ]
