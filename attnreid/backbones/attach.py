"""Put attention into a model by name, and take it out again without a trace."""

import dataclasses
import itertools
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Never, Self

import torch
from torch import Tensor, nn

from attnreid.backbones._building import build_layer, size_built_for
from attnreid.backbones._callers import users_frame
from attnreid.backbones._calls import Call, describe_call, with_sizes
from attnreid.backbones._costs import count_multiply_adds, count_parameters
from attnreid.backbones._resizing import resize_attached
from attnreid.backbones._site import Site
from attnreid.backbones._surgery import (
    CHILD,
    Group,
    Mark,
    Replacement,
    attention_of,
    guard,
    insert_after,
    insert_instead,
    mark_of,
    take_out,
    without_attention,
)
from attnreid.backbones.layouts import on_maps, shape_at
from attnreid.backbones.sites import InputSize, Layout, Survey, check_runs, check_stated, look, select, unread
from attnreid.blend import IdentityBlend
from attnreid.registry import Attention, find_builder, option_names
from attnreid.text import closest

Where = Literal["after", "instead"]


def attach(
    model: nn.Module,
    attention: Attention,
    at: str | Sequence[str],
    *,
    input_size: InputSize | None = None,
    where: Where = "after",
    identity_init: bool = False,
    example_inputs: Sequence[Tensor] | None = None,
    layout: Layout | None = None,
    grid: tuple[int, int] | None = None,
    prefix: int | None = None,
    output: int | str | None = None,
    **unknown: Never,
) -> "Attachment":
    """Put one fresh attention layer at every site that `at` names: all of them, or none.

    The layers stand on their site's device, in its dtype and its train or eval mode. The model's own names in
    `state_dict()` and `named_parameters()` stay; the attention's are `<site>.attention.*`. The plain model's
    weights can still be loaded with `strict=True`: a state dict without any attention's keys leaves all attention as
    it is, one with some must have those of every site. An `nn.Sequential` gets one more child, so its `len` and
    `[-1]` change.

    What is done to the model later keeps the attention, or raises: norms that are converted, here or in another
    place, take it along; a module that carries it cannot be replaced by another; a norm is not fused into a
    convolution past the attention between the two; eager quantisation (`fuse_modules`, `prepare` and `convert`) is
    refused at the modules that carry attention, and graph mode works. Not noticed are a norm that is fused by hand
    by writing into the weights of a convolution in its place, or into one with parametrizations, or that is fused
    from outside into the last convolution of a row with attention; and a new module that is made by hand of a
    module's tensors and never put in that module's place.

    Args:
        model: any module; changed in place.
        attention: a registered name, a layer class, or a callable `(channels)` or `(channels, *, size)` that
            returns a module which maps a map to a map of the same shape.
        at: dotted names or patterns: `*`, `?` and `[...]` stay inside one dotted segment, a segment `**`
            stands for any number of segments.
        input_size: (height, width) of an input with 3 channels, or (channels, height, width).
        where: "after" each module, or "instead" of it. A replaced module must keep its map's shape; its keys
            leave the state dict, and a checkpoint that still has them is loaded without them.
        identity_init: start with an attention that passes every finite map unchanged, blended in by one
            learnt scalar a layer that starts at 0.
        example_inputs: what forward takes, instead of `input_size`, where that is not one image batch.
        layout: "NCHW", "NHWC" or "tokens" states how the maps lie in what the modules return, where looking cannot
            tell. The attention sees (N, C, H, W) whatever it is, and the model gets its own layout back.
        grid: (rows, columns) states how the tokens of the map lie, row by row.
        prefix: states how many tokens (class, distillation, registers) stand in front. They pass as they are.
        output: index or key of the map in modules that return a tuple, a list or a mapping. The rest of it passes as it
            is.
        unknown: refused; a layer's own options go into a `functools.partial` of it.

    Returns:
        The handle that lists what was put in and takes it out again.

    Raises:
        TypeError: `attention` is not something that builds a layer, `at` is no name, or there is no such option.
        ValueError: a site is unknown, unfit or taken, the model does not run on this input, or the layer
            refuses or changes a map. The model is then as it was.

    Warns:
        UserWarning: the model reads the tokens in front alone of what a module returns, such as a class token after the
            last block: attention there does nothing.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU())
        >>> attachment = attach(model, "se", "1", input_size=(64, 32))
        >>> attachment.sites[0].channels
        16
        >>> attachment.remove()
    """
    who = "attach"
    _check_options(who, attention, unknown)
    _check_names(who, model, at)
    if where not in ("after", "instead"):
        raise ValueError(f"{who}: where must be 'after' or 'instead', got {where!r}.")
    if where == "instead" and identity_init:
        raise ValueError(
            f"{who}: identity_init must stay False with where='instead', since the replaced module's "
            "output is gone; use where='after' to start from the model as it is."
        )
    stated = check_stated(who, layout, grid, prefix, output)
    if where == "instead" and output is not None:
        raise ValueError(
            f"{who}: output must be left out with where='instead', since a module that is replaced gives one map; "
            "use where='after'."
        )
    survey = look(who, model, input_size, example_inputs, stated)
    sites = select(who, model, survey, at)
    if where == "instead":
        for site in sites:
            _check_replaceable(who, site, survey)
    places = [Place(site, where) for site in sites]
    call = describe_call(
        "attach",
        attention=attention,
        at=[site.name for site in sites],
        input_size=input_size,
        where=where,
        identity_init=identity_init,
        **vars(stated),
    )
    if example_inputs is not None:
        call = None  # tensors are no plain data
    return put_in(who, model, attention, places, survey, call, identity_init=identity_init)


