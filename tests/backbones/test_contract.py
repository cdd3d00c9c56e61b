"""What attaching promises, on published backbones: each check runs on every one of them.

That each mechanism does what it says is the business of `test_attach.py`, on nets small enough to read; here is
that it holds where people want it. `make test` has three backbones, `make test-slow` all that `backbones.py` lists.
"""

import copy
import io
import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision.models
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from attnreid import record_attention
from attnreid.backbones import attach, attach_apnet, attach_mla, attach_se, attachments, find_sites
from tests.backbones.backbones import BACKBONES, CHANNEL_GATE, IMAGES, Backbone, as_parameters, available
from tests.compilers import legacy_onnx, traced_and_loaded, why_inductor_cannot_run

Observe = Callable[[nn.Module], dict[str, Any]]

train_and_eval = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


@pytest.fixture(scope="module", params=as_parameters())
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return request.param


@pytest.fixture(scope="module")
def _plain(backbone: Backbone) -> nn.Module:
    return backbone.build().eval()


@pytest.fixture(scope="module")
def _attended(backbone: Backbone) -> nn.Module:
    model = backbone.build().eval()
    backbone.attach(model)
    return model


@pytest.fixture(scope="module")
def _from_identity(backbone: Backbone) -> nn.Module:
    model = backbone.build().eval()
    attach(model, CHANNEL_GATE, backbone.stages, input_size=backbone.size, identity_init=True)
    inside = [*backbone.inner, backbone.replaced]
    attach(model, "domain", inside, input_size=backbone.size, identity_init=True)  # no gate: it blends otherwise
    return model


@pytest.fixture
def plain(_plain: nn.Module) -> nn.Module:
    """The backbone, to be changed at will."""
    return copy.deepcopy(_plain)


@pytest.fixture
def attended(_attended: nn.Module) -> nn.Module:
    """The same backbone with attention after its stages, after parts inside them and instead of one part."""
    return copy.deepcopy(_attended)


@pytest.fixture
def from_identity(_from_identity: nn.Module) -> nn.Module:
    """The same backbone with attention behind all these places that passes every map at first."""
    return copy.deepcopy(_from_identity)


@pytest.fixture(scope="module")
def images(backbone: Backbone) -> Tensor:
    return backbone.images()


def names_of(model: nn.Module) -> dict[str, list[str]]:
    return {
        "state_dict": list(model.state_dict()),
        "named_parameters": [name for name, _ in model.named_parameters()],
        "named_buffers": [name for name, _ in model.named_buffers()],
    }


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def assert_same_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    assert list(model.state_dict()) == list(state)
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key


def assert_close(got: Tensor, wanted: Tensor, relative: float) -> None:
    """The largest difference is at most `relative` of the largest value."""
    assert got.shape == wanted.shape
    scale = wanted.abs().max().clamp_min(1e-9)
    error = (got.double() - wanted.double()).abs().max() / scale
    assert error <= relative, f"off by {error:.2e} of the largest value, {relative:.0e} allowed"


def sites_of(model: nn.Module) -> list[str]:
    return [site.name for attachment in attachments(model) for site in attachment.sites]


def undo(model: nn.Module) -> None:
    for attachment in attachments(model):
        attachment.remove()


def disturb_attention(model: nn.Module, seed: int = 3) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for attachment in attachments(model):
            for parameter in attachment.parameters():
                parameter.add_(torch.rand(parameter.shape, generator=generator))


# Names and weights --------------------------------------------------------------------------------------------------


def test_the_backbones_names_stay_in_their_order(backbone: Backbone, plain: nn.Module) -> None:
    before = names_of(plain)
    handles = backbone.attach_after(plain)
    added = {key for handle in handles for key in handle.state_dict()}
    prefixes = {f"{site.name}.attention." for handle in handles for site in handle.sites}
    assert {key.partition("attention.")[0] + "attention." for key in added} == prefixes
    for kind, names in names_of(plain).items():
        assert [name for name in names if name not in added] == before[kind]
        assert {name for name in names if ".attention." in name} == set(names) - set(before[kind])
    assert added == set(plain.state_dict()) - set(before["state_dict"])

    backbone.attach_instead(plain)
    for kind, names in names_of(plain).items():
        kept = [name for name in before[kind] if not name.startswith(f"{backbone.replaced}.")]
        assert [name for name in names if ".attention." not in name] == kept
    assert any(name.startswith(f"{backbone.replaced}.attention.") for name in plain.state_dict())


def test_functional_call_takes_the_plain_names(attended: nn.Module, plain: nn.Module, images: Tensor) -> None:
    other = {
        name: parameter.detach() * 1.25 for name, parameter in plain.named_parameters() if name in attended.state_dict()
    }
    output = torch.func.functional_call(attended, other, (images,))
    assert not torch.equal(output, attended(images))
    attended.load_state_dict(other, strict=False)
    assert torch.equal(attended(images), output)


