"""What attention is put into a backbone, and where; both papers' are values of it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from reference_pipelines.errors import require

Preset = Literal["none", "apnet", "pyramid", "se", "mla", "sites"]

# The keys that each preset reads; any other must be left at its default, since it would change nothing.
_PYRAMID = ("layer", "levels", "radix", "order", "hidden", "identity_init")
READ: dict[str, tuple[str, ...]] = {
    "none": (),
    "apnet": (*_PYRAMID, "variant"),
    "pyramid": (*_PYRAMID, "stages"),
    "se": ("reduction",),
    "mla": ("parts", "blocks", "heads", "memory", "where", "identity_init"),
    "sites": (*_PYRAMID, "at", "where"),
}


@dataclass(frozen=True)
class AttentionConfig:
    """Attention in the backbone.

    Args:
        preset: "apnet", a pyramid after each of the four stages; "pyramid", one at the end of every stage or of some;
            "se", in every residual block; "mla", at the 3x3 convolutions of a ResNet's last stage; "sites", at the
            modules that attention.at names; or "none".
        layer: registered name, or one for each level, of apnet, pyramid and sites: se is APNet-C, rga_s is APNet-S.
        levels: of the pyramid; with sites, 1 is the layer without a pyramid.
        radix: parts at level i are radix ** (i - 1); 1 stacks unsplit attention.
        order: which level is applied first.
        hidden: hidden units of each part of SE, instead of a sixteenth of its channels.
        identity_init: start as the backbone without attention, bit by bit.
        variant: "released" is the network of APNet's released code.
        stages: of pyramid, counted from 1; all when empty.
        at: of sites, names or patterns of modules.
        where: "after" a module or "instead" of it; by itself, mla is instead and sites are after.
        reduction: of preset se, its channels divided by its hidden units.
        parts: of mla, any of "pixel", "head" and "domain", in this order.
        blocks: of mla, all blocks of the last stage, or its last one.
        heads: of mla's head level.
        memory: slots of mla's domain level.
    """

    preset: Preset = "none"
    layer: tuple[str, ...] = ("se",)
    levels: int = 2
    radix: int = 2
    order: Literal["coarse_to_fine", "fine_to_coarse"] = "coarse_to_fine"
    hidden: int | None = None
    identity_init: bool = False
    variant: Literal["paper", "released"] = "paper"
    stages: tuple[int, ...] = ()
    at: tuple[str, ...] = ()
    where: Literal["after", "instead"] | None = None
    reduction: int = 16
    parts: tuple[Literal["pixel", "head", "domain"], ...] = ("pixel", "head", "domain")
    blocks: Literal["all", "last"] = "all"
    heads: int = 4
    memory: int = 64

    def __post_init__(self) -> None:
        if self.preset == "none":
            return
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            readers = " and ".join(preset for preset in READ if field.name in READ[preset])
            require(
                field.name in READ[self.preset] or value == field.default,
                f"attention.{field.name} must stay {field.default} with attention.preset {self.preset}, since it is "
                f"for {readers}",
                value,
            )
        require(len(self.layer) > 0, "attention.layer must name a layer", self.layer)
        require(
            len(self.layer) in (1, self.levels),
            "attention.layer must be one name, or one for each of the attention.levels",
            self.layer,
        )
        require(self.levels >= 1, "attention.levels must be at least 1 (none is attention.preset none)", self.levels)
        require(
            self.hidden is None or (self.hidden >= 1 and "se" in self.layer),
            "attention.hidden must be at least 1 and is for a layer se",
            self.hidden,
        )
        require(
            (self.preset == "sites") == (len(self.at) > 0),
            "attention.at must name modules with attention.preset sites",
            self.at,
        )
        require(
            self.preset != "mla" or len(self.parts) > 0,
            "attention.parts must name a part (none is attention.preset none)",
            self.parts,
        )
        instead = self.place == "instead" and self.preset in ("mla", "sites")
        require(
            not (self.identity_init and instead),
            "attention.identity_init must be false where attention stands instead of a module; set attention.where "
            "after",
            self.identity_init,
        )
        require(
            self.variant == "paper"
            or (self.layer, self.radix, self.order, self.hidden, self.identity_init)
            == (("se",), 2, "coarse_to_fine", None, False),
            "attention.variant released has its own layers and order: leave layer, radix, order, hidden and "
            "identity_init out",
            self.variant,
        )

    @property
    def place(self) -> Literal["after", "instead"]:
        """Where attention stands at a module."""
        return self.where or ("instead" if self.preset == "mla" else "after")


def modern(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config's values by dotted key, with the attention of a run of before as one writes it today."""
    kind, levels = values.get("attention.kind"), values.get("attention.levels")
    rest = {key: value for key, value in values.items() if not key.startswith("attention.")}
    if isinstance(kind, str):
        pyramid = {"attention.preset": "apnet", "attention.layer": [kind]}
        kept = {key: values[key] for key in ("attention.levels", "attention.radix") if key in values}
        return {**rest, "attention.preset": "none"} if kind == "none" else {**rest, **pyramid, **kept}
    if isinstance(levels, list | tuple):
        kept = {
            f"attention.{key}": values[f"attention.{key}"]
            for key in ("blocks", "heads", "memory")
            if f"attention.{key}" in values
        }
        mla = {"attention.preset": "mla", "attention.parts": list(levels), **kept}
        return {**rest, **mla} if levels else {**rest, "attention.preset": "none"}
    return dict(values)
