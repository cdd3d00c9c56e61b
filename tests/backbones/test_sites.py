"""Finding sites: what is measured, what is refused and why, and that looking changes nothing."""

import copy
import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from attnreid.backbones import Site, attach, attach_apnet, attach_mla, attach_se, find_sites, set_last_stride
from tests.conftest import says


class Odd(nn.Module):
    """One module for every reason to refuse."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.twice = nn.ReLU()
        self.shared = nn.Conv2d(8, 8, 1)
        self.alias = self.shared
        self.tuple = Pair()
        self.last = ChannelsLast()
        self.never = nn.Conv2d(8, 8, 1)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.integers = Integers()
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.twice(self.twice(self.stem(x)))
        x = self.shared(x)
        x, _ = self.tuple(x)
        x = self.last(x).permute(0, 3, 1, 2)
        self.integers(x)
        return self.head(self.pool(x).flatten(1))


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class ChannelsLast(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)


class Integers(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.round().long()


class Fixed(nn.Module):
    """Runs at one input size only, behind its map, and not on the meta device."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4 * 8 * 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        if x.sum().item() > 1e9 or torch.rand(()).item() > 1:
            raise RuntimeError
        return self.head(x.flatten(1))


def test_measures_a_resnet() -> None:
    sites = {site.name: site for site in find_sites(resnet18(), (64, 32))}
    assert list(sites)[:5] == ["conv1", "bn1", "relu", "maxpool", "layer1"]
    assert sites["conv1"] == Site("conv1", "Conv2d", 64, (32, 16), 1, layout="NCHW")
    assert sites["layer3"] == Site("layer3", "Sequential", 256, (4, 2), 1, layout="NCHW")
    assert sites["layer4.1"] == Site("layer4.1", "BasicBlock", 512, (2, 1), 1, layout="NCHW")
    assert sites["layer2.0.relu"].calls == 2
    assert "fc" not in sites


@pytest.mark.parametrize(
    ("name", "refusal"),
    [
        ("twice", "forward .*2 times"),
        ("shared", ".*same module .*'alias'"),
        ("alias", ".*same module .*'shared'"),
        ("tuple", r".*returns a tuple .*output=0 .*\(2, 8, 16, 8\), output=1 "),
        (
            "pool",
            r'a taller .* of shape \(2, 8, 2, 2\), .*"NCHW" .* 8 channels, .*height of 2 .*width of 2',
        ),
        ("integers", ".*map of integers"),
        ("never", "forward never calls"),
        ("head", r".*tensor of shape \(2, 4\)"),
    ],
)
def test_says_why_a_site_is_refused(name: str, refusal: str) -> None:
    model = Odd()
    with pytest.raises(ValueError, match=f"attach: '{name}' .* cannot take attention: {refusal}"):
        attach(model, nn.Identity, name, input_size=(16, 8))
    listed = {site.name: site for site in find_sites(model, (16, 8))}
    assert (name in listed) == (name not in ("never", "head"))
    assert {key for key in listed if listed[key].refusal is None} == {"stem", "last"}


def test_channels_last_map_is_measured_as_it_is() -> None:
    sites = {site.name: site for site in find_sites(Odd(), (16, 8))}
    assert sites["last"] == Site("last", "ChannelsLast", 8, (16, 8), 1, layout="NHWC")
    assert (sites["tuple"].channels, sites["tuple"].size, sites["tuple"].layout) == (None, None, None)


def test_layout_can_be_stated() -> None:
    sites = {site.name: site for site in find_sites(Odd(), (16, 8), layout="NCHW")}
    assert sites["pool"].refusal is None
    assert says(sites["last"].refusal, "is NHWC", "layout='NCHW'")  # it was seen to be otherwise
    sites = {site.name: site for site in find_sites(Odd(), (16, 8), layout="NHWC")}
    assert (sites["pool"].channels, sites["pool"].size) == (2, (8, 2))
    assert says(sites["stem"].refusal, "is NCHW", "layout='NHWC'")


@pytest.mark.parametrize("size", [(64, 32), (8, 8)])
def test_tells_the_layout_at_any_input_size(size: tuple[int, int]) -> None:
    refused = [site.name for site in find_sites(resnet18(), size) if site.refusal and site.calls == 1]
    assert refused == ["avgpool"]


@pytest.mark.parametrize("make", [resnet18, Odd, Fixed])
@pytest.mark.parametrize("training", [True, False])
def test_looking_changes_nothing(make, training, observe) -> None:
    model = make().train(training)
    next(model.children()).train(not training)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter) if parameter.numel() < 100 else None
    calls: list[str] = []
    for name, module in model.named_modules():
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
    before, generator = observe(model), torch.get_rng_state()
    find_sites(model, (8, 4))
    assert observe(model) == before
    assert torch.equal(torch.get_rng_state(), generator)
    assert not calls


def test_model_that_cannot_run_on_meta_is_measured_on_a_copy() -> None:
    sites = {site.name: site for site in find_sites(Fixed(), (8, 4))}
    assert (sites["norm"].channels, sites["norm"].size, sites["norm"].refusal) == (4, (8, 4), None)