@pytest.mark.parametrize("assign", [False, True], ids=["copied", "assigned"])
def test_plain_weights_load_strictly_before_with_and_after_attention(
    backbone: Backbone, plain: nn.Module, attended: nn.Module, images: Tensor, assign: bool
) -> None:
    own = {key: value for handle in attachments(attended) for key, value in handle.state_dict().items()}
    own = {key: value.clone() for key, value in own.items()}
    # Of the integers the counters only: others are indices.
    weights = {
        key: value * 1.25 if value.is_floating_point() else value + (value.ndim == 0)
        for key, value in plain.state_dict().items()
    }
    held = dict(weights)
    result = attended.load_state_dict(weights, strict=True, assign=assign)
    assert not result.missing_keys
    assert not result.unexpected_keys
    assert weights.keys() == held.keys()
    assert all(weights[key] is value for key, value in held.items())
    for key, value in attended.state_dict().items():
        assert torch.equal(value, own[key] if key in own else weights[key]), key

    undo(attended)
    attended.load_state_dict(weights, strict=True, assign=assign)
    plain.load_state_dict(weights, strict=True, assign=assign)
    assert_same_state(attended, weights)
    assert torch.equal(attended(images), plain(images))


def test_weights_with_attention_load_back(attended: nn.Module, images: Tensor) -> None:
    other = copy.deepcopy(attended)
    disturb_attention(attended)
    file = io.BytesIO()
    torch.save(attended.state_dict(), file)
    file.seek(0)
    assert not torch.equal(other(images), attended(images))
    other.load_state_dict(torch.load(file, weights_only=True), strict=True)
    assert torch.equal(other(images), attended(images))


# In and out ---------------------------------------------------------------------------------------------------------


@train_and_eval
def test_identity_init_changes_no_bit(
    from_identity: nn.Module, plain: nn.Module, images: Tensor, training: bool
) -> None:
    outputs = []
    for one in (plain, from_identity):
        torch.manual_seed(5)  # for dropout and stochastic depth
        outputs.append(one.train(training)(images))
    assert torch.equal(*outputs)
    undo(from_identity)
    assert_same_state(from_identity, plain.state_dict())


def test_remove_gives_back_the_same_objects(
    backbone: Backbone, plain: nn.Module, images: Tensor, observe: Observe
) -> None:
    before, output = observe(plain), plain(images)
    handles = backbone.attach(plain)
    assert not torch.equal(plain(images), output)
    for handle in handles:
        handle.remove()
        handle.remove()
    assert observe(plain) == before
    assert attachments(plain) == []
    assert torch.equal(plain(images), output)


def test_stacked_attention_comes_out_in_every_order(attended: nn.Module, plain: nn.Module, images: Tensor) -> None:
    wanted, state = plain(images), state_of(plain)
    classes = [type(module) for module in plain.modules()]
    for order in itertools.permutations(range(3)):
        model = copy.deepcopy(attended)
        handles = attachments(model)
        for left, index in enumerate(order, start=1):
            handles[index].remove()
            assert len(attachments(model)) == 3 - left
        assert [type(module) for module in model.modules()] == classes, order
        assert_same_state(model, state)
        assert torch.equal(model(images), wanted), order


def test_failure_half_way_leaves_the_model_untouched(
    backbone: Backbone, attended: nn.Module, images: Tensor, observe: Observe, monkeypatch: pytest.MonkeyPatch
) -> None:
    built, inserted = [], []

    def fail_at_the_fourth(channels: int) -> nn.Module:
        built.append(channels)
        if len(built) == 4:
            raise RuntimeError("no luck")
        return nn.Conv2d(channels, channels, 1)

    def add_but_the_fourth(
        self: nn.Module, name: str, module: nn.Module | None, add: Any = nn.Module.add_module
    ) -> None:
        inserted.append(name)
        if len(inserted) == 4:
            raise MemoryError
        add(self, name, module)

    before, output = observe(attended), attended(images)
    free = [site.name for site in find_sites(attended, backbone.size) if site.refusal is None][:6]
    with pytest.raises(RuntimeError, match="no luck"):
        attach(attended, fail_at_the_fourth, free, input_size=backbone.size)
    assert observe(attended) == before
    monkeypatch.setattr(nn.Module, "add_module", add_but_the_fourth)
    with pytest.raises(MemoryError):
        attach(attended, nn.Identity, free, input_size=backbone.size)
    assert inserted == ["attention"] * 4
    assert observe(attended) == before
    assert torch.equal(attended(images), output)


# Copies -------------------------------------------------------------------------------------------------------------


