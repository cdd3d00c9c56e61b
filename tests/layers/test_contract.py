"""What every layer keeps to, whatever it computes: a layer is covered from the day it is registered.

That a layer is its paper's formula is the business of its own file; here is what makes it safe to put into
any network. A layer is built from its signature alone. The one thing to add for a new one is its golden keys.
"""

import ast
import copy
import inspect
import io
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from attnreid import AttentionPyramid, list_attention
from attnreid.layers.gate import Gate, PooledGate
from attnreid.registry import find_attention
from tests.compilers import legacy_onnx, traced_and_loaded, why_inductor_cannot_run
from tests.layers import own, support

CHANNELS, SIZE = 8, (4, 2)


class Foreign(nn.Module):
    """An attention as others write them: no keywords, no size, no gate."""

    def __init__(self, channels):
        super().__init__()
        self.factor = nn.Parameter(torch.empty(channels, 1, 1))
        self.reset_parameters()

    def reset_parameters(self):
        nn.init.normal_(self.factor)

    def forward(self, x):
        return x * self.factor.to(x.dtype)


class Case(NamedTuple):
    """A layer with options. `strips` is what must divide the height."""

    builder: Callable[..., nn.Module]
    options: dict[str, Any]
    strips: int = 1

    @property
    def takes_size(self):
        return "size" in inspect.signature(self.builder).parameters

    def build(self, size=SIZE, **more):
        if self.takes_size:
            more["size"] = size
        return self.builder(CHANNELS, **self.options, **more)

    def random(self, size=SIZE, **more):
        """Build it with a value of its own for every parameter and statistic."""
        return support.randomise(self.build(size, **more))


def variant(name, *, strips=1, **options):
    return Case(find_attention(name), options, strips)


def pyramid(*, strips=1, **options):
    return Case(AttentionPyramid, options, strips)


REGISTERED = {name: variant(name) for name in list_attention()}
VARIANTS = {
    "se in 2 parts": variant("se", parts=2, reduction=2),
    "se, 3 hidden": variant("se", hidden=3),
    "rga_s in 2 strips": variant("rga_s", parts=2, reduction=2, strips=2),
    "rga_c in 2 parts": variant("rga_c", parts=2, reduction=2),
    "rga_s made for another size": variant("rga_s", made_for=(8, 4)),
    "split in 1 part": variant("split", parts=1),
    "split without norm": variant("split", parts=4, reduction=1, norm=False),
    "pixel, one map": variant("pixel", shared_map=True),
    "head, 2 heads": variant("head", heads=2, scale=None),
    "domain, 5 slots": variant("domain", memory=5),
    "multi_level without head": variant("multi_level", levels=("pixel", "domain"), memory=5),
    "multi_level, head only": variant("multi_level", levels=("head",), heads=2),
}
PYRAMIDS = {
    "pyramid of se": pyramid(levels=3),
    "pyramid of radix 4": pyramid(radix=4),
    "pyramid of rga_s": pyramid(attention="rga_s", strips=2, order="fine_to_coarse"),
    "pyramid of se and split": pyramid(attention=("se", "split")),
    "pyramid, mixed": pyramid(attention=("se", "rga_s", "domain"), levels=(2, 1, 1)),
    "pyramid, foreign": pyramid(attention=Foreign, dim="height", strips=2),
    "pyramid of se from the identity": pyramid(identity_init=True),
    "pyramid, mixed, from the identity": pyramid(
        attention=("rga_s", "multi_level"), levels=(2, 1), identity_init=True, strips=2
    ),
}
# What a user writes in the library's terms is held to all that the library's own layers are.
OWN = {
    "a user's pooled gate": Case(own.Efficient, {}),
    "a user's gate": Case(own.Spotlight, {}),
    "pyramid of a user's pooled gates": pyramid(attention=own.Efficient, levels=3),
    "pyramid of a user's gates": pyramid(attention=own.Spotlight, dim="height", strips=2),
}
CASES = REGISTERED | VARIANTS | PYRAMIDS | OWN

