"""Attention on maps that are not (N, C, H, W): channels last, tokens, one of several outputs."""

import copy
import pickle
import warnings
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from attnreid import AttentionPyramid, SqueezeExcitation, record_attention
from attnreid.backbones import attach, attachments, find_sites
from attnreid.backbones._arranging import Answers, Arrangement, Evidence, Reading, Stated, allowed, own_patches
from attnreid.backbones._measuring import Seen
from attnreid.backbones._probing import ANYHOW
from attnreid.backbones.layouts import MapAdapter
from attnreid.checkpoints import load_checkpoint, save_checkpoint
from tests.conftest import says

SIZE = (16, 24)  # of the images; patches of 4, so that the grid is 4x6
GRID = (4, 6)
C = 8


class Mixer(nn.Module):
    """A block on tokens: each takes a little of all others, and keeps most of itself."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(C, C)

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + 0.3 * self.linear(tokens + tokens.mean(1, keepdim=True)).tanh()


class Transformer(nn.Module):
    """Patches as tokens, behind `prefix` learnt ones, in the given order; runs at one image size only.

    Args:
        prefix: how many tokens stand in front.
        order: the number of the patch at each place; row by row where it is None.
        folded: fold half of the tokens into the batch axis.
    """

    def __init__(self, prefix: int = 1, order: list[int] | None = None, folded: bool = False) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, C, 4, 4)
        self.front = nn.Parameter(torch.randn(1, prefix, C))
        self.position = nn.Parameter(torch.randn(1, prefix + 24, C))
        self.blocks = nn.Sequential(Mixer(), Mixer())
        self.last = Mixer()
        self.head = nn.Linear(C, 5)
        self.order, self.folded = order, folded

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = tokens if self.order is None else tokens[:, self.order]
        tokens = torch.cat([self.front.expand(tokens.shape[0], -1, -1), tokens], 1) + self.position
        if self.folded:
            return self.head(self.last(self.blocks(tokens.unflatten(1, (2, -1)).flatten(0, 1)))).mean(1)
        tokens = self.last(self.blocks(tokens))
        return self.head(tokens.view(tokens.shape[0], -1, C).mean(1))  # view: what comes back must lie as it did


class ChannelsLast(nn.Module):
    """A block on (N, H, W, C) between two permutations; the second reads its memory as it lies."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, C, 4, 4)
        self.block = nn.Sequential(nn.Linear(C, C), nn.GELU())
        self.head = nn.Linear(C, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.patches(x).permute(0, 2, 3, 1).contiguous())
        return self.head(x.view(x.shape[0], -1, C).mean(1))


class Both(NamedTuple):
    map: Tensor
    mean: Tensor


class Several(nn.Module):
    """Its block returns several things, of the kind that `pack` makes."""

    def __init__(self, pack: Callable[[Tensor, Tensor], Any], key: int | str) -> None:
        super().__init__()
        self.block = Packing(pack)
        self.head = nn.Linear(C, 5)
        self.key = key

    def forward(self, x: Tensor) -> Tensor:
        returned = self.block(x)
        assert type(returned) is type(self.block.pack(x, x))
        mean = returned[1] if isinstance(returned, tuple | list) else returned["mean"]
        return self.head(returned[self.key].mean((2, 3)) + mean)