def saved_and_loaded(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def averaged(model: nn.Module) -> nn.Module:
    return AveragedModel(model).module


@pytest.mark.parametrize("copied", [copy.deepcopy, saved_and_loaded, averaged])
def test_copies_are_independent_and_can_be_undone(
    backbone: Backbone,
    attended: nn.Module,
    plain: nn.Module,
    images: Tensor,
    observe: Observe,
    copied: Callable[[nn.Module], nn.Module],
) -> None:
    before, output = observe(attended), attended(images)
    double = copied(attended)
    assert torch.equal(double(images), output)
    assert names_of(double) == names_of(attended)
    assert not {id(module) for module in double.modules()} & {id(module) for module in attended.modules()}

    disturb_attention(double)
    assert not torch.equal(double(images), output)
    assert torch.equal(attended(images), output)
    undo(double)
    assert torch.equal(double(images), plain(images))
    assert [type(module) for module in double.modules()] == [type(module) for module in plain.modules()]
    assert observe(attended) == before
    assert len(attachments(attended)) == 3

    for parameter in double.parameters():
        nn.init.zeros_(parameter)
    undo(attended)
    assert torch.equal(attended(images), plain(images))


def test_a_moving_average_averages_the_attention(attended: nn.Module, images: Tensor) -> None:
    first = {key: value.clone() for handle in attachments(attended) for key, value in handle.state_dict().items()}
    average = AveragedModel(attended)
    average.update_parameters(attended)
    disturb_attention(attended)
    average.update_parameters(attended)
    parameters = dict(attended.named_parameters())
    checked = [key for key in first if key in parameters]
    assert checked
    for key in checked:
        torch.testing.assert_close(average.module.get_parameter(key), (first[key] + parameters[key]) / 2)
    assert sites_of(average) == [f"module.{name}" for name in sites_of(attended)]


LOAD_AND_UNDO = """
import sys, torch
torch.set_num_threads(1)
for path in sys.argv[1:]:
    saved = torch.load(path, weights_only=False)
    model, images = saved["model"], saved["images"]
    assert torch.equal(model(images), saved["attended"]), path
    from attnreid.backbones import attachments
    for handle in attachments(model):
        handle.remove()
    assert torch.equal(model(images), saved["plain"]), path
    print("loaded", path)
"""


@pytest.mark.slow
def test_a_fresh_interpreter_loads_a_pickle_and_undoes_it(tmp_path: Path) -> None:
    paths = []
    for name in available(tuple(BACKBONES)):
        model, images = BACKBONES[name].build().eval(), BACKBONES[name].images(2)
        plain = model(images).detach()
        BACKBONES[name].attach(model)
        saved = {"model": model, "images": images, "plain": plain, "attended": model(images).detach()}
        paths.append(tmp_path / f"{name}.pt")
        torch.save(saved, paths[-1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", LOAD_AND_UNDO, *map(str, paths)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("loaded") == len(paths)


# Training -----------------------------------------------------------------------------------------------------------


def backward(model: nn.Module, images: Tensor) -> None:
    """Leave fresh gradients; every output has a weight of its own, so that none cancels another."""
    model.zero_grad()
    torch.manual_seed(5)  # for dropout and stochastic depth
    output = model(images)
    (output * torch.randn(output.shape, generator=torch.Generator().manual_seed(9)).to(output)).sum().backward()


def new_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    own = {id(parameter) for attachment in attachments(model) for parameter in attachment.parameters()}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) in own}


def assert_learns(name: str, parameter: nn.Parameter) -> None:
    assert parameter.grad is not None, f"{name} takes no part"
    assert parameter.grad.isfinite().all(), name
    assert parameter.grad.any(), f"{name} does not learn"


def test_every_new_parameter_gets_a_gradient(attended: nn.Module, images: Tensor) -> None:
    backward(attended.double().train(), images.double())
    parameters = new_parameters(attended)
    assert {name.partition(".attention.")[0] for name in parameters} == set(sites_of(attended))
    for name, parameter in parameters.items():
        assert_learns(name, parameter)


def test_from_the_identity_the_blend_learns_first_and_then_the_rest(from_identity: nn.Module, images: Tensor) -> None:
    model = from_identity.double().train()
    parameters = new_parameters(model)
    blends = [name for name in parameters if name.endswith(".blend")]
    assert len(blends) == len(sites_of(model))
    backward(model, images.double())
    for name, parameter in parameters.items():
        if name in blends:
            assert_learns(name, parameter)
        else:
            assert not parameter.grad.any(), f"{name} learns before the attention is blended in"
    optimizer = torch.optim.Adam(parameters.values(), lr=0.1)
    optimizer.step()
    backward(model, images.double())
    for name, parameter in parameters.items():
        assert_learns(name, parameter)


def test_attachment_parameters_make_an_optimizer_group(attended: nn.Module, images: Tensor) -> None:
    attention = [parameter for handle in attachments(attended) for parameter in handle.parameters()]
    own = {id(parameter) for parameter in attention}
    others = [parameter for parameter in attended.parameters() if id(parameter) not in own]
    assert len(own) == len(attention)
    assert len(own) + len(others) == len(list(attended.parameters()))
    assert {id(parameter) for parameter in attention} <= {id(parameter) for parameter in attended.parameters()}
    optimizer = torch.optim.SGD([{"params": others, "lr": 0.0}, {"params": attention, "lr": 1.0}])
    before = state_of(attended)
    backward(attended, images)
    optimizer.step()
    names = {name for name, parameter in attended.named_parameters() if id(parameter) in own}
    changed = {name for name, value in attended.state_dict().items() if not torch.equal(value, before[name])}
    assert changed <= names
    assert {name.partition(".attention.")[0] for name in changed} == set(sites_of(attended))


def test_freezing_the_backbone_trains_the_attention_alone(
    attended: nn.Module, plain: nn.Module, images: Tensor
) -> None:
    for name, _ in plain.named_parameters():
        if name in attended.state_dict():
            attended.get_parameter(name).requires_grad_(False)
    trained = [parameter for parameter in attended.parameters() if parameter.requires_grad]
    assert len(trained) == len(new_parameters(attended))
    before = attended(images)
    backward(attended, images)
    for parameter in attended.parameters():
        assert (parameter.grad is not None) == parameter.requires_grad
    torch.optim.SGD(trained, lr=1.0).step()
    assert not torch.equal(attended(images), before)
    undo(attended)
    assert_same_state(attended, plain.state_dict())
    assert torch.equal(attended(images), plain(images))


class Checkpointed(nn.Module):
    """Recomputes a module in the backward pass instead of keeping what it computed."""

    def __init__(self, module: nn.Module, use_reentrant: bool) -> None:
        super().__init__()
        self.module = module
        self.use_reentrant = use_reentrant

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.module, x, use_reentrant=self.use_reentrant)