def _check_options(who: str, attention: Attention, unknown: Mapping[str, object]) -> None:
    for name, value in unknown.items():
        builder = find_builder(who, attention)
        of_layer = option_names(builder)
        if name in of_layer:
            layer = getattr(builder, "__name__", type(builder).__name__)
            raise TypeError(
                f"{who}: {name} is an option of the layer, got {name}={value!r}; give the layer with it, as "
                f"functools.partial({layer}, {name}={value!r})."
            )
        known = {*option_names(attach), *of_layer} - {"unknown", "channels"}  # type: ignore[arg-type]
        raise TypeError(f"{who}: there is no option {name!r}: {closest(name, sorted(known))}")


def _check_names(who: str, model: nn.Module, at: object) -> None:
    several = isinstance(at, Iterable) and not isinstance(at, str | nn.Module)
    for each in at if several else [at]:  # type: ignore[attr-defined]
        if not isinstance(each, str):
            places = [name for name, module in model.named_modules() if module is each]
            found = f"the module at {places[0]!r}; pass that name" if places else f"{type(each).__name__}; pass a name"
            raise TypeError(f"{who}: at must be a dotted name or pattern, or several, got {found}.")


def attachments(model: nn.Module) -> list["Attachment"]:
    """Return a handle for everything that is attached to `model`, in the order of attaching.

    Works on a deep copy and on an unpickled model too: their handles act on them and not on the original.

    Args:
        model: any module.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU())
        >>> _ = attach(model, "se", "1", input_size=(64, 32))
        >>> for attachment in attachments(model):
        ...     attachment.remove()
        >>> attachments(model)
        []
    """
    groups: dict[Group, list[_Inserted]] = {}
    for name, host in model.named_modules():
        mark = mark_of(host)
        if mark is not None:
            parent_name, _, child = name.rpartition(".")
            parent = model.get_submodule(parent_name) if name else None
            groups.setdefault(mark.group, []).append(_Inserted(name, host, attention_of(host), mark, parent, child))
    return [Attachment(groups[group], model) for group in sorted(groups, key=lambda group: group.order)]


@dataclass(frozen=True)
class Place:
    """Where one layer goes.

    Args:
        site: what the attention sees there.
        where: after the module or instead of it.
        stride: what the attention must divide the map's size by, as the module that it replaces did.
        attention: what to build here, where that is another than at the other places.
    """

    site: Site
    where: Where
    stride: int = 1
    attention: Attention | None = None