class Packing(nn.Module):
    def __init__(self, pack: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.conv, self.pack = nn.Conv2d(3, C, 4, 4), pack

    def forward(self, x: Tensor) -> Any:
        x = self.conv(x)
        return self.pack(x, x.mean((2, 3)))


def images(count: int = 3) -> Tensor:
    return torch.randn(count, 3, *SIZE, generator=torch.Generator().manual_seed(1))


def built(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return make().eval()


def site_of(model: nn.Module, name: str, **options: Any) -> Any:
    return {site.name: site for site in find_sites(model, SIZE, **options)}[name]


MODELS: dict[str, tuple[Callable[[], nn.Module], str, int]] = {
    "tokens": (partial(Transformer, 0), "last", 0),
    "tokens in a row": (partial(Transformer, 1), "blocks", 1),
    "five in front": (partial(Transformer, 5), "blocks.1", 5),
    "channels last": (ChannelsLast, "block", 0),
}
layouts = pytest.mark.parametrize(("make", "at", "prefix"), MODELS.values(), ids=MODELS)


class Marked(nn.Module):
    """Adds to each position a number of its own, so that every row, column and channel is told apart."""

    def __init__(self, channels: int, *, size: tuple[int, int]) -> None:
        super().__init__()
        self.register_buffer("code", torch.arange(float(channels * size[0] * size[1])).view(channels, *size))

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1:] == self.code.shape
        return x + self.code


# What is seen ---------------------------------------------------------------------------------------------------------


@layouts
def test_the_layout_the_grid_and_the_prefix_are_found(make, at: str, prefix: int) -> None:
    site = site_of(built(make), at)
    layout = "NHWC" if make is ChannelsLast else "tokens"
    assert (site.refusal, site.layout, site.channels, site.size, site.prefix) == (None, layout, C, GRID, prefix)
    assert site.grid == (None if layout == "NHWC" else GRID)


def test_trained_weights_or_others_do_not_matter() -> None:
    for seed in range(5):
        sites = find_sites(built(partial(Transformer, 2), seed), SIZE)
        found = {site.name: (site.size, site.prefix) for site in sites if site.layout == "tokens"}
        assert {found[name] for name in ("blocks", "blocks.0", "blocks.1", "last")} == {(GRID, 2)}


def test_looking_at_tokens_changes_nothing(observe) -> None:
    model = built(Transformer).train()
    before, generator = observe(model), torch.get_rng_state()
    find_sites(model, SIZE)
    assert observe(model) == before
    assert torch.equal(torch.get_rng_state(), generator)


COLUMN_BY_COLUMN = [row * 6 + column for column in range(6) for row in range(4)]
BLOCKS_OF_FOUR = [
    row * 6 + column for top in (0, 2) for left in (0, 2, 4) for row in (top, top + 1) for column in (left, left + 1)
]


@pytest.mark.parametrize("order", [COLUMN_BY_COLUMN, BLOCKS_OF_FOUR, list(range(23, -1, -1))])
def test_tokens_in_another_order_are_refused(order: list[int]) -> None:
    model = built(partial(Transformer, 1, order))
    refusal = site_of(model, "last").refusal
    assert says(refusal, "rows of tokens", "(2, 25, 8)", "layout", "grid", "prefix")
    with pytest.raises(ValueError, match="'last' .*cannot take attention"):
        attach(model, "se", "last", input_size=SIZE)


Order = list[tuple[int, int]]  # the cell of each token


def orders(rows: int, columns: int) -> dict[str, Order]:
    """Return other orders than row by row."""
    cells = [(row, column) for row in range(rows) for column in range(columns)]
    found = {
        "column by column": sorted(cells, key=lambda cell: cell[::-1]),
        "from the end": cells[::-1],
        "mirrored": [(row, columns - 1 - column) for row, column in cells],
        "upside down": [(rows - 1 - row, column) for row, column in cells],
        "there and back": [(row, columns - 1 - column if row % 2 else column) for row, column in cells],
    }
    for tall, wide in ((2, 2), (4, 4), (7, 7), (2, 4)):
        if rows % tall == 0 == columns % wide and wide < columns:
            window = lambda cell, t=tall, w=wide: (cell[0] // t, cell[1] // w)  # noqa: E731
            within = lambda cell, t=tall, w=wide: (cell[0] % t, cell[1] % w)  # noqa: E731
            found[f"windows of {tall}x{wide}"] = sorted(cells, key=lambda cell: (window(cell), cell))
            found[f"every {tall}th"] = sorted(cells, key=lambda cell: (within(cell), cell))
    return {name: order for name, order in found.items() if order != cells}


@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize(
    ("image", "grid"),
    [
        ((224, 224), (14, 14)),
        ((224, 224), (16, 16)),
        ((224, 224), (56, 56)),
        ((224, 224), (7, 7)),
        ((256, 128), (16, 8)),
        ((256, 128), (64, 32)),
        ((384, 128), (24, 8)),
        ((64, 32), (8, 4)),
        ((64, 32), (4, 2)),
        ((16, 24), (4, 6)),
    ],
)
def test_no_other_order_passes_for_row_by_row(image: tuple[int, int], grid: tuple[int, int], prefix: int) -> None:
    """By arithmetic alone: each patch is answered by the token of the cell that its middle lies in."""
    rows, columns = grid

    def answers(order: Order, patches: Any) -> Answers:
        middles = [
            (int((top + low) / 2 * rows), int((left + right) / 2 * columns)) for top, low, left, right in patches
        ]
        return Answers(patches, {"tokens": [prefix + order.index(cell) for cell in middles]})

    def proven(order: Order) -> list[Arrangement]:
        rough = answers(order, ANYHOW)
        choices = [each for each in allowed((2, prefix + rows * columns, C), image, Stated()) if rough.agree_with(each)]
        grids = {each.size for each in choices}
        evidence = Evidence(rough, {size: answers(order, own_patches(size)) for size in grids})
        return [each for each in choices if evidence.proves(each)]

    by_rows = [(row, column) for row in range(rows) for column in range(columns)]
    assert proven(by_rows) == [Arrangement("tokens", C, grid, prefix)]
    for name, order in orders(rows, columns).items():
        assert not proven(order), name


def test_the_patches_are_corners_edges_and_two_in_the_middle() -> None:
    patches = own_patches((8, 6))
    assert patches[0] == (0.0, 0.0625, 0.0, 0.5 / 6)
    cells = [(round(8 * top), round(6 * left)) for top, _, left, _ in patches]
    assert cells == [(0, 0), (0, 5), (1, 0), (3, 2), (4, 3), (7, 1), (7, 5)]


def test_tokens_that_are_folded_into_the_batch_are_refused() -> None:
    site = site_of(built(partial(Transformer, 0, None, True)), "last")
    assert says(site.refusal, "(4, 12, 8)", "2 images", "first axis")


def test_what_does_not_answer_is_refused_until_it_is_stated() -> None:
    model = built(Transformer)
    model.patches.weight.data.zero_()
    assert says(site_of(model, "last").refusal, "(2, 25, 8)", "grid=(rows, columns)")
    stated = site_of(model, "last", layout="tokens", grid=GRID)
    assert (stated.refusal, stated.size, stated.prefix) == (None, GRID, 1)
    attach(model, "se", "last", input_size=SIZE, grid=GRID)
    assert attachments(model)[0].sites[0].grid == GRID


def test_a_statement_that_is_seen_to_be_wrong_is_refused() -> None:
    model = built(Transformer)
    refusal = site_of(model, "last", grid=(6, 4)).refusal
    assert says(refusal, "grid=(4, 6), prefix=1", "grid=(6, 4) was passed")
    assert says(site_of(model, "last", grid=(5, 6)).refusal, "(2, 25, 8)", "cannot be read", "grid=(5, 6)")
    assert says(site_of(built(ChannelsLast), "block", layout="NCHW").refusal, "NHWC", "layout='NCHW'")


def test_tokens_of_a_model_without_numbers_are_found() -> None:
    with torch.device("meta"):
        model = Transformer()
        other = Transformer(1, COLUMN_BY_COLUMN)
    site = site_of(model, "last")
    assert (site.refusal, site.size, site.prefix) == (None, GRID, 1)
    assert says(site_of(other, "last").refusal, "rows of tokens")
    assert all(tensor.is_meta for tensor in model.parameters())


class ClassToken(Transformer):
    """Reads the token in front alone."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(C)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.front.expand(tokens.shape[0], -1, -1), tokens], 1) + self.position
        return self.head(self.norm(self.last(self.blocks(tokens)))[:, 0])


def test_attention_on_tokens_that_nothing_reads_is_warned_of(observe, recwarn) -> None:
    model = built(ClassToken)
    attach(model, "se", "blocks.1", input_size=SIZE).remove()
    attach(built(Transformer), "se", "last", input_size=SIZE)
    assert not recwarn.list
    before = observe(model)
    with pytest.warns(UserWarning, match=r"attach: .*1 token.* 'last' .*changes nothing") as caught:
        attach(model, "se", ("blocks.1", "last"), input_size=SIZE).remove()
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="'last'"):
            attach(model, "se", ("blocks.1", "last"), input_size=SIZE)
    assert observe(model) == before


def test_what_can_be_read_in_several_ways_names_them() -> None:
    corner = Answers(((0.0, 1.0, 0.0, 0.1),), {"tokens": (1,)})
    evidence = Evidence(corner, {(1, 24): corner, GRID: corner})
    reading = Reading(Seen(calls=1, given=(2, 25, 8), floating=True), None, 2, SIZE, False)
    arranged, refusal = reading.arrangement(evidence, Stated())
    assert arranged is None
    assert says(refusal, "(2, 25, 8)", "several ways", "grid=(1, 24), prefix=1", "or layout=")
    assert reading.arrangement(evidence, Stated(grid=GRID))[0] == Arrangement("tokens", 8, GRID, 1)


@pytest.mark.parametrize(
    ("options", "error", "parts"),
    [
        ({"layout": "NLC"}, ValueError, ("'tokens'", "'NLC'")),
        ({"grid": 24}, TypeError, ("grid", "24")),
        ({"grid": (0, 6)}, ValueError, ("grid", "0")),
        ({"prefix": -1}, ValueError, ("prefix", "-1")),
        ({"layout": "NHWC", "prefix": 1}, ValueError, ("prefix", "'NHWC'")),
        ({"output": 1.5}, TypeError, ("output", "1.5")),
    ],
)
def test_wrong_statements(options: dict[str, Any], error: type[Exception], parts: tuple[str, ...], observe) -> None:
    model = built(Transformer)
    before = observe(model)
    for call in (partial(find_sites, model, SIZE), partial(attach, model, "se", "last", input_size=SIZE)):
        with pytest.raises(error) as caught:
            call(**options)
        assert says(str(caught.value), *parts)
    assert observe(model) == before


# What attention gets, and what the model gets back --------------------------------------------------------------------


@layouts
def test_attention_sees_the_map_and_the_model_its_own_layout(make, at: str, prefix: int) -> None:
    plain, model = built(make), built(make)
    kept: dict[str, Tensor] = {}
    for name, each in (("plain", plain), ("attended", model)):
        each.get_submodule(at).register_forward_hook(lambda _, __, y, name=name: kept.update({name: y}))
    attach(model, Marked, at, input_size=SIZE)
    plain(images()), model(images())
    added = (kept["attended"] - kept["plain"]).detach()
    assert kept["attended"].stride() == kept["plain"].stride()
    if make is not ChannelsLast:
        assert torch.equal(added[:, :prefix], torch.zeros_like(added[:, :prefix]))
        added = added[:, prefix:].unflatten(1, GRID)
    code = torch.arange(float(C * 24)).view(C, *GRID)
    for channel in range(C):
        for row in range(GRID[0]):
            for column in range(GRID[1]):
                assert added[:, row, column, channel].allclose(code[channel, row, column], atol=1e-4)


class Contiguous(nn.Module):
    """Returns the map in the order of (N, C, H, W), whatever it came in."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x.contiguous()


@layouts
def test_what_comes_back_lies_in_memory_as_it_did(make, at: str, prefix: int) -> None:
    plain, model = built(make), built(make)
    strides: list[tuple[int, ...]] = []
    for each in (plain, model):
        each.get_submodule(at).register_forward_hook(lambda _, __, y: strides.append(y.stride()))
    attach(model, Contiguous, at, input_size=SIZE)
    assert torch.equal(model(images()), plain(images()))
    assert strides[0] == strides[1]


def test_a_map_between_two_permutations_keeps_its_memory() -> None:
    model = nn.Sequential(nn.Conv2d(3, C, 4, 4), Permute(0, 2, 3, 1), nn.LayerNorm(C), Permute(0, 3, 1, 2)).eval()
    given: list[tuple[int, ...]] = []
    model[1].register_forward_hook(lambda _, __, y: given.append(y.stride()))
    model(images())
    attach(model, Contiguous, "1", input_size=SIZE)
    model(images())
    assert given[0] == given[1]  # of the (N, C, H, W) below: no copy


class Permute(nn.Module):
    def __init__(self, *axes: int) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.axes)


@layouts
@pytest.mark.parametrize("attention", ["se", "rga_s", "domain", "head"])
def test_what_attention_does_is_what_it_does_to_the_map(make, at: str, prefix: int, attention: str) -> None:
    model = built(make)
    kept: list[Tensor] = []
    plain = copy.deepcopy(model)
    plain.get_submodule(at).register_forward_hook(lambda _, __, y: kept.append(y))
    attachment = attach(model, attention, at, input_size=SIZE)
    model.get_submodule(at).register_forward_hook(lambda _, __, y: kept.append(y))
    plain(images()), model(images())
    given, returned = kept
    layer = next(module for module in model.modules() if hasattr(module, "grid")).layer
    as_map = given[:, prefix:].unflatten(1, GRID) if given.ndim == 3 else given
    wanted = layer(as_map.permute(0, 3, 1, 2).contiguous()).permute(0, 2, 3, 1)
    wanted = torch.cat([given[:, :prefix], wanted.flatten(1, 2)], 1) if given.ndim == 3 else wanted
    torch.testing.assert_close(returned, wanted)
    attachment.remove()


@layouts
def test_the_contract_in_short(make, at: str, prefix: int, observe, tmp_path) -> None:
    """All of it, on published models, is in `test_contract.py`."""
    model = built(make)
    before, output, weights = observe(model), model(images()), copy.deepcopy(model.state_dict())
    pyramid = partial(AttentionPyramid, attention=partial(SqueezeExcitation, hidden=16), levels=2)
    attachment = attach(model, pyramid, at, input_size=SIZE, identity_init=True)
    assert set(model.state_dict()) - set(weights) == set(attachment.state_dict())
    assert all(key.startswith(f"{at}.attention.") for key in attachment.state_dict())
    assert torch.equal(model(images()), output)
    model.load_state_dict(weights, strict=True)
    with torch.no_grad():
        for parameter in attachment.parameters():
            parameter.add_(torch.rand_like(parameter))
    changed = model(images())
    assert not torch.equal(changed, output)
    for double in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(double(images()), changed)
        attachments(double)[0].remove()
        assert torch.equal(double(images()), output)
    with record_attention(model) as gates:
        model(images())
    assert {level: gate.shape for level, gate in gates[at].items()} == dict.fromkeys(("level1", "level2"), (3, C, 1, 1))
    assert f"{C} x {GRID[0]} x {GRID[1]}" in str(attachment)
    changed.sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in attachment.parameters())
    model.zero_grad(set_to_none=True)
    attachment.remove()
    attachment.remove()
    assert {**observe(model), **{k: v for k, v in before.items() if "tensor" in k}} == before
    assert torch.equal(model(images()), output)