def count_calls(model: nn.Module) -> list[str]:
    calls: list[str] = []
    for site in sites_of(model):
        layer = model.get_submodule(f"{site}.attention")
        layer.register_forward_pre_hook(lambda *_, site=site: calls.append(site))
    return calls


@pytest.mark.parametrize("use_reentrant", [False, True], ids=["non-reentrant", "reentrant"])
def test_gradient_checkpointing_calls_the_attention(attended: nn.Module, images: Tensor, use_reentrant: bool) -> None:
    backward(attended, images)
    wanted = {name: parameter.grad.clone() for name, parameter in new_parameters(attended).items()}
    output, parameters = attended(images), new_parameters(attended)
    stages, calls = [site.name for site in attachments(attended)[0].sites], count_calls(attended)
    for stage in stages:
        parent, _, child = stage.rpartition(".")
        wrapped = Checkpointed(attended.get_submodule(stage), use_reentrant)
        attended.get_submodule(parent)._modules[child] = wrapped
    assert torch.equal(attended(images), output)
    calls.clear()
    backward(attended, images)
    assert all(calls.count(stage) == 2 for stage in stages)
    for name, parameter in parameters.items():
        torch.testing.assert_close(parameter.grad, wanted[name])


@pytest.mark.parametrize(
    ("make", "at", "option"),
    [
        (
            lambda: torchvision.models.DenseNet(8, (2, 2, 2), 16, memory_efficient=True),
            "features.denseblock2.denselayer2.conv1",
            None,
        ),
        (BACKBONES["timm mobilenetv4"].make, "blocks.*", "set_grad_checkpointing"),
        (BACKBONES["timm resnetv2"].make, "stages.2.blocks.*", "set_grad_checkpointing"),
        (BACKBONES["timm convnextv2"].make, "stages.2.blocks.*", "set_grad_checkpointing"),
    ],
    ids=["torchvision densenet", "timm mobilenetv4", "timm resnetv2", "timm convnextv2"],
)
def test_the_models_own_checkpointing_calls_the_attention(make: Callable[[], nn.Module], at: str, option: Any) -> None:
    torch.manual_seed(0)
    model = make().train()
    attach(model, CHANNEL_GATE, at, input_size=(64, 32))
    if option is not None:
        getattr(model, option)()
    calls = count_calls(model)
    backward(model, torch.randn(IMAGES, 3, 64, 32))
    assert sorted(calls) == sorted(2 * sites_of(model))
    for name, parameter in new_parameters(model).items():
        assert_learns(name, parameter)


# Compilers and exports ----------------------------------------------------------------------------------------------


only_resnet18_is_fast = pytest.mark.parametrize("backbone", as_parameters(fast=("resnet18",)), indirect=True)


def assert_compiled_agrees(model: nn.Module, images: Tensor, training: bool, backend: str, relative: float) -> None:
    twin = copy.deepcopy(model).train(training)
    torch._dynamo.reset()
    compiled = torch.compile(model.train(training), fullgraph=True, backend=backend)
    for one in (twin, compiled):
        backward(one, images)
    ours, theirs = new_parameters(model), new_parameters(twin)
    for name, parameter in ours.items():
        assert_close(parameter.grad, theirs[name].grad, 100 * relative)
    outputs = []
    for one in (twin, compiled):
        torch.manual_seed(5)  # for dropout and stochastic depth
        outputs.append(one(images))
    assert_close(outputs[1], outputs[0], relative)
    for (name, buffer), (_, wanted) in zip(model.named_buffers(), twin.named_buffers(), strict=True):
        torch.testing.assert_close(buffer, wanted, msg=lambda text, name=name: f"{name}: {text}")


@only_resnet18_is_fast
def test_compiles_as_one_graph_in_train_mode(attended: nn.Module, images: Tensor) -> None:
    assert_compiled_agrees(attended, images, training=True, backend="eager", relative=1e-5)


