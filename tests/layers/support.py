"""What every layer's tests share: comparing a layer with its oracle, gradients included."""

import copy

import torch


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
    """Forward in float64 and float32, and in float64 the gradients of the input and of every parameter."""
    layer = copy.deepcopy(layer).double()
    names = [name for name, _ in layer.named_parameters()]
    own = {name: value.detach().clone() for name, value in layer.state_dict().items()}
    for name in names:
        own[name].requires_grad_()
    literal_x = x.detach().clone().requires_grad_()
    literal = oracle(literal_x, own)
    cotangent = random_map(*literal.shape, seed=9)
    wanted = torch.autograd.grad(literal, [literal_x, *[own[name] for name in names]], cotangent)

    single = copy.deepcopy(layer).float()
    layer_x = x.detach().clone().requires_grad_()
    output = layer(layer_x)
    got = torch.autograd.grad(output, [layer_x, *[value for _, value in layer.named_parameters()]], cotangent)
    assert_close(output, literal, 1e-12)
    for name, ours, theirs in zip(["input", *names], got, wanted, strict=True):
        assert theirs.abs().max() > 1e-9, f"the case says nothing about {name}"
        assert_close(ours, theirs, 1e-12, least=literal.abs().max())
    assert_close(single(x.float()), literal, 1e-5)


def assert_gradients(layer, x):
    layer = layer.double()
    assert torch.autograd.gradcheck(layer, x.clone().requires_grad_(), fast_mode=True)


def assert_layouts_do_not_matter(layer, x):
    """Contiguous, channels_last and strided inputs give the same output and are left as they were."""
    layer = layer.double().eval()
    kept = x.clone()
    wanted = layer(x)
    wide = torch.stack([x, x + 1], dim=-1)[..., 0]
    for other in (x.contiguous(memory_format=torch.channels_last), wide, x.transpose(2, 3).contiguous().mT):
        assert_close(layer(other), wanted, 1e-12)
        assert torch.equal(other, kept)
    assert torch.equal(x, kept)


def assert_copies_are_independent(layer, x):
    layer = layer.double().eval()
    wanted = layer(x)
    twin = copy.deepcopy(layer)
    twin.load_state_dict(layer.state_dict(), strict=True)
    assert torch.equal(twin(x), wanted)
    with torch.no_grad():
        for value in twin.parameters():
            value.add_(1)
    assert torch.equal(layer(x), wanted)
    assert not torch.equal(twin(x), wanted)


def assert_starts_from_meta(build):
    """Built on meta, emptied and reset, a layer starts as one that was built in place and reset."""
    here, there = build(device=None), build(device="meta")
    assert all(value.is_meta for value in there.state_dict().values())
    there = there.to_empty(device="cpu")
    with torch.no_grad():
        for value in there.state_dict().values():
            value.fill_(7)
    for layer in (here, there):
        torch.manual_seed(3)
        layer.reset_parameters()
    for name, value in here.state_dict().items():
        assert torch.equal(there.state_dict()[name], value), name


def assert_compiles(layer, x):
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    for mode in (True, False):
        twin = copy.deepcopy(layer)
        layer.train(mode)
        twin.train(mode)
        assert_close(compiled(x), twin(x), 1e-6)
    torch._dynamo.reset()


class Recorder:
    """Listens to the layers as record_attention does."""

    def __enter__(self):
        from attnreid import _recording

        self.heard = []
        self.listen = lambda layer, level, gate: self.heard.append((layer, level, gate))
        _recording.listeners.append(self.listen)
        return self.heard

    def __exit__(self, *_):
        from attnreid import _recording

        _recording.listeners.remove(self.listen)