NORM = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
NORM_WITHOUT_SHIFT = [name for name in NORM if name != "bias"]


def under(prefix, names):
    return [f"{prefix}.{name}" for name in names]


# The names in state_dict, in order: a checkpoint that was written once must load for ever.
PIXEL = ["conv.weight", "conv.bias"]
HEAD = ["position_height", "position_width", "qkv.weight"]
DOMAIN = ["query", "key", "value"]
MULTI_LEVEL = [*under("pixel", PIXEL), *under("head", HEAD), *under("domain", DOMAIN)]
SE = ["reduce", "expand"]
RGA = [
    name
    for linear in ("embed", "joint", "hidden", "score")
    for name in (f"{linear}.weight", *under(f"{linear}.norm", NORM))
]
EFFICIENT = ["mix.weight", "mix.bias"]
SPOTLIGHT = ["weigh.weight", "weigh.bias"]
SPLIT = ["reduce.0.weight", "reduce.0.bias", *under("reduce.1", NORM), "expand.weight", "expand.bias"]
GOLDEN_KEYS = {
    "pixel": PIXEL,
    "pixel, one map": PIXEL,
    "head": HEAD,
    "head, 2 heads": HEAD,
    "domain": DOMAIN,
    "domain, 5 slots": DOMAIN,
    "multi_level": MULTI_LEVEL,
    "multi_level without head": [*under("pixel", PIXEL), *under("domain", DOMAIN)],
    "multi_level, head only": under("head", HEAD),
    "se": SE,
    "se in 2 parts": SE,
    "se, 3 hidden": SE,
    "rga_s": RGA,
    "rga_s in 2 strips": RGA,
    "rga_c": RGA,
    "rga_c in 2 parts": RGA,
    "rga_s made for another size": RGA,
    "split": [*SPLIT, *under("norm", NORM_WITHOUT_SHIFT)],
    "split in 1 part": [*SPLIT, *under("norm", NORM_WITHOUT_SHIFT)],
    "split without norm": SPLIT,
    "pyramid of se": [*under("levels.0", SE), *under("levels.1", SE), *under("levels.2", SE)],
    "pyramid of radix 4": [*under("levels.0", SE), *under("levels.1", SE)],
    "pyramid of rga_s": [*under("levels.0", RGA), *under("levels.1", RGA)],
    "pyramid of se and split": [
        *under("levels.0", SE),
        *under("levels.1", [*SPLIT, *under("norm", NORM_WITHOUT_SHIFT)]),
    ],
    "pyramid, mixed": [*under("levels.0", SE), *under("levels.1", RGA), *under("levels.2", DOMAIN)],
    "pyramid, foreign": ["levels.0.factor", "levels.1.parts.0.factor", "levels.1.parts.1.factor"],
    "a user's pooled gate": EFFICIENT,
    "a user's gate": SPOTLIGHT,
    "pyramid of a user's pooled gates": [
        *under("levels.0", EFFICIENT),
        *[key for part in range(2) for key in under(f"levels.1.parts.{part}", EFFICIENT)],
        *[key for part in range(4) for key in under(f"levels.2.parts.{part}", EFFICIENT)],
    ],
    "pyramid of a user's gates": [
        *under("levels.0", SPOTLIGHT),
        *[key for part in range(2) for key in under(f"levels.1.parts.{part}", SPOTLIGHT)],
    ],
    "pyramid of se from the identity": ["blend", *under("levels.0", SE), *under("levels.1", SE)],
    "pyramid, mixed, from the identity": ["blend", *under("levels.0", RGA), *under("levels.1", MULTI_LEVEL)],
}

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
train_and_eval = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


def a_batch(images=4, size=SIZE, *, seed=1, dtype=torch.float64):
    return support.random_map(images, CHANNELS, *size, seed=seed, dtype=dtype)


def clone_state(layer):
    return {name: value.clone() for name, value in layer.state_dict().items()}


def assert_same_state(layer, state):
    assert list(layer.state_dict()) == list(state)
    for name, value in layer.state_dict().items():
        assert torch.equal(value, state[name]), name