@dataclass(frozen=True)
class _Inserted:
    name: str
    first_host: nn.Module
    first_attention: nn.Module
    mark: Mark
    parent: nn.Module | None
    child: str

    @property
    def site(self) -> Site:
        """What the attention sees, as last measured."""
        return dataclasses.replace(self.mark.site, name=self.name)

    @property
    def host(self) -> nn.Module:
        """The module that carries the attention: what the first one was converted to, where it was."""
        return self.mark.host or self.first_host

    @property
    def attention(self) -> nn.Module:
        """The attention that it carries, or carried until it was taken out."""
        return attention_of(self.host) if mark_of(self.host) is self.mark else self.first_attention

    @property
    def prefix(self) -> str:
        return f"{self.name}.{CHILD}."

    @property
    def root(self) -> str | None:
        """The module that `attach` was called for, within the model of this handle; None if that is larger."""
        root = f".{self.name}".removesuffix(f".{self.mark.site.name}")
        return None if root == f".{self.name}" else root[1:]

    def costs(self) -> tuple[int, int | None]:
        """Return the parameters and the multiply-adds of one image that this adds; None where it cannot be run."""
        shape = shape_at(self.site)
        parameters, operations = count_parameters(self.attention), count_multiply_adds(self.attention, *shape)
        if isinstance(self.host, Replacement):
            replaced = count_multiply_adds(self.host.replaced, *shape)
            parameters -= count_parameters(self.host.replaced)
            operations = None if operations is None or replaced is None else operations - replaced
        return parameters, operations