@only_resnet18_is_fast
def test_compiles_as_one_graph_in_eval_mode(attended: nn.Module, images: Tensor) -> None:
    assert_compiled_agrees(attended, images, training=False, backend="eager", relative=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(why_inductor_cannot_run() is not None, reason=str(why_inductor_cannot_run()))
@train_and_eval
def test_inductor_agrees(training: bool) -> None:
    backbone = BACKBONES["resnet18"]
    model = backbone.build()
    backbone.attach(model)
    assert_compiled_agrees(model, backbone.images(), training, backend="inductor", relative=1e-4)


def dynamic_batch() -> tuple[dict[int, Any]]:
    return ({0: torch.export.Dim("batch")},)


@only_resnet18_is_fast
def test_exports_with_a_dynamic_batch(backbone: Backbone, attended: nn.Module, images: Tensor) -> None:
    program = torch.export.export(attended, (images,), dynamic_shapes=dynamic_batch())
    assert set(program.state_dict) == set(attended.state_dict())
    for count in (1, 7):
        x = backbone.images(count, seed=2)
        assert_close(program.module()(x), attended(x), 1e-5)


@only_resnet18_is_fast
@pytest.mark.slow
def test_runs_in_onnxruntime_with_a_dynamic_batch(backbone: Backbone, attended: nn.Module, images: Tensor) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="the parity is with onnxruntime")
    pytest.importorskip("onnxscript", reason="torch.onnx.export(dynamo=True) needs onnxscript")
    file = io.BytesIO()
    program = torch.onnx.export(attended, (images,), dynamo=True, dynamic_shapes=dynamic_batch(), verbose=False)
    program.save(file)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file.getvalue(), options)
    for count in (1, 7):
        x = backbone.images(count, seed=2)
        [output] = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        assert_close(torch.from_numpy(output), attended(x), 1e-4)


# Tracers ------------------------------------------------------------------------------------------------------------


@contextmanager
def unless_the_plain_network_fails_too(trace: Callable[[], object]) -> Iterator[None]:
    """Skip where what fails for the attended network fails for the plain one."""
    try:
        yield
    except Exception:
        try:
            trace()
        except Exception as error:
            pytest.skip(f"the plain network cannot be traced so: {type(error).__name__}")
        raise


@only_resnet18_is_fast
@train_and_eval
def test_torch_fx_traces_it_for_any_batch(
    backbone: Backbone, plain: nn.Module, attended: nn.Module, training: bool
) -> None:
    # In the mode that it is traced in: some of timm's norms stay in it.
    with unless_the_plain_network_fails_too(lambda: torch.fx.symbolic_trace(plain.train(training))):
        traced = torch.fx.symbolic_trace(attended.train(training))
    twin = copy.deepcopy(attended)
    for count in (3, 7):
        x = backbone.images(count, seed=2)
        for one in (traced, twin):
            backward(one, x)
        for name, parameter in new_parameters(twin).items():
            assert torch.equal(traced.get_parameter(name).grad, parameter.grad), name
    outputs = []
    for one in (traced, twin):
        torch.manual_seed(5)  # for dropout
        outputs.append(one(x))
    assert torch.equal(*outputs)
    buffers = dict(traced.named_buffers())
    for name, buffer in twin.named_buffers():
        assert name not in buffers or torch.equal(buffers[name], buffer), name


@only_resnet18_is_fast
def test_features_are_taken_before_and_after_the_attention(
    backbone: Backbone, plain: nn.Module, attended: nn.Module, images: Tensor
) -> None:
    taken: dict[str, dict[str, Tensor]] = {}
    sites = attachments(attended)[0].sites
    for site in sites:
        attended.get_submodule(f"{site.name}.attention").register_forward_hook(
            lambda _, given, result, name=site.name: taken.update({name: {"before": given[0], "after": result}})
        )
    attended(images)
    for site in sites:
        attended.get_submodule(f"{site.name}.attention")._forward_hooks.clear()
    with unless_the_plain_network_fails_too(lambda: get_graph_node_names(plain)):
        names = get_graph_node_names(attended)[1]
    wanted = {}
    for site in sites:
        first = names.index(next(name for name in names if name.startswith(f"{site.name}.attention.")))
        wanted |= {names[first - 1]: f"{site.name} before", f"{site.name}.attention": f"{site.name} after"}
    features = create_feature_extractor(attended, wanted)(images)
    for site in sites:
        for place in ("before", "after"):
            assert torch.equal(features[f"{site.name} {place}"], taken[site.name][place]), (site.name, place)


@only_resnet18_is_fast
def test_torch_jit_traces_it_to_a_file_for_any_batch(
    backbone: Backbone, plain: nn.Module, attended: nn.Module, images: Tensor
) -> None:
    with unless_the_plain_network_fails_too(lambda: traced_and_loaded(plain, images, again=False)):
        traced = traced_and_loaded(attended, images, again=False)
    keys = set(traced.state_dict())
    assert keys - {name for name, _ in attended.named_buffers()} <= set(attended.state_dict()) <= keys
    for count in (1, 7):
        x = backbone.images(count, seed=2)
        assert_close(traced(x), attended(x), 1e-5)
    for one in (traced, attended):
        backward(one, images)
    of_traced = dict(traced.named_parameters())
    for name, parameter in new_parameters(attended).items():  # EfficientNet's are 2e-4 from double precision's
        assert_close(of_traced[name].grad, parameter.grad, 1e-3)


