"""The colours of people and their clothes, as data: (red, green, blue) in 0..255, and how often.

Lower garments are mostly dark or neutral and upper garments share a dozen colours, so that two people
often wear the same colours and are told apart by pattern, cut and what they carry.
"""

from __future__ import annotations

import numpy as np

RGB = tuple[int, int, int]
Weighted = tuple[tuple[RGB, float], ...]

BLACK: RGB = (34, 34, 38)
WHITE: RGB = (232, 232, 228)
GREY: RGB = (128, 130, 134)
CHARCOAL: RGB = (66, 68, 74)
NAVY: RGB = (38, 48, 88)
DENIM: RGB = (72, 96, 138)
PALE_DENIM: RGB = (132, 156, 186)
KHAKI: RGB = (168, 148, 112)
BROWN: RGB = (98, 70, 50)
BEIGE: RGB = (206, 190, 160)
RED: RGB = (186, 42, 46)
MAROON: RGB = (106, 34, 50)
PINK: RGB = (226, 148, 168)
ORANGE: RGB = (222, 122, 48)
YELLOW: RGB = (226, 196, 76)
GREEN: RGB = (62, 124, 76)
OLIVE: RGB = (98, 102, 62)
TEAL: RGB = (44, 128, 134)
SKY: RGB = (120, 172, 214)
BLUE: RGB = (48, 84, 172)
PURPLE: RGB = (108, 72, 138)

SKIN: Weighted = (
    ((226, 186, 160), 3.0),
    ((210, 164, 130), 3.0),
    ((184, 134, 98), 2.0),
    ((142, 96, 68), 1.5),
    ((94, 64, 48), 1.5),
)
HAIR: Weighted = (
    ((28, 24, 24), 5.0),
    ((62, 42, 30), 3.0),
    ((104, 70, 42), 2.0),
    ((186, 148, 88), 1.2),
    ((150, 68, 38), 0.5),
    ((168, 166, 164), 0.8),
)
UPPER: dict[str, Weighted] = {
    "plaza": (
        (BLACK, 3.0),
        (WHITE, 3.0),
        (GREY, 2.0),
        (NAVY, 2.0),
        (SKY, 1.0),
        (RED, 1.3),
        (GREEN, 1.0),
        (YELLOW, 0.8),
        (PINK, 1.0),
        (BLUE, 1.2),
        (ORANGE, 0.6),
        (PURPLE, 0.7),
        (BEIGE, 1.0),
        (TEAL, 0.8),
    ),
    "mall": (
        (BLACK, 4.0),
        (CHARCOAL, 2.5),
        (GREY, 2.0),
        (WHITE, 1.5),
        (BEIGE, 1.5),
        (BROWN, 1.5),
        (MAROON, 1.3),
        (OLIVE, 1.3),
        (NAVY, 1.5),
        (RED, 0.8),
        (TEAL, 0.6),
        (PINK, 0.6),
        (PURPLE, 0.6),
    ),
}
LOWER: dict[str, Weighted] = {
    "plaza": (
        (BLACK, 3.0),
        (NAVY, 2.0),
        (DENIM, 2.5),
        (PALE_DENIM, 1.2),
        (GREY, 1.2),
        (KHAKI, 1.2),
        (WHITE, 0.5),
        (RED, 0.2),
        (OLIVE, 0.5),
    ),
    "mall": (
        (BLACK, 4.0),
        (CHARCOAL, 2.0),
        (NAVY, 2.0),
        (DENIM, 2.0),
        (BROWN, 1.0),
        (KHAKI, 0.8),
        (MAROON, 0.3),
        (BEIGE, 0.5),
    ),
}
ACCESSORY: Weighted = (
    (BLACK, 4.0),
    (CHARCOAL, 1.5),
    (BROWN, 1.5),
    (NAVY, 1.2),
    (RED, 1.0),
    (BLUE, 0.8),
    (GREEN, 0.7),
    (YELLOW, 0.5),
    (PINK, 0.7),
    (WHITE, 0.8),
    (BEIGE, 0.8),
    (ORANGE, 0.4),
)
SHOES: Weighted = (
    (BLACK, 4.0),
    (WHITE, 2.5),
    (BROWN, 1.5),
    (GREY, 1.0),
    (RED, 0.6),
    (BLUE, 0.5),
    (BEIGE, 0.6),
)


def pick(rng: np.random.Generator, colours: Weighted, *, jitter: float = 7.0) -> RGB:
    """Draw one colour by weight, moved by a little noise so that no two garments are quite alike."""
    weights = np.array([weight for _, weight in colours])
    colour = colours[int(rng.choice(len(colours), p=weights / weights.sum()))][0]
    moved = np.asarray(colour) + rng.normal(0.0, jitter, 3) + rng.normal(0.0, jitter)
    red, green, blue = np.clip(np.rint(moved), 0, 255).astype(int).tolist()
    return red, green, blue


def shade(colour: RGB, factor: float) -> RGB:
    """The colour times a factor of at least 0, clipped to 255."""
    red, green, blue = colour
    return min(255, int(red * factor)), min(255, int(green * factor)), min(255, int(blue * factor))


def mix(first: RGB, second: RGB, part: float) -> RGB:
    """The colour that lies `part` (0..1) of the way from the first to the second."""
    red, green, blue = (int(a + (b - a) * part) for a, b in zip(first, second, strict=True))
    return red, green, blue


def tint(hue: float, strength: float) -> tuple[float, float, float]:
    """Factors of red, green and blue that colour a picture: a hue in radians and a strength, 0 for none."""
    red, green, blue = (float(np.exp(strength * np.cos(hue - offset))) for offset in np.deg2rad((0.0, 120.0, 240.0)))
    return red, green, blue
