"""What every layer's tests share: comparing a layer with its oracle, gradients included."""

import copy

import torch

from attnreid.layers._probe import Probe

# What bfloat16 may be off by, of the largest value: 16 roundings of its 8 bits, 2**-8 each. A batch norm over few
# values and the unscaled logits of head-level attention enlarge what was rounded before them: over 40 random draws
# of all layers the worst was 4.3e-2, the usual 1e-2.
BFLOAT16 = 2**-4


def randomise(layer, seed=0):
    """Give every parameter and statistic its own random value, so that none is 0 or 1 by default."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in layer.state_dict().items():
            if name.endswith("running_var") or (value.ndim == 1 and name.endswith("weight")):
                value.copy_(torch.rand(value.shape, generator=generator).add(0.5))
            elif name.endswith("bias"):  # small: a ReLU behind it is neither dead nor always open
                value.copy_(torch.rand(value.shape, generator=generator).mul(0.6).sub(0.2))
            elif value.is_floating_point():
                value.copy_(torch.randn(value.shape, generator=generator) * 0.6)
    return layer


def random_map(*shape, seed=1, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def assert_close(got, wanted, relative, least=1e-3):
    """The largest difference is at most `relative` of the largest value (of `least`, where that is larger)."""
    scale = wanted.abs().max().clamp_min(least)
    error = (got.double() - wanted.double()).abs().max() / scale
    assert got.shape == wanted.shape
    assert error <= relative, f"off by {error:.2e} of the largest value, {relative:.0e} allowed"


def assert_agrees(layer, oracle, x):
    """Forward in float64, float32 and bfloat16, and in float64 the gradients of the input and every parameter."""
    layer = copy.deepcopy(layer).double()
    names = [name for name, _ in layer.named_parameters()]
    own = {name: value.detach().clone() for name, value in layer.state_dict().items()}
    for name in names:
        own[name].requires_grad_()
    literal_x = x.detach().clone().requires_grad_()
    literal = oracle(literal_x, own)
    cotangent = random_map(*literal.shape, seed=9)
    wanted = torch.autograd.grad(literal, [literal_x, *[own[name] for name in names]], cotangent)

    single, rounded = copy.deepcopy(layer).float(), copy.deepcopy(layer).bfloat16()
    layer_x = x.detach().clone().requires_grad_()
    output = layer(layer_x)
    got = torch.autograd.grad(output, [layer_x, *[value for _, value in layer.named_parameters()]], cotangent)
    assert_close(output, literal, 1e-12)
    for name, ours, theirs in zip(["input", *names], got, wanted, strict=True):
        assert theirs.abs().max() > 1e-9, f"the case says nothing about {name}"
        assert_close(ours, theirs, 1e-12, least=literal.abs().max())
    assert_close(single(x.float()), literal, 1e-5)
    # The oracle gets the numbers that are left after rounding: the layer answers for its own roundings only.
    literal = oracle(x.bfloat16().double(), {name: value.double() for name, value in rounded.state_dict().items()})
    assert_close(rounded(x.bfloat16()), literal, BFLOAT16)


def assert_gradients(layer, x):
    layer = layer.double()
    assert torch.autograd.gradcheck(layer, x.clone().requires_grad_(), fast_mode=True)


class Recorder:
    """Hears all that passes the probes of these modules, as (dotted name, tensor)."""

    def __init__(self, *modules):
        self.probes = [item for module in modules for item in module.named_modules() if isinstance(item[1], Probe)]

    def __enter__(self):
        heard = []
        self.hooks = [
            probe.register_forward_hook(lambda probe, args, output, name=name: heard.append((name, output)))
            for name, probe in self.probes
        ]
        return heard

    def __exit__(self, *_):
        for hook in self.hooks:
            hook.remove()