def test_other_signatures_and_channels() -> None:
    class TwoInputs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor, bias: Tensor) -> Tensor:
            return self.conv(x) + bias

    example = (torch.rand(1, 3, 6, 5), torch.rand(1))
    assert find_sites(TwoInputs(), example_inputs=example)[0].size == (6, 5)
    assert find_sites(nn.Sequential(nn.Conv2d(1, 4, 1)), (1, 6, 5))[0].size == (6, 5)
    with pytest.raises(ValueError, match="input_size=.* or example_inputs=.*not both"):
        find_sites(TwoInputs(), (6, 5), example_inputs=example)
    with pytest.raises(ValueError, match="input_size=.* or example_inputs="):
        find_sites(TwoInputs())


def test_tokens_of_a_model_with_two_inputs_cannot_be_asked_for() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches, self.block = nn.Conv2d(3, 16, 4, 4), nn.Linear(16, 16)

        def forward(self, x: Tensor, bias: Tensor | float = 0.0) -> Tensor:
            return self.block(self.patches(x).flatten(2).transpose(1, 2)) + bias

    def block_of(*inputs: Tensor, **stated: Any) -> Site:
        return next(site for site in find_sites(Tokens(), example_inputs=inputs, **stated) if site.name == "block")

    image, bias = torch.rand(1, 3, 32, 16), torch.rand(1)
    assert block_of(image).size == (8, 4)
    assert "grid=(rows, columns)" in str(block_of(image, bias).refusal)
    assert block_of(image, bias, layout="tokens", grid=(8, 4)).refusal is None


def test_a_parameter_of_whole_numbers_does_not_stop_the_copy() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1))
    model.register_parameter("steps", nn.Parameter(torch.zeros(2, dtype=torch.int64), requires_grad=False))
    assert find_sites(model, (6, 5))[0].size == (6, 5)


def test_plain_tensor_attributes_do_not_stop_the_meta_copy() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)
            self.scale = torch.ones(4, 1, 1, requires_grad=True) * 2  # no leaf: deepcopy alone refuses it

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) * self.scale

    assert find_sites(Scaled(), (6, 5))[0].channels == 4


@pytest.mark.parametrize("size", [(64,), (0, 32), (64.0, 32), "64", (1, 2, 3, 4)])
def test_malformed_input_size_is_refused(size: object) -> None:
    with pytest.raises(ValueError, match=r"find_sites: input_size .*\(height, width\) or"):
        find_sites(resnet18(), size)  # type: ignore[arg-type]


def test_input_that_does_not_run_is_refused() -> None:
    with pytest.raises(ValueError, match=r"input of shape \(2, 3, 9, 4\); .*failed with.*; pass another"):
        find_sites(Fixed(), (9, 4))
    with pytest.raises(ValueError, match="lazy ones: run it once"):
        find_sites(nn.Sequential(nn.LazyConv2d(4, 1)), (8, 4))


def test_model_that_cannot_be_copied_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1))
    model.generator = (number for number in range(3))  # type: ignore[assignment]
    with pytest.raises(TypeError):
        copy.deepcopy(model)
    with pytest.raises(ValueError, match="model .*copy.deepcopy"):
        find_sites(model, (8, 4))


def test_measures_what_the_model_does_in_eval_mode() -> None:
    class Auxiliary(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
            x = super().forward(x)
            return (x, x) if self.training else x

    site = find_sites(nn.Sequential(Auxiliary(3, 4, 1)).train(), (8, 4))[0]
    assert (site.channels, site.refusal) == (4, None)


def test_the_advice_to_state_the_layout_shows_what_would_be_read() -> None:
    [site] = [site for site in find_sites(Odd(), (16, 8)) if site.name == "pool"]
    assert says(site.refusal, "(2, 8, 2, 2)", 'layout="NCHW"', "8 channels, a height of 2 and a width of 2")


@pytest.mark.filterwarnings("ignore")
def test_a_scripted_or_traced_model_is_refused() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 4, 1))
    scripted = torch.jit.script(plain)
    for model in (scripted, torch.jit.trace(plain, torch.rand(1, 3, 8, 4)), nn.Sequential(scripted)):
        for preset in (
            find_sites,
            functools.partial(attach, attention="se", at="0"),
            attach_apnet,
            attach_mla,
            attach_se,
        ):
            with pytest.raises(ValueError, match="model .*Python modules, got .*scripted or traced"):
                preset(model, input_size=(8, 4))
        with pytest.raises(ValueError, match=r"set_last_stride: .*model .*Python modules, got .*scripted or traced"):
            set_last_stride(model)


@pytest.mark.parametrize("features", [4, 16])
def test_a_norm_of_other_channels_is_torchs_own_error_and_a_fitting_one_keeps_its_shape(features: int) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(features))
    with pytest.raises(ValueError, match=rf"model must run .*failed with: running_mean .*8 elements not {features}"):
        find_sites(model, input_size=(8, 4))
    model[1] = nn.BatchNorm2d(8)
    assert find_sites(model, input_size=(8, 4))[1].size == (8, 4)