@only_resnet18_is_fast
def test_the_legacy_exporter_writes_it_with_a_dynamic_batch(
    backbone: Backbone, plain: nn.Module, attended: nn.Module, images: Tensor
) -> None:
    with unless_the_plain_network_fails_too(lambda: legacy_onnx(plain, images)):
        session = legacy_onnx(attended, images)
    for count in (1, 7):
        x = backbone.images(count, seed=2)
        [output] = session.run(None, {"x": x.numpy()})
        assert_close(torch.from_numpy(output), attended(x), 1e-4)


def small_resnet(block: Any = torchvision.models.resnet.BasicBlock) -> nn.Module:
    return torchvision.models.ResNet(block, [1, 1, 1, 1], num_classes=5)


def attach_to_torchs_own(model: nn.Module) -> None:
    """Behind classes of torch.nn, whose forwards torch.fx cannot trace through."""
    attach(model, "pixel", ["bn1", "relu", "layer1.0.conv1", "layer2.0.bn1"], input_size=(64, 32))
    attach(model, "multi_level", "maxpool", input_size=(64, 32))


PRESETS: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], Any]]] = {
    "apnet": (small_resnet, lambda model: attach_apnet(model, input_size=(64, 32))),
    "apnet of rga_s": (small_resnet, lambda model: attach_apnet(model, "rga_s", input_size=(64, 32))),
    "apnet as released": (small_resnet, lambda model: attach_apnet(model, input_size=(64, 32), variant="released")),
    "apnet from the identity": (
        small_resnet,
        lambda model: attach_apnet(model, ("se", "domain"), levels=(1, 1), input_size=(64, 32), identity_init=True),
    ),
    "domain from the identity": (
        small_resnet,
        lambda model: attach(model, "domain", "layer[1-4]", input_size=(64, 32), identity_init=True),
    ),
    "se": (small_resnet, lambda model: attach_se(model)),
    "mla": (
        lambda: small_resnet(torchvision.models.resnet.Bottleneck),
        lambda model: attach_mla(model, input_size=(64, 32)),
    ),
    "torch's own": (small_resnet, attach_to_torchs_own),
}


@pytest.fixture(params=PRESETS.values(), ids=PRESETS)
def preset(request: pytest.FixtureRequest) -> nn.Module:
    make, put_in = request.param
    torch.manual_seed(0)
    model: nn.Module = make().eval()
    put_in(model)
    disturb_attention(model)
    return model


def test_torch_fx_traces_every_preset(preset: nn.Module) -> None:
    x, state = torch.randn(IMAGES, 3, 64, 32), state_of(preset)
    traced = torch.fx.symbolic_trace(preset)
    assert_same_state(preset, state)
    assert torch.equal(traced(x), preset(x))
    twin = copy.deepcopy(preset).train()
    backward(traced.train(), x[:3])
    backward(twin, x[:3])
    for name, parameter in twin.named_parameters():
        assert torch.equal(traced.get_parameter(name).grad, parameter.grad), name
    assert torch.equal(traced.eval()(x), twin.eval()(x))


def test_a_feature_of_every_preset_is_the_output_of_its_attention(preset: nn.Module) -> None:
    first = f"{sites_of(preset)[0]}.attention"  # nothing behind it is left in the graph to overwrite it
    x, given = torch.randn(2, 3, 64, 32), []
    hook = preset.get_submodule(first).register_forward_hook(lambda _, __, result: given.append(result.clone()))
    preset(x)
    hook.remove()
    assert torch.equal(create_feature_extractor(preset, [first])(x)[first], given[0])


@pytest.mark.parametrize("training", [pytest.param(True, marks=pytest.mark.slow), False], ids=["train", "eval"])
def test_torch_jit_traces_every_preset(preset: nn.Module, training: bool) -> None:
    traced = traced_and_loaded(preset.train(training), torch.randn(IMAGES, 3, 64, 32), again=False)
    x = torch.randn(3, 3, 64, 32)
    assert_close(traced(x), preset(x), 1e-4)


@pytest.mark.slow
def test_the_legacy_exporter_writes_every_preset(preset: nn.Module) -> None:
    session, x = legacy_onnx(preset, torch.randn(IMAGES, 3, 64, 32)), torch.randn(3, 3, 64, 32)
    [output] = session.run(None, {"x": x.numpy()})
    assert_close(torch.from_numpy(output), preset(x), 1e-3)  # DLA's, in torch, is 3.5e-4 from double precision's


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated")
def test_torch_jit_script_is_refused_with_the_way_out(preset: nn.Module) -> None:
    state = state_of(preset)
    with pytest.raises(ValueError, match=r"got torch.jit.script: .*torch.jit.trace"):
        torch.jit.script(preset)
    assert_same_state(preset, state)
    assert preset(torch.randn(1, 3, 64, 32)).isfinite().all()


# No image -----------------------------------------------------------------------------------------------------------