@layouts
def test_a_checkpoint_rebuilds_it(make, at: str, prefix: int, tmp_path) -> None:
    model = built(make)
    attach(model, "rga_s", at, input_size=SIZE)
    save_checkpoint(model, tmp_path / "model.safetensors")
    other = built(make, 1)
    load_checkpoint(other, tmp_path / "model.safetensors")
    assert torch.equal(other(images()), model(images()))


@pytest.mark.parametrize(
    ("make", "at", "prefix"),
    [
        pytest.param(*model, id=name, marks=() if name == "five in front" else pytest.mark.slow)
        for name, model in MODELS.items()
    ],
)
def test_it_compiles_as_one_graph_and_exports(make, at: str, prefix: int) -> None:
    model = built(make)
    attach(model, "rga_s", at, input_size=SIZE)
    expected = model(images())
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(images()), expected)
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(model, (images(4),), dynamic_shapes=({0: batch},)).module()
    torch.testing.assert_close(program(images()), expected)
    torch.testing.assert_close(torch.fx.symbolic_trace(model)(images()), expected)


def test_instead_of_a_block_on_tokens() -> None:
    model = built(Transformer)
    output = model(images())
    attachment = attach(model, "pixel", "blocks.1", input_size=SIZE, where="instead")
    assert not any(key.startswith("blocks.1.linear") for key in model.state_dict())
    assert not torch.equal(model(images()), output)
    assert "blocks.1" in str(attachment)
    attachment.remove()
    assert torch.equal(model(images()), output)