class Attachment:
    """What one `attach` call put into a model: lists it, hands out its parameters, and takes it out again.

    Also a context manager that takes the attention out at the end. `str()` is a table.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU())
        >>> with attach(model, "se", "1", input_size=(64, 32)) as attachment:
        ...     sorted(attachment.state_dict()) == sorted(set(model.state_dict()) - {"0.weight", "0.bias"})
        True
    """

    def __init__(self, inserted: Sequence[_Inserted], model: nn.Module) -> None:
        self._inserted = tuple(inserted)
        self._model = model

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites, as measured before the attention was put in, or when it was resized."""
        return tuple(one.site for one in self._inserted)

    @property
    def call(self) -> Call | None:
        """The call that put this in, as plain data `{"on", "name", "options"}`: what a checkpoint holds.

        "on" names the module that the call was made for, "" for the model itself. After `resize` the options have
        the new input size, and "made_for" the sizes of the maps that the layers were made for. None where the call
        cannot be written down: its attention is no registered one (give your class a name by
        `register_attention`), an option is no plain data, or it was made for a larger model around this one.
        """
        call = self._inserted[0].mark.group.call
        return None if call is None or self._root is None else {"on": self._root, **call}

    @property
    def _root(self) -> str | None:
        """The module that the call was made for, within this handle's model; None where that is larger."""
        roots = {one.root for one in self._inserted}
        return roots.pop() if len(roots) == 1 else None

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield the attention's parameters, for an optimiser."""
        return itertools.chain.from_iterable(one.attention.parameters() for one in self._inserted)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the attention's part of the model's state dict, under the same keys."""
        return {one.prefix + key: value for one in self._inserted for key, value in one.attention.state_dict().items()}

    def load_state_dict(self, state_dict: dict[str, Tensor]) -> None:
        """Load what `state_dict` returned, here or on another model with the same attention.

        Args:
            state_dict: exactly the attention's keys, with tensors of the attention's shapes.

        Raises:
            ValueError: a key is missing or too many, or a shape differs; nothing is loaded then.
        """
        own = self.state_dict()
        wrong = sorted(own.keys() ^ state_dict.keys())
        if wrong:
            raise ValueError(
                f"Attachment.load_state_dict: the keys must be this attention's {len(own)}, got "
                f"{len(state_dict)}; {len(wrong)} do not fit, first {wrong[0]!r}. Load a whole model's "
                "weights with the model."
            )
        for key, value in own.items():
            if value.shape != state_dict[key].shape:
                raise ValueError(
                    f"Attachment.load_state_dict: {key!r} must have shape {tuple(value.shape)}, got "
                    f"{tuple(state_dict[key].shape)}; attach the attention that the weights were saved from."
                )
        for one in self._inserted:
            one.attention.load_state_dict({key: state_dict[one.prefix + key] for key in one.attention.state_dict()})

    def places_by_module(self) -> dict[int, tuple[str, str]]:
        """Return the site's name, and the name inside the site's attention, for the id of every module in it."""
        places = {}
        for one in self._inserted:
            inside = on_maps(one.attention)
            inside = inside.layer if isinstance(inside, IdentityBlend) else inside
            places.update({id(module): (one.site.name, name) for name, module in inside.named_modules()})
        return places

    def resize(self, input_size: InputSize | None = None, *, example_inputs: Sequence[Tensor] | None = None) -> None:
        """Adapt the attention to another input size, all of it or none.

        The model is looked at anew, as before attaching, and each layer is replaced by a copy for the map that is there
        now: head-level attention has its position tables interpolated, relation-aware attention its weights over
        positions (their `resize` says what that preserves), and what does not depend on the size is equal. The hidden
        widths stay as they were made. A layer of one's own takes part by a method `resize(size)` that returns a copy.

        The modules that carry the attention stay, and so do keys, `requires_grad`, dtype, device, train or eval mode,
        and all handles. The parameters are new objects: make the optimiser anew. Hooks on the attention come along as
        `copy.deepcopy` copies them; the handles that torch returned for them remove the old ones only. A checkpoint
        that is saved afterwards has both sizes, and a model with several attachments runs at the new size when each is
        resized.

        Args:
            input_size: (height, width) of an input with 3 channels, or (channels, height, width), of the module
                that `attach` was called for.
            example_inputs: what its forward takes, instead of `input_size`; the call cannot be written down then.

        Raises:
            TypeError: a layer's `resize` returns no module.
            ValueError: the attention was taken out, the model does not run on this input, a layer cannot be resized
                or refuses its map. The model is then as it was.

        Example:
            >>> from torch import nn
            >>> model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU())
            >>> attachment = attach(model, "rga_s", "1", input_size=(16, 8))
            >>> attachment.resize((24, 12))
            >>> model.eval()(torch.rand(2, 3, 24, 12)).shape
            torch.Size([2, 16, 24, 12])
        """
        group = self._inserted[0].mark.group
        present = [one for one in attachments(self._model) if one._inserted[0].mark.group is group]
        if not present:
            raise ValueError(
                "Attachment.resize: the attention must be in the model, got it taken out; attach it at this input size."
            )
        [now] = present  # which has all places of a module that was converted in each
        root = now._root or ""
        hosts = {one.name.removeprefix(f"{root}." if root else ""): one.host for one in now._inserted}
        resize_attached(self._model.get_submodule(root), hosts, input_size, example_inputs)
        self._inserted = tuple(dataclasses.replace(one, first_attention=one.attention) for one in now._inserted)

    def remove(self) -> None:
        """Give the model back as it was: the same module objects, names and outputs. Harmless twice.

        What else became of a module since stays: a converted norm, a parametrization, a class of `fully_shard`.

        Raises:
            ValueError: a module's class was changed since in a way that the attention cannot be taken out of.
                Nothing is taken out then.
        """
        present = [one for one in reversed(self._inserted) if mark_of(one.host) is one.mark]
        hosts = [one.host for one in present]
        marks = [one.mark for one in self._inserted]
        # A module that had two places was converted in each: there are two now.
        others = [host for host in self._model.modules() if mark_of(host) in marks and host not in hosts]
        for host in [*hosts, *others]:
            without_attention(host)
        for one in present:
            take_out(one.host, one.parent, one.child)
        for host in others:
            take_out(host, None, "")
        guard(self._model)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.remove()

    def __str__(self) -> str:
        """Return a table: for every site the layer, the map, and the parameters and multiply-adds it adds to an image.

        What replaces a module adds the difference. The counting rule is that of `count_multiply_adds`.
        """
        rows: list[tuple[str, ...]] = [("site", "layer", "map size", "parameters", "multiply-adds")]
        totals: list[int | None] = [0, 0]
        for one in self._inserted:
            added = one.costs()
            totals = [
                None if sum_ is None or cost is None else sum_ + cost for sum_, cost in zip(totals, added, strict=True)
            ]
            size = f"{one.site.channels} x {' x '.join(str(side) for side in one.site.size or ())}"
            rows.append((one.site.name, _layer_name(one.attention), size, *map(_signed, added)))
        rows.append(("total", "", "", *map(_signed, totals)))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        align = (str.ljust, str.ljust, str.ljust, str.rjust, str.rjust)
        return "\n".join(
            "  ".join(pad(cell, width) for pad, cell, width in zip(align, row, widths, strict=True)) for row in rows
        )

    def __repr__(self) -> str:
        return f"<Attachment at {', '.join(site.name for site in self.sites)}>"


def put_in(
    who: str,
    model: nn.Module,
    attention: Attention,
    places: Sequence[Place],
    survey: Survey,
    call: Call | None,
    *,
    identity_init: bool = False,
) -> Attachment:
    """Build one layer for each place, put them all in and check that each runs; or change nothing."""
    layers: list[nn.Module] = []
    taken = {id(module) for module in model.modules()}
    for place in places:
        _check_free(who, model, place)
        builder = attention if place.attention is None else place.attention
        layer = build_layer(who, builder, place.site, _like(model, place.site.name), identity_init)
        parts = {id(module) for module in layer.modules()}
        if parts & taken:
            raise ValueError(
                f"{who}: attention must build a fresh layer for every site, got one that is in use for "
                f"{place.site.name!r}; build the layer inside the callable."
            )
        taken |= parts
        layers.append(layer.train(model.get_submodule(place.site.name).training))
    attachment = Attachment((), model)
    try:
        sites = [place.site for place in places]
        group = Group(with_sizes(call, {s.name: size_built_for(s) for s in sites}, {s.name: s.size for s in sites}))
        for place, layer in zip(places, layers, strict=True):
            inserted = _insert(model, layer, place, Mark(group, place.site))
            attachment = Attachment((*attachment._inserted, inserted), model)
        guard(model)
        _check_running(who, model, attachment, survey)
        _warn_of_unread(who, unread(model, survey, attachment.sites))
    except BaseException:
        attachment.remove()
        raise
    return attachment


def _insert(model: nn.Module, layer: nn.Module, place: Place, mark: Mark) -> _Inserted:
    parent_name, _, child = place.site.name.rpartition(".")
    parent = model.get_submodule(parent_name)
    host = parent.get_submodule(child)
    if place.where == "instead":
        host = insert_instead(parent, child, layer, mark, place.stride)
    else:
        insert_after(host, layer, mark)
    return _Inserted(place.site.name, host, layer, mark, parent, child)


class EscapesError(ValueError):
    """At this site attention would not run once in a forward pass."""

    def __init__(self, message: str, site: Site) -> None:
        super().__init__(message)
        self.site = site


def _check_running(who: str, model: nn.Module, attachment: Attachment, survey: Survey) -> None:
    """Refuse modules that escape: a forward that loops over all children, or one set on the object."""
    watched = check_runs(model, survey)
    if watched.error is not None:
        raise ValueError(
            f"{who}: the model must run with the attention in it; it failed with: {watched.error}; "
            "choose other sites, with find_sites(model, ...)."
        ) from watched.error
    for site in attachment.sites:
        calls = watched.seen[f"{site.name}.{CHILD}"].calls
        if calls != 1:
            raise EscapesError(
                f"{who}: the attention at {site.name!r} ({site.kind}) must run once in a forward pass, and "
                f"it ran {calls} times, since that module's forward is an unusual one; choose a module "
                "inside or around it.",
                site,
            )


def _warn_of_unread(who: str, sites: Sequence[Site]) -> None:
    if sites:
        names = ", ".join(repr(site.name) for site in sites)
        warnings.warn(
            f"{who}: the model reads only the {sites[0].prefix} token(s) in front of what {names} returns, so that the "
            "attention there changes nothing and does not learn; have the model pool its patch tokens, or choose an "
            "earlier block.",
            stacklevel=users_frame(),
        )


def _check_replaceable(who: str, site: Site, survey: Survey) -> None:
    taken, given = survey.seen[site.name].taken, survey.seen[site.name].given
    if taken != given:
        raise ValueError(
            f"{who}: a module to be replaced must keep the shape of its map; {site.name!r} ({site.kind}) "
            f"takes {taken} and gives {given}. Choose one with equal channels and stride 1, or where='after'."
        )


def _check_free(who: str, model: nn.Module, place: Place) -> None:
    host = model.get_submodule(place.site.name)
    if place.where == "after" and hasattr(host, CHILD):
        raise ValueError(
            f"{who}: a site must have no attribute named {CHILD!r} of its own; {place.site.name!r} "
            f"({place.site.kind}) has one. Choose a module inside or around it."
        )


def _like(model: nn.Module, name: str) -> Tensor:
    """Return a floating-point tensor of the module, or else of the nearest module around it that has one."""
    while True:
        module = model.get_submodule(name)
        for tensor in itertools.chain(module.parameters(), module.buffers()):
            if tensor.is_floating_point():
                return tensor
        if not name:
            return torch.empty(0)
        name = name.rpartition(".")[0]


def _signed(cost: int | None) -> str:
    return "?" if cost is None else f"{cost:+,}"


def _layer_name(attention: nn.Module) -> str:
    attention = on_maps(attention)
    if isinstance(attention, IdentityBlend):
        return f"{type(attention.layer).__name__} (blended in)"
    return type(attention).__name__