@train_and_eval
def test_no_image_passes_as_through_the_plain_network(
    backbone: Backbone, attended: nn.Module, plain: nn.Module, training: bool
) -> None:
    x, before = backbone.images(0), state_of(attended)
    outputs = []
    for model in (plain, attended):
        try:
            outputs.append(model.train(training)(x).shape)
        except Exception as error:
            outputs.append(type(error))
    assert outputs[0] == outputs[1]
    refused = isinstance(outputs[0], type)  # MaxViT cuts no empty batch into windows
    assert training or refused or outputs[0] == (0, *attended(backbone.images(1)).shape[1:])
    for name, value in attended.state_dict().items():
        assert torch.equal(value, before[name]) or name.endswith("num_batches_tracked"), name


# Looking, devices and number formats --------------------------------------------------------------------------------


class Awkward(nn.Module):
    """Runs on real numbers only, draws some, and counts its runs in eval mode, too."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("runs", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.runs.add_(1)
        return self.model(x + torch.rand(()) if x.sum().item() < 1e9 else x)


@pytest.mark.parametrize("around", [nn.Sequential, Awkward], ids=["on meta", "on a copy"])
def test_looking_and_attaching_leave_no_trace(
    backbone: Backbone, plain: nn.Module, images: Tensor, observe: Observe, around: Callable[[nn.Module], nn.Module]
) -> None:
    model = around(plain.train())
    (name,) = (name for name, child in model.named_children())
    backward(model, images)
    next(plain.children()).eval()  # a mode of its own
    calls: list[nn.Module] = []
    for module in plain.modules():
        module.register_forward_hook(lambda module, *_: calls.append(module))
    before, chance = observe(model), torch.get_rng_state()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert any(site.refusal is None for site in find_sites(model, backbone.size))
    assert torch.equal(torch.get_rng_state(), chance)
    assert observe(model) == before
    at = [f"{name}.{place}" for place in (*backbone.stages, *backbone.inner)]
    attach(model, nn.Identity, at, input_size=backbone.size).remove()
    attach(model, nn.Identity, f"{name}.{backbone.replaced}", where="instead", input_size=backbone.size).remove()
    assert torch.equal(torch.get_rng_state(), chance)
    assert observe(model) == before
    assert all(parameter.grad is gradients[name] for name, parameter in model.named_parameters())
    assert not calls


def formats(model: nn.Module) -> set[tuple[torch.device, torch.dtype]]:
    tensors = itertools.chain(model.parameters(), model.buffers())
    return {(tensor.device, tensor.dtype) for tensor in tensors if tensor.is_floating_point()}


def test_attention_has_its_sites_format_and_moves_with_it(
    backbone: Backbone, plain: nn.Module, attended: nn.Module, images: Tensor
) -> None:
    model = backbone.make().to("meta").bfloat16()
    backbone.attach(model)
    assert formats(model) == {(torch.device("meta"), torch.bfloat16)}
    model.to_empty(device="cpu")
    assert formats(model) == {(torch.device("cpu"), torch.bfloat16)}
    model.load_state_dict(attended.state_dict())
    for name, buffer in attended.named_buffers():  # those that no state dict has were left as memory was
        model.get_buffer(name).copy_(buffer)
    for move, dtype in (
        (lambda: model.eval(), torch.bfloat16),
        (lambda: model.double(), torch.float64),
        (lambda: model.to(images), torch.float32),
    ):
        move()
        assert formats(model) == {(torch.device("cpu"), dtype)}
        output = model(images.to(dtype))
        assert output.dtype == dtype
        # On CPUs with AMX, torch's own convolutions in bfloat16 read what happens to lie in fresh memory: the plain
        # network is not finite either.
        assert dtype == torch.bfloat16 or output.isfinite().all()
    undo(model)
    assert formats(model) == {(torch.device("cpu"), torch.float32)}
    undo(attended.to("meta"))
    assert formats(attended) == {(torch.device("meta"), torch.float32)}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_attention_follows_its_model_to_a_gpu(backbone: Backbone, plain: nn.Module, images: Tensor) -> None:
    model = plain.cuda()
    chance = torch.cuda.get_rng_state()
    find_sites(model, backbone.size)
    assert torch.equal(torch.cuda.get_rng_state(), chance)
    backbone.attach(model)
    assert {device.type for device, _ in formats(model)} == {"cuda"}
    output = model(images.cuda())
    assert_close(output.cpu(), model.cpu()(images), 1e-2)


# Sites --------------------------------------------------------------------------------------------------------------


def test_every_site_that_is_listed_as_fit_takes_attention(backbone: Backbone, plain: nn.Module, images: Tensor) -> None:
    sites = [site for site in find_sites(plain, backbone.size) if site.refusal is None]
    assert len(sites) > 10
    given: dict[str, tuple[int, ...]] = {}
    for site in sites:
        module = plain.get_submodule(site.name)
        module.register_forward_hook(lambda _, __, y, name=site.name: given.update({name: tuple(y.shape)}))
    output = plain(images)
    shapes = {
        "NCHW": lambda site: (site.channels, *site.size),
        "NHWC": lambda site: (*site.size, site.channels),
        "tokens": lambda site: (site.prefix + site.size[0] * site.size[1], site.channels),
    }
    assert given == {site.name: (IMAGES, *shapes[site.layout](site)) for site in sites}
    attach(plain, nn.Identity, [site.name for site in sites], input_size=backbone.size)
    assert sites_of(plain) == [site.name for site in sites]
    assert torch.equal(plain(images), output)


@pytest.mark.parametrize(
    ("make", "at", "reason"),
    [
        (torchvision.models.swin_t, "features.1.0.attn.qkv", r"Linear\) .*: forward never calls it"),
        (torchvision.models.resnet50, "layer2.0.relu", r"ReLU\) .*: forward .*3 times"),
        (torchvision.models.resnet18, "avgpool", r"AdaptiveAvgPool2d\) .*: a taller input does not show"),
        (
            lambda: torchvision.models.segmentation.fcn_resnet50(weights_backbone=None),
            "backbone",
            r"IntermediateLayerGetter\) .*: .*returns a OrderedDict .*output='out' .*\(2, 2048, 8, 4\)",
        ),
    ],
    ids=["its weights alone are used", "called three times", "pooled", "a dict of maps"],
)
def test_real_sites_that_are_refused_and_why(
    make: Callable[[], nn.Module], at: str, reason: str, observe: Observe
) -> None:
    model = make()
    before = observe(model)
    with pytest.raises(ValueError, match=f"attach: '{at}' .{reason}"):
        attach(model, "se", at, input_size=(64, 32))
    assert observe(model) == before


def test_a_block_that_stands_in_two_places_is_refused() -> None:
    model = torchvision.models.resnet18()
    model.layer3[1] = model.layer2[1]
    model.layer3[0] = torchvision.models.resnet.BasicBlock(128, 128)
    model.layer4[0] = torchvision.models.resnet.BasicBlock(
        128, 512, 2, nn.Sequential(nn.Conv2d(128, 512, 1, 2), nn.BatchNorm2d(512))
    )
    with pytest.raises(ValueError, match=r"'layer2.1' .* cannot take attention: .*same module .*at '"):
        attach(model, "se", "layer2.1", input_size=(64, 32))
    attach(model, "se", "layer[1-4]", input_size=(64, 32))


def test_a_stage_that_walks_over_its_children_is_refused(observe: Observe) -> None:
    model = pytest.importorskip("timm", reason="the model is timm's").create_model("regnety_002")
    before = observe(model)
    with pytest.raises(ValueError, match=r"'s1' \(RegStage\) .*once.* 2 times"):
        attach(model, "se", "s[1-4]", input_size=(64, 32))
    assert observe(model) == before
    attach(model, "se", "s[1-4].b1", input_size=(64, 32))


class Home(nn.Module):
    """Calls two convolutions from a forward written by hand, wherever they live."""

    def __init__(self, home: str) -> None:
        super().__init__()
        parts = [nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)]
        self.home = {
            "Sequential": lambda: nn.Sequential(*parts),
            "ModuleList": lambda: nn.ModuleList(parts),
            "ModuleDict": lambda: nn.ModuleDict({"0": parts[0], "1": parts[1]}),
            "Module": nn.Module,
        }[home]()
        if home == "Module":
            self.home.add_module("0", parts[0])
            self.home.add_module("1", parts[1])

    def forward(self, x: Tensor) -> Tensor:
        return self.home.get_submodule("1")(self.home.get_submodule("0")(x).relu())


@pytest.mark.parametrize("home", ["Sequential", "ModuleList", "ModuleDict", "Module"])
@pytest.mark.parametrize("where", ["after", "instead"])
def test_a_site_may_live_anywhere(home: str, where: Any, observe: Observe) -> None:
    model, x = Home(home), torch.randn(2, 3, 4, 4)
    before, plain, first = observe(model), model(x), model.home.get_submodule("0")
    attachment = attach(model, "pixel", "home.0", where=where, input_size=(4, 4))
    layer = model.get_submodule("home.0.attention")
    taken = x if where == "instead" else nn.functional.conv2d(x, first.weight, first.bias)
    assert torch.equal(model(x), model.home.get_submodule("1")(layer(taken).relu()))
    attachment.remove()
    assert observe(model) == before
    assert torch.equal(model(x), plain)


# Gates --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def nothing_is_left(attended: nn.Module, observe: Observe) -> Iterator[None]:
    before = observe(attended)
    yield
    assert observe(attended) == before


@pytest.mark.usefixtures("nothing_is_left")
def test_the_gates_of_all_sites_are_recorded(backbone: Backbone, attended: nn.Module, images: Tensor) -> None:
    output = attended(images)
    with record_attention(attended) as gates, torch.no_grad():
        assert torch.equal(attended(images), output)
    assert sorted(gates) == sorted(sites_of(attended))
    for attachment, level in zip(attachments(attended), ("se", "rga_s", "pixel"), strict=True):
        for site in attachment.sites:
            shape = {"se": (site.channels, 1, 1), "rga_s": (1, *site.size), "pixel": (site.channels, *site.size)}
            assert list(gates[site.name]) == [level]
            gate = gates[site.name][level]
            assert tuple(gate.shape) == (IMAGES, *shape[level])
            assert gate.min() >= 0
            assert gate.max() <= 1
            assert not gate.requires_grad