class AnySize(nn.Module):
    def __init__(self, prefix: int = 1) -> None:
        super().__init__()
        self.patches, self.block = nn.Conv2d(3, C, 4, 4), Mixer()
        self.front = nn.Parameter(torch.randn(1, prefix, C))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        return self.block(torch.cat([self.front.expand(tokens.shape[0], -1, -1), tokens], 1)).mean(1)


def test_tokens_of_another_grid_are_refused_at_run_time() -> None:
    model = built(AnySize)
    attach(model, "pixel", "block", input_size=SIZE)
    model(images())
    with pytest.raises(ValueError, match=r"\(N, 25, C\), 1 and then 4x6 .*got \(2, 49, 8\).*resize\(input_size\)"):
        model(torch.rand(2, 3, 32, 24))


@pytest.mark.parametrize("attention", ["rga_s", "head", "se"])
@pytest.mark.parametrize("identity_init", [False, True])
def test_tokens_at_another_size(attention: str, identity_init: bool, tmp_path) -> None:
    model = built(AnySize)
    attachment = attach(model, attention, "block", input_size=SIZE, identity_init=identity_init, grid=GRID)
    keys = list(model.state_dict())
    attachment.resize((32, 40))
    assert (attachment.sites[0].grid, attachment.sites[0].prefix) == ((8, 10), 1)
    assert list(model.state_dict()) == keys
    large = torch.randn(2, 3, 32, 40)
    output = model(large)
    save_checkpoint(model, tmp_path / "model.safetensors")
    other = built(AnySize, 1)
    load_checkpoint(other, tmp_path / "model.safetensors")
    assert torch.equal(other(large), output)
    attachment.remove()
    assert torch.equal(model(images()), built(AnySize)(images()))