@pytest.mark.parametrize("case", REGISTERED.values(), ids=REGISTERED)
def test_two_new_layers_differ(case):
    x = a_batch(dtype=torch.float32)
    assert not torch.allclose(case.build()(x), case.build()(x))


# Number formats


@every_case
@train_and_eval
def test_float32_is_float64_to_5_digits(case, training):
    layer = case.random().train(training)
    precise = copy.deepcopy(layer).double()
    y = layer(a_batch(dtype=torch.float32))
    assert y.dtype == torch.float32
    support.assert_close(y, precise(a_batch(dtype=torch.float32).double()), 1e-5)


@every_case
@train_and_eval
def test_bfloat16_is_float64_to_its_few_digits(case, training):
    layer = case.random().bfloat16().train(training)
    precise = copy.deepcopy(layer).double()
    y = layer(a_batch(dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16
    support.assert_close(y, precise(a_batch(dtype=torch.bfloat16).double()), support.BFLOAT16)


@every_case
@train_and_eval
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_autocast_runs_forward_and_backward(case, training, dtype):
    layer = case.random().train(training)
    precise = copy.deepcopy(layer).double()
    x = a_batch(dtype=dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    assert y.dtype in (dtype, torch.bfloat16)  # never wider than the map: the network behind it would pay
    support.assert_close(y, precise(x.detach().double()), support.BFLOAT16)
    y.sum().backward()
    assert all(value.grad.isfinite().all() for value in (x, *layer.parameters()))


@every_case
def test_dtype_reaches_every_parameter_and_buffer(case):
    layer = case.build(dtype=torch.float64)
    assert {value.dtype for value in layer.state_dict().values() if value.is_floating_point()} == {torch.float64}
    assert layer(a_batch()).dtype == torch.float64


OF_THIS_LIBRARY = {name: case for name, case in (REGISTERED | PYRAMIDS).items() if "foreign" not in name}
of_this_library = pytest.mark.parametrize("case", OF_THIS_LIBRARY.values(), ids=OF_THIS_LIBRARY)


@of_this_library
@pytest.mark.parametrize("dtype", [torch.complex64, torch.int8, torch.float8_e4m3fn, torch.bool])
def test_dtypes_that_nothing_computes_in_are_refused(case, dtype):
    with pytest.raises(TypeError, match=rf"^\w+: dtype must be a floating-point dtype, got {dtype}: pass one of "):
        case.build(dtype=dtype)
    with pytest.raises(TypeError, match=rf"^\w+: the input must be floating point, got {dtype}: convert it "):
        case.random()(torch.zeros(2, CHANNELS, *SIZE).to(dtype))


@of_this_library
@pytest.mark.parametrize(
    ("own", "given", "autocast"),
    [
        (torch.float32, torch.float64, False),
        (torch.float32, torch.float16, False),
        (torch.float64, torch.float32, False),
        (torch.bfloat16, torch.float32, False),
        (torch.float32, torch.float64, True),  # autocast leaves float64 alone
    ],
)
@train_and_eval
def test_a_map_of_another_dtype_than_the_weights_is_refused(case, own, given, autocast, training):
    layer = case.random().to(own).train(training)
    match = (
        rf"^\w+: the input must be of the weights' dtype, {own}, got {given}: convert it with \.to\({own}\), or the "
    )
    with torch.autocast("cpu", enabled=autocast), pytest.raises(TypeError, match=match):
        layer(a_batch(dtype=given))


class Counting(nn.Module):
    """A parametrization that changes nothing."""

    calls = 0

    def forward(self, value):
        self.calls += 1
        return value


@pytest.mark.parametrize("case", REGISTERED.values(), ids=REGISTERED)
def test_a_parametrised_weight_is_computed_once(case):
    """Some move with each computation, as spectral norms do."""
    layer = case.random()
    for name, _ in [*layer.named_parameters()]:
        owner, _, own_name = name.rpartition(".")
        torch.nn.utils.parametrize.register_parametrization(layer.get_submodule(owner), own_name, Counting())
    counts = [module for module in layer.modules() if isinstance(module, Counting)]
    for one in counts:
        one.calls = 0
    layer(a_batch(dtype=torch.float32))
    assert [one.calls for one in counts] == [1] * len(counts)


# Layouts


@every_case
@train_and_eval
def test_channels_last_is_kept(case, training):
    x = a_batch().contiguous(memory_format=torch.channels_last)
    assert not x.is_contiguous()
    y = case.random().double().train(training)(x)
    assert y.is_contiguous(memory_format=torch.channels_last)


LAYOUTS = {
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "every other number": lambda x: torch.stack([x, x + 1], dim=-1)[..., 0],
    "transposed": lambda x: x.transpose(2, 3).contiguous().mT,
    "a slice of more channels": lambda x: torch.cat([x, x + 1], dim=1)[:, :CHANNELS],
    "an expanded image": lambda x: x[:1].expand(x.shape),
}


@every_case
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_the_layout_does_not_matter_and_the_input_is_not_overwritten(case, layout):
    laid = layout(a_batch())
    plain = laid.clone(memory_format=torch.contiguous_format)
    for training in (True, False):
        layer = case.random().double().train(training)
        wanted = copy.deepcopy(layer)(plain.clone())
        support.assert_close(layer(laid), wanted, 1e-12)
        assert torch.equal(laid, plain)


# Sizes


@every_case
@pytest.mark.parametrize("size", [(7, 5), (1, 1), (1, 6), (5, 1)], ids=str)
def test_odd_sizes(case, size):
    size = (case.strips * size[0], size[1])
    x = a_batch(size=size).requires_grad_()
    y = case.random(size).double().train()(x)
    assert y.shape == x.shape
    (y * a_batch(size=size, seed=9)).sum().backward()
    assert y.isfinite().all()
    assert x.grad.isfinite().all()


@every_case
def test_resized_to_its_own_size_it_is_an_equal_copy(case):
    layer = case.random().train()
    twin = layer.resize(SIZE)
    assert repr(twin) == repr(layer)
    assert_same_state(twin, layer.state_dict())
    assert not {value.data_ptr() for value in twin.parameters()} & {value.data_ptr() for value in layer.parameters()}


@every_case
@pytest.mark.parametrize("size", [(8, 3), (4, 1)], ids=str)
def test_resized_it_takes_maps_of_that_size_and_all_else_stays(case, size):
    layer = case.random().bfloat16().eval()
    next(layer.parameters()).requires_grad_(False)
    next(iter(layer.children()), layer).train()
    state, text = clone_state(layer), repr(layer)
    resized = layer.resize(size)
    assert type(resized) is type(layer)
    assert list(resized.state_dict()) == list(state)
    assert {value.dtype for value in resized.parameters()} == {torch.bfloat16}
    for kind in ("named_parameters", "named_modules"):
        ours, theirs = (dict(getattr(one, kind)()) for one in (resized, layer))
        assert list(ours) == list(theirs)
        for name, one in ours.items():
            flag = "requires_grad" if kind == "named_parameters" else "training"
            assert getattr(one, flag) == getattr(theirs[name], flag), name
    y = resized.eval()(a_batch(size=size, dtype=torch.bfloat16))
    assert y.shape == (4, CHANNELS, *size)
    assert y.isfinite().all()
    assert_same_state(layer, state)
    assert repr(layer) == text


@every_case
@pytest.mark.parametrize("size", [SIZE, (7, 5)], ids=str)
def test_in_eval_an_image_does_not_know_its_batch(case, size):
    size = size if size[0] % case.strips == 0 else (case.strips * size[0], size[1])
    layer, x = case.random(size).double().eval(), a_batch(3, size)
    support.assert_close(torch.cat([layer(image) for image in x.split(1)]), layer(x), 1e-12)


def norms_one_value_an_image(case, size):
    """Whether a batch norm sees one number an image, so that a batch of one has no variance."""
    seen = []
    layer = case.random(size).double().train()
    for module in layer.modules():
        if isinstance(module, _BatchNorm):
            module.register_forward_pre_hook(lambda norm, args: seen.append(args[0].numel() // norm.num_features))
    layer(a_batch(2, size))
    return 2 in seen


@every_case
@pytest.mark.parametrize("size", [SIZE, (1, 1)], ids=str)
def test_one_image_trains_or_is_refused_in_a_sentence(case, size):
    size = size if size[0] % case.strips == 0 else (case.strips * size[0], size[1])
    layer, x = case.random(size).double().train(), a_batch(1, size)
    if norms_one_value_an_image(case, size):
        who = "|".join({type(module).__name__ for module in layer.modules()})
        with pytest.raises(ValueError, match=rf"^({who}): .+, got .+: .+"):
            layer(x)
    else:
        assert layer(x).isfinite().all()
    assert layer.eval()(x).isfinite().all()


@every_case
@train_and_eval
def test_no_image_passes_and_leaves_everything_as_it_was(case, training):
    layer, x = case.random().train(training), a_batch(0, dtype=torch.float32).requires_grad_()
    state = clone_state(layer)
    y = layer(x)
    assert y.shape == x.shape
    y.sum().backward()
    for name, value in layer.state_dict().items():
        # A batch norm counts a batch without images, too, and learns nothing from it.
        counted = training and name.endswith("num_batches_tracked")
        assert torch.equal(value, state[name] + 1 if counted else state[name]), name
    for name, value in layer.named_parameters():
        assert not value.grad.any(), name


@every_case
@pytest.mark.parametrize("size", [(0, SIZE[1]), (SIZE[0], 0), (0, 0)], ids=str)
def test_a_map_without_positions_is_refused_in_a_sentence(case, size):
    layer = case.random()
    for shape in [(2, CHANNELS, *size), (0, CHANNELS, *size), (2, 0, *SIZE)]:
        with pytest.raises(ValueError, match=rf"^{type(layer).__name__}: .+ must .+, got .*0.*: .+"):
            layer(torch.zeros(shape))


# State


@every_case
def test_in_eval_the_same_map_gives_the_same_output_and_leaves_no_trace(case):
    layer, x = case.random().double().eval(), a_batch()
    state, chance = clone_state(layer), torch.get_rng_state()
    y = layer(x)
    layer(a_batch(seed=2))
    assert torch.equal(layer(x), y)
    assert torch.equal(torch.get_rng_state(), chance)
    assert_same_state(layer, state)


@every_case
def test_built_on_meta_it_starts_as_if_built_in_place(case):
    here, there = case.build(), case.build(device="meta")
    assert all(value.is_meta for value in (*there.parameters(), *there.buffers()))
    there = there.to_empty(device="cpu")
    with torch.no_grad():
        for value in there.state_dict().values():
            value.fill_(7)  # what reset_parameters forgets would show
    for layer in (here, there):
        torch.manual_seed(3)
        layer.reset_parameters()
    assert_same_state(there, here.state_dict())
    x = a_batch(dtype=torch.float32)
    assert torch.equal(there(x), here(x))


def saved_and_loaded(layer):
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = support.randomise(copy.deepcopy(layer), seed=5)
    other.load_state_dict(torch.load(file, weights_only=True), strict=True)
    return other


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda layer: pickle.loads(pickle.dumps(layer)),
    "state_dict": saved_and_loaded,
}


@every_case
@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)
def test_a_copy_is_the_same_and_apart(case, duplicate):
    layer, x = case.random().double().eval(), a_batch()
    y, state = layer(x), clone_state(layer)
    twin = duplicate(layer)
    assert_same_state(twin, state)
    assert repr(twin) == repr(layer)
    assert torch.equal(twin(x), y)
    with torch.no_grad():
        for value in twin.state_dict().values():
            value.add_(1)
    assert not torch.equal(twin(x), y)
    assert torch.equal(layer(x), y)


@pytest.mark.parametrize("name", CASES)
def test_golden_keys(name):
    keys = list(CASES[name].build().state_dict())
    assert name in GOLDEN_KEYS, f"{name!r} has no golden keys yet: check its names and add {name!r}: {keys} to them"
    assert keys == GOLDEN_KEYS[name]


def test_no_golden_keys_are_left_over():
    assert not GOLDEN_KEYS.keys() - CASES.keys()


# The constructor and what is printed


@pytest.mark.parametrize("name", REGISTERED)
def test_only_channels_is_positional_and_the_device_comes_last(name):
    first, *others = inspect.signature(REGISTERED[name].builder).parameters.values()
    assert first.name == "channels"
    assert {other.kind for other in others} == {inspect.Parameter.KEYWORD_ONLY}
    assert [other.name for other in others[-2:]] == ["device", "dtype"]


def of_plain_data(case):
    try:
        ast.literal_eval(repr(case.options))
    except (ValueError, SyntaxError):
        return False
    return True


PLAIN = {name: case for name, case in CASES.items() if of_plain_data(case)}


@pytest.mark.parametrize("case", PLAIN.values(), ids=PLAIN)
def test_it_prints_what_was_changed_and_that_builds_it_again(case):
    layer = case.build()
    name, text = type(layer).__name__, f"{type(layer).__name__}({layer.extra_repr()})"
    printed = {keyword.arg for keyword in ast.parse(text, mode="eval").body.keywords}
    assert printed == case.options.keys() | ({"size"} if case.takes_size else set())
    again = eval(text, {name: type(layer)})
    assert repr(again) == repr(layer)
    again.load_state_dict(layer.state_dict(), strict=True)
    x = a_batch(dtype=torch.float32)
    assert torch.equal(again(x), layer(x))


# Gates


GATES = {name: case for name, case in CASES.items() if isinstance(case.build(), Gate)}


@pytest.mark.parametrize("case", GATES.values(), ids=GATES)
def test_a_gate_lies_between_0_and_1_and_spreads_over_the_map(case):
    layer, x = case.random().double().eval(), a_batch()
    gate = layer.gate(x)
    assert torch.broadcast_shapes(gate.shape, x.shape) == x.shape
    assert gate.min() > 0
    assert gate.max() < 1
    if isinstance(layer, PooledGate):
        support.assert_close(layer.gate(x.mean(dim=(2, 3), keepdim=True)), gate, 1e-12)


@pytest.mark.parametrize("case", GATES.values(), ids=GATES)
def test_the_gate_that_forward_applies_passes_its_probe_and_gate_alone_passes_none(case):
    layer, x = case.random().double().eval(), a_batch()
    with support.Recorder(layer) as heard:
        gate = layer.gate(x)
        assert heard == []
        layer(x)
    [(name, seen)] = heard
    assert name == "probe"
    assert torch.equal(seen, gate)


# Learning


def gradients(layer, x):
    layer.zero_grad()
    (layer(x) * a_batch(len(x), seed=9)).sum().backward()
    for name, value in layer.named_parameters():
        assert value.grad is not None, f"{name} takes no part"
    return {name: value.grad.clone() for name, value in layer.named_parameters()}


def cancelled_by_a_norm(layer, x):
    """Name the biases that a train-mode norm takes out again: adding to one changes nothing but in eval."""
    found = set()
    for name, _ in layer.named_parameters():
        if not name.endswith("bias"):
            continue
        effects = []
        for training in (True, False):
            shifted = copy.deepcopy(layer).train(training)
            before = copy.deepcopy(shifted)(x)
            with torch.no_grad():
                shifted.get_parameter(name).add_(1)
            effects.append((shifted(x) - before).abs().max() / before.abs().max())
        if effects[0] < 1e-12 < 1e-6 < effects[1]:
            found.add(name)
    return found


@every_case
@pytest.mark.parametrize("seed", range(3))
def test_everything_learns(case, seed):
    torch.manual_seed(seed)
    layer, x = case.build().double().train(), a_batch(8)
    names = {name for name, _ in layer.named_parameters()}
    grads = gradients(layer, x)
    if getattr(layer, "identity_init", False):
        assert {name for name in names if grads[name].any()} == {"blend"}
        torch.optim.SGD(layer.parameters(), lr=0.1 / grads["blend"].abs().item()).step()
        grads = gradients(layer, x)
    exempt = cancelled_by_a_norm(layer, x)
    largest = max(grad.abs().max() for grad in grads.values())
    for name, grad in grads.items():
        assert grad.isfinite().all(), name
        if name in exempt:
            assert grad.abs().max() < 1e-12 * largest, f"{name} was thought to have no gradient"
        else:
            assert grad.abs().max() > 1e-9 * largest, f"{name} does not learn"


FROM_IDENTITY = {name: pyramid(attention=name, levels=1, identity_init=True) for name in REGISTERED} | {
    name: case for name, case in PYRAMIDS.items() if case.options.get("identity_init")
}


@pytest.mark.parametrize("case", FROM_IDENTITY.values(), ids=FROM_IDENTITY)
@train_and_eval
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_from_the_identity_a_map_stays_as_it_is_at_first(case, training, dtype):
    layer = case.build(dtype=dtype).train(training)
    for scale in (1e-30, 1, 1e6):
        x = a_batch(dtype=dtype) * scale
        x[0] = 0
        assert torch.equal(layer(x), x)
    nn.init.ones_(layer.blend)
    assert not torch.equal(layer(x), x)


# Compilers and exports


def compiled_quickly(mode):
    """A gate, a layer that is none and a pyramid in one mode; all others, and the other mode, in `make test-slow`."""
    quick = ("rga_s", "multi_level", "pyramid of rga_s")
    return pytest.mark.parametrize(
        ("case", "training"),
        [
            pytest.param(
                case,
                training,
                id=f"{name}-{'train' if training else 'eval'}",
                marks=() if name in quick and training == mode else pytest.mark.slow,
            )
            for name, case in CASES.items()
            for training in (True, False)
        ],
    )


@compiled_quickly(True)
def test_compiles_as_one_graph(case, training):
    layer, x = case.random().train(training), a_batch(dtype=torch.float32)
    twin = copy.deepcopy(layer)
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    support.assert_close(compiled(x), twin(x), 1e-6)
    assert_same_state(layer, twin.state_dict())


LAYERS = REGISTERED | PYRAMIDS  # not every option: a compiler takes its time


@pytest.mark.slow
@pytest.mark.skipif(why_inductor_cannot_run() is not None, reason=str(why_inductor_cannot_run()))
@pytest.mark.parametrize("case", LAYERS.values(), ids=LAYERS)
@train_and_eval
def test_inductor_agrees_at_any_batch(case, training):
    layer = case.random().train(training)
    twin = copy.deepcopy(layer)
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True)
    for images in (4, 6, 3):
        x = a_batch(images, dtype=torch.float32)
        ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
        # The second batch size makes the graph one for all.
        with torch.compiler.set_stance("fail_on_recompile" if images == 3 else "default"):
            y = compiled(ours)
        wanted = twin(theirs)
        support.assert_close(y, wanted, 1e-5)
        for output in (y, wanted):
            (output * a_batch(images, seed=9, dtype=torch.float32)).sum().backward()
        support.assert_close(ours.grad, theirs.grad, 1e-5)


def dynamic_batch():
    return ({0: torch.export.Dim("batch")},)


@pytest.mark.slow
@every_case
def test_exports_with_a_dynamic_batch(case):
    layer = case.random().eval()
    program = torch.export.export(layer, (a_batch(dtype=torch.float32),), dynamic_shapes=dynamic_batch())
    for images in (4, 1, 7):
        x = a_batch(images, dtype=torch.float32)
        support.assert_close(program.module()(x), layer(x), 1e-5)


@pytest.mark.slow
@every_case
def test_runs_in_onnxruntime_with_a_dynamic_batch(case):
    onnxruntime = pytest.importorskip("onnxruntime", reason="the parity is with onnxruntime")
    pytest.importorskip("onnxscript", reason="torch.onnx.export(dynamo=True) needs onnxscript")
    layer, file = case.random().eval(), io.BytesIO()
    example = (a_batch(dtype=torch.float32),)
    torch.onnx.export(layer, example, dynamo=True, dynamic_shapes=dynamic_batch(), verbose=False).save(file)
    session = onnxruntime.InferenceSession(file.getvalue())
    for images in (4, 1, 7):
        x = a_batch(images, dtype=torch.float32)
        [y] = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        support.assert_close(torch.from_numpy(y), layer(x), 1e-5)


# Tracers


@every_case
@train_and_eval
def test_torch_fx_traces_it_for_any_batch_and_both_modes(case, training):
    layer = case.random().train(training)
    twin, state = copy.deepcopy(layer), clone_state(layer)
    traced = torch.fx.symbolic_trace(layer)
    assert_same_state(layer, state)
    traced.graph.lint()
    traced = pickle.loads(pickle.dumps(traced))
    for mode in (training, not training):
        for one in (traced, twin):
            one.train(mode)
        for images in (4, 7, 2):
            ours, theirs = (a_batch(images, dtype=torch.float32).requires_grad_() for _ in range(2))
            y, wanted = traced(ours), twin(theirs)
            assert torch.equal(y, wanted)
            for output, model in ((y, traced), (wanted, twin)):
                model.zero_grad()
                (output * a_batch(images, seed=9, dtype=torch.float32)).sum().backward()
            assert torch.equal(ours.grad, theirs.grad)
            for name, value in twin.named_parameters():
                assert torch.equal(traced.get_parameter(name).grad, value.grad), name
    for name, value in traced.state_dict().items():
        assert torch.equal(value, twin.state_dict()[name]), name


@every_case
def test_a_graph_of_torch_fx_refuses_what_the_layer_refuses(case):
    layer = case.random().eval()
    traced = torch.fx.symbolic_trace(layer)
    traced.graph.eliminate_dead_code()  # as feature extractors do
    traced.recompile()
    for x in (torch.zeros(2, CHANNELS + 1, *SIZE), torch.zeros(2, CHANNELS, 0, SIZE[1]), torch.zeros(CHANNELS, *SIZE)):
        with pytest.raises(ValueError, match=rf"^{type(layer).__name__}: ") as ours:
            layer(x)
        with pytest.raises(ValueError, match=rf"^{type(layer).__name__}: ") as theirs:
            traced(x)
        assert str(theirs.value) == str(ours.value)


@compiled_quickly(False)
def test_torch_jit_traces_it_to_a_file_for_any_batch(case, training):
    layer = case.random().train(training)
    traced = traced_and_loaded(layer, a_batch(4, dtype=torch.float32).requires_grad_())
    for images in (4, 7, 2):
        ours, theirs = (a_batch(images, dtype=torch.float32).requires_grad_() for _ in range(2))
        y, wanted = traced(ours), layer(theirs)
        support.assert_close(y, wanted, 1e-5)
        for output in (y, wanted):
            (output * a_batch(images, seed=9, dtype=torch.float32)).sum().backward()
        support.assert_close(ours.grad, theirs.grad, 1e-5)
    for name, value in traced.state_dict().items():
        support.assert_close(value.float(), layer.state_dict()[name].float(), 1e-5)


fast_where_registered = pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=name, marks=() if name in (*REGISTERED, "pyramid, mixed") else pytest.mark.slow)
        for name, case in CASES.items()
    ],
)


@fast_where_registered
def test_the_legacy_exporter_writes_it_with_a_dynamic_batch(case):
    layer = case.random().eval()
    session = legacy_onnx(layer, a_batch(dtype=torch.float32))
    for images in (4, 1, 7):
        x = a_batch(images, dtype=torch.float32)
        [y] = session.run(None, {"x": x.numpy()})
        support.assert_close(torch.from_numpy(y), layer(x), 1e-5)


@every_case
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated")
def test_torch_jit_script_is_refused_with_the_way_out(case):
    layer = case.build()
    with pytest.raises(ValueError, match=rf"^{type(layer).__name__}: .+, got torch.jit.script: .*torch.jit.trace"):
        torch.jit.script(nn.Sequential(layer))
