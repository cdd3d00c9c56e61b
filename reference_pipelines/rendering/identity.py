"""Who is drawn: everything about a person that stays the same from image to image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from reference_pipelines.rendering.palette import ACCESSORY, HAIR, LOWER, RGB, SHOES, SKIN, UPPER, pick
from reference_pipelines.rendering.seeding import Domain, check_domain, check_seed, generator

HairStyle = Literal["bald", "short", "bob", "long", "ponytail", "bun"]
Pattern = Literal["plain", "stripes", "pinstripes", "check", "two_tone", "logo", "band"]
Sleeve = Literal["none", "short", "long"]
Hem = Literal["waist", "hip", "coat"]
LowerKind = Literal["trousers", "shorts", "skirt", "long_skirt"]
BagKind = Literal["none", "backpack", "handbag", "messenger", "tote"]
HatKind = Literal["none", "cap", "beanie", "sunhat"]
UmbrellaKind = Literal["none", "folded", "open"]

_T = TypeVar("_T", bound=str)


@dataclass(frozen=True, slots=True)
class Build:
    """A body; all fields are factors around 1."""

    height: float
    shoulders: float
    hips: float
    limbs: float
    legs: float
    head: float


@dataclass(frozen=True, slots=True)
class Head:
    """Skin, hair and face."""

    skin: RGB
    hair: RGB
    style: HairStyle
    beard: bool
    glasses: bool


@dataclass(frozen=True, slots=True)
class Upper:
    """The upper garment; `inner` is the shirt seen under an open one, None if closed."""

    colour: RGB
    second: RGB
    pattern: Pattern
    repeats: int
    sleeve: Sleeve
    hem: Hem
    inner: RGB | None
    hood: bool
    scarf: RGB | None


@dataclass(frozen=True, slots=True)
class Lower:
    """The lower garment and the shoes; `width` is a factor, `side_stripe` a line down the leg or None."""

    colour: RGB
    kind: LowerKind
    width: float
    side_stripe: RGB | None
    tights: RGB | None
    shoes: RGB
    soles: RGB
    boots: bool


@dataclass(frozen=True, slots=True)
class Carried:
    """What the person wears on the head and carries; `side` is -1 or 1."""

    bag: BagKind
    bag_colour: RGB
    side: int
    hat: HatKind
    hat_colour: RGB
    umbrella: UmbrellaKind
    umbrella_colour: RGB


@dataclass(frozen=True, slots=True)
class Identity:
    """One person, as sampled once by `sample_identity`."""

    number: int
    build: Build
    head: Head
    upper: Upper
    lower: Lower
    carried: Carried


def _choose(rng: np.random.Generator, options: dict[_T, float]) -> _T:
    weights = np.array(list(options.values()))
    return list(options)[int(rng.choice(len(options), p=weights / weights.sum()))]


def _factor(rng: np.random.Generator, spread: float) -> float:
    return float(np.clip(rng.normal(1.0, spread), 1.0 - 2.2 * spread, 1.0 + 2.2 * spread))


def _build(rng: np.random.Generator) -> Build:
    return Build(
        height=_factor(rng, 0.045),
        shoulders=_factor(rng, 0.10),
        hips=_factor(rng, 0.09),
        limbs=_factor(rng, 0.11),
        legs=_factor(rng, 0.035),
        head=_factor(rng, 0.06),
    )


def _head(rng: np.random.Generator) -> Head:
    styles: dict[HairStyle, float] = {
        "bald": 0.5,
        "short": 4.0,
        "bob": 1.3,
        "long": 1.8,
        "ponytail": 1.1,
        "bun": 0.7,
    }
    style = _choose(rng, styles)
    return Head(
        skin=pick(rng, SKIN, jitter=4.0),
        hair=pick(rng, HAIR, jitter=5.0),
        style=style,
        beard=style in ("bald", "short") and bool(rng.random() < 0.22),
        glasses=bool(rng.random() < 0.2),
    )


def _upper(rng: np.random.Generator, domain: Domain) -> Upper:
    patterns: dict[Pattern, float] = {
        "plain": 3.4,
        "stripes": 1.4,
        "pinstripes": 0.7,
        "check": 0.9,
        "two_tone": 1.1,
        "logo": 1.6,
        "band": 0.8,
    }
    sleeves: dict[Sleeve, float] = (
        {"none": 0.5, "short": 4.0, "long": 3.0} if domain == "plaza" else {"none": 0.1, "short": 1.5, "long": 5.0}
    )
    hems: dict[Hem, float] = (
        {"waist": 4.0, "hip": 3.0, "coat": 0.4} if domain == "plaza" else {"waist": 2.5, "hip": 3.0, "coat": 1.6}
    )
    hem = _choose(rng, hems)
    sleeve: Sleeve = "long" if hem == "coat" else _choose(rng, sleeves)
    open_front = sleeve == "long" and rng.random() < 0.35
    return Upper(
        colour=pick(rng, UPPER[domain]),
        second=pick(rng, UPPER[domain]),
        pattern=_choose(rng, patterns),
        repeats=int(rng.integers(3, 8)),
        sleeve=sleeve,
        hem=hem,
        inner=pick(rng, UPPER[domain]) if open_front else None,
        hood=sleeve == "long" and bool(rng.random() < 0.25),
        scarf=pick(rng, ACCESSORY) if rng.random() < (0.06 if domain == "plaza" else 0.2) else None,
    )


def _lower(rng: np.random.Generator, domain: Domain) -> Lower:
    kinds: dict[LowerKind, float] = (
        {"trousers": 5.0, "shorts": 2.4, "skirt": 1.4, "long_skirt": 0.5}
        if domain == "plaza"
        else {"trousers": 6.0, "shorts": 0.5, "skirt": 1.3, "long_skirt": 0.7}
    )
    kind = _choose(rng, kinds)
    return Lower(
        colour=pick(rng, LOWER[domain]),
        kind=kind,
        width=_factor(rng, 0.13),
        side_stripe=pick(rng, ACCESSORY) if kind in ("trousers", "shorts") and rng.random() < 0.14 else None,
        tights=pick(rng, LOWER[domain]) if kind == "skirt" and rng.random() < 0.35 else None,
        shoes=pick(rng, SHOES),
        soles=pick(rng, SHOES),
        boots=bool(rng.random() < (0.08 if domain == "plaza" else 0.25)),
    )


def _carried(rng: np.random.Generator) -> Carried:
    bags: dict[BagKind, float] = {
        "none": 4.0,
        "backpack": 2.8,
        "handbag": 1.4,
        "messenger": 1.3,
        "tote": 0.9,
    }
    hats: dict[HatKind, float] = {"none": 8.0, "cap": 1.2, "beanie": 0.6, "sunhat": 0.4}
    umbrellas: dict[UmbrellaKind, float] = {"none": 10.0, "folded": 0.5, "open": 0.35}
    return Carried(
        bag=_choose(rng, bags),
        bag_colour=pick(rng, ACCESSORY),
        side=int(rng.choice((-1, 1))),
        hat=_choose(rng, hats),
        hat_colour=pick(rng, ACCESSORY),
        umbrella=_choose(rng, umbrellas),
        umbrella_colour=pick(rng, ACCESSORY),
    )


def sample_identity(number: int, *, domain: Domain = "plaza", seed: int = 0) -> Identity:
    """The person with this number; the same arguments give the same person.

    Args:
        number: Which person, at least 0.
        domain: "plaza" or "mall": other people in other clothes.
        seed: The data set's seed, at least 0.

    Raises:
        ValueError: The domain is unknown, or the number or the seed is below 0.

    >>> sample_identity(7) == sample_identity(7)
    True
    """
    check_domain(domain)
    check_seed(seed)
    if number < 0:
        raise ValueError(f"sample_identity: the number must be >= 0, got {number}; count people from 0.")
    rng = generator(seed, domain, "identity", number)
    return Identity(
        number=number,
        build=_build(rng),
        head=_head(rng),
        upper=_upper(rng, domain),
        lower=_lower(rng, domain),
        carried=_carried(rng),
    )