def test_a_model_of_one_size_refuses_another(observe) -> None:
    model = built(Transformer)
    attachment = attach(model, "head", "last", input_size=SIZE)
    before = observe(model)
    with pytest.raises(ValueError, match=r"Attachment.resize: .*\(2, 3, 32, 24\)"):
        attachment.resize((32, 24))
    assert observe(model) == before


# One of several outputs -----------------------------------------------------------------------------------------------

PACKS: dict[str, tuple[Callable[[Tensor, Tensor], Any], int | str]] = {
    "tuple": (lambda x, mean: (x, mean), 0),
    "list": (lambda x, mean: [x, mean], 0),
    "named tuple": (Both, 0),
    "dict": (lambda x, mean: {"map": x, "mean": mean}, "map"),
    "ordered dict": (lambda x, mean: OrderedDict(map=x, mean=mean), "map"),
}


@pytest.mark.parametrize(("pack", "key"), PACKS.values(), ids=PACKS)
def test_one_of_several_outputs(pack, key: int | str) -> None:
    model = built(partial(Several, pack, key))
    output = model(images())
    assert says(site_of(model, "block").refusal, f"output={key!r}", "(2, 8, 4, 6)")
    own: list[Any] = []
    model.block.pack = lambda x, mean: own.append((pack(x, mean), x)) or own[-1][0]
    attachment = attach(model, Marked, "block", input_size=SIZE, output=key)
    assert attachment.sites[0].output == key
    model(images())
    assert own[-1][0][key] is own[-1][1]  # what the module itself made is not written to
    model.block.pack = pack
    shift = nn.functional.linear(torch.arange(float(C * 24)).view(C, 24).mean(1), model.head.weight)
    torch.testing.assert_close(model(images()), output + shift)
    attachment.remove()
    assert torch.equal(model(images()), output)


def test_an_output_that_is_not_there_is_refused(observe) -> None:
    model = built(partial(Several, *PACKS["tuple"]))
    before = observe(model)
    for output, reason in ((5, "at 5; .*output=0"), ("map", "at 'map'; .*output=0"), (1, r"shape \(2, 8\)")):
        with pytest.raises(ValueError, match=f"'block' .*{reason}"):
            attach(model, "se", "block", input_size=SIZE, output=output)
    with pytest.raises(ValueError, match=r"output .*where='instead'"):
        attach(model, "se", "block", input_size=SIZE, output=0, where="instead")
    assert observe(model) == before


@pytest.mark.parametrize(
    "make",
    [lambda: SqueezeExcitation(C, reduction=2), lambda: AttentionPyramid(C, ("se", "split"), levels=2)],
    ids=["one gate", "a pyramid"],
)
def test_attention_that_reads_averages_takes_any_number_of_tokens(make: Callable[[], nn.Module]) -> None:
    layer = make().eval()
    adapter, tokens = MapAdapter(layer, "tokens", GRID, prefix=2), torch.randn(3, 2 + 35, C)
    attended = adapter(tokens)
    assert torch.equal(attended[:, :2], tokens[:, :2])
    torch.testing.assert_close(attended[:, 2:].mT.unflatten(2, (5, 7)), layer(tokens[:, 2:].mT.unflatten(2, (5, 7))))
    count = torch.export.Dim("count", min=4, max=90)
    exported = torch.export.export(adapter, (tokens,), dynamic_shapes=({1: count},)).module()
    for number in (24, 60):  # that of the grid, and another
        other = torch.randn(3, 2 + number, C)
        torch.testing.assert_close(exported(other), adapter(other))


@pytest.mark.parametrize(
    "layer",
    [
        lambda: AttentionPyramid(C, ("se", "rga_s"), levels=2, size=GRID),
        lambda: AttentionPyramid(C, "rga_s", levels=1, size=GRID),
        lambda: nn.Conv2d(C, C, 1),
    ],
    ids=["relations in a pyramid", "relations", "a foreign layer"],
)
def test_other_attention_refuses_another_number_of_tokens(layer: Callable[[], nn.Module]) -> None:
    with pytest.raises(ValueError, match="tokens must be") as caught:
        MapAdapter(layer(), "tokens", GRID)(torch.randn(2, 35, C))
    assert says(str(caught.value), "(N, 24, C)", "4x6", "(2, 35, 8)", "attachment.resize")
