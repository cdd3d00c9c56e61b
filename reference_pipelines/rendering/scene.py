"""What a camera sees without people: a wide background from which every image is cut.

A scene spans `SCENE_WIDTH` by `SCENE_HEIGHT` body units at `SCENE_UNIT` pixels each; people stand on the
line `FEET_LINE` below its upper edge. It is drawn once per camera and process.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from reference_pipelines.rendering.camera import Camera
from reference_pipelines.rendering.palette import RGB, mix, shade, tint

SCENE_UNIT = 150
SCENE_WIDTH = 6.0
SCENE_HEIGHT = 1.9
FEET_LINE = 1.42

_W, _H = int(SCENE_WIDTH * SCENE_UNIT), int(SCENE_HEIGHT * SCENE_UNIT)
_PAINT = 0.12  # strength of a place's own colour, as `tint` has it
_STONES: tuple[RGB, ...] = (
    (168, 162, 152),
    (142, 140, 138),
    (182, 160, 134),
    (120, 118, 122),
    (196, 190, 180),
)
_WALLS: tuple[RGB, ...] = (
    (164, 112, 86),
    (196, 184, 164),
    (122, 126, 134),
    (206, 200, 190),
    (146, 136, 112),
    (92, 100, 112),
)
_SIGNS: tuple[RGB, ...] = (
    (196, 60, 56),
    (56, 108, 176),
    (226, 190, 70),
    (70, 150, 100),
    (230, 226, 220),
    (150, 80, 150),
)


def _some(rng: np.random.Generator, colours: tuple[RGB, ...]) -> RGB:
    base = np.asarray(colours[int(rng.integers(len(colours)))]) + rng.normal(0, 8, 3)
    red, green, blue = np.clip(base, 0, 255).astype(int).tolist()
    return red, green, blue


def _texture(rng: np.random.Generator, scale: int, strength: float, top: int, image: Image.Image) -> Image.Image:
    """Lay smooth noise with grains of `scale` pixels over everything below `top`."""
    rows, columns = -(-_H // scale) + 1, -(-_W // scale) + 1
    grain = Image.fromarray(rng.normal(0, strength, (rows, columns)).astype(np.float32))
    field = np.array(grain.resize((_W, _H), Image.Resampling.BICUBIC))[..., None]
    field[:top] *= 0.35
    return Image.fromarray(np.clip(np.asarray(image, dtype=np.float32) + field, 0, 255).astype(np.uint8))


def _perspective_tiles(
    draw: ImageDraw.ImageDraw, rng: np.random.Generator, base: int, colour: RGB, *, columns: bool
) -> None:
    horizon = base - int(rng.integers(30, 90))
    vanish = float(rng.uniform(0.2, 0.8)) * _W
    for step in range(1, 40):
        y = horizon + (base - horizon) * (1 + 0.22 * step)
        if y > _H:
            break
        draw.line([(0, y), (_W, y)], fill=colour, width=1 + (y > 0.8 * _H))
    if columns:
        spread = float(rng.uniform(55, 110))
        for step in range(-60, 61):
            near = vanish + step * spread * 2.2
            far = vanish + step * spread * 2.2 * (base - horizon) / (_H - horizon)
            draw.line([(far, base), (near, _H)], fill=colour, width=1)


def _trees(draw: ImageDraw.ImageDraw, rng: np.random.Generator, base: int, count: int) -> None:
    for x in rng.uniform(0, _W, count):
        size = float(rng.uniform(30, 70))
        green = _some(rng, ((62, 98, 52), (84, 112, 56), (48, 80, 58), (124, 118, 56)))
        draw.rectangle((x - 6, base - size * 1.1, x + 6, base + 8), fill=_some(rng, ((82, 64, 48), (66, 56, 50))))
        for _ in range(16):
            dx, dy = rng.normal(0, size * 0.42, 2)
            radius = size * float(rng.uniform(0.18, 0.4))
            colour = shade(green, float(rng.uniform(0.7, 1.25)))
            cx, cy = x + dx, base - size * 1.7 + dy
            draw.ellipse((cx - radius, cy - radius, cx + radius, cy + radius), fill=colour)


def _windows(draw: ImageDraw.ImageDraw, rng: np.random.Generator, base: int, wall: RGB) -> None:
    step, tall = int(rng.integers(46, 96)), int(rng.integers(44, 84))
    glass, frame = _some(rng, ((70, 88, 106), (48, 54, 64), (132, 158, 176))), shade(wall, 0.68)
    for top in range(base - tall - 26, -tall, -tall - 30):
        for left in range(-int(rng.integers(step)), _W, step):
            right, bottom = left + int(step * 0.62), top + tall
            draw.rectangle((left - 3, top - 3, right + 3, bottom + 3), fill=frame)
            draw.rectangle((left, top, right, bottom), fill=shade(glass, float(rng.uniform(0.75, 1.3))))
            draw.line([((left + right) / 2, top), ((left + right) / 2, bottom)], fill=frame, width=2)


def _draw_facade(draw: ImageDraw.ImageDraw, rng: np.random.Generator, base: int) -> None:
    left = 0
    while left < _W:
        width = int(rng.integers(150, 420))
        wall = _some(rng, _WALLS)
        draw.rectangle((left, 0, left + width, base), fill=wall)
        left += width
    _windows(draw, rng, base, _some(rng, _WALLS))
    draw.rectangle((0, base - 12, _W, base), fill=_some(rng, _STONES))
    _perspective_tiles(draw, rng, base, shade(_some(rng, _STONES), 0.75), columns=True)


def _draw_park(draw: ImageDraw.ImageDraw, rng: np.random.Generator, base: int) -> None:
    draw.rectangle((0, 0, _W, base), fill=_some(rng, ((178, 200, 220), (206, 212, 214))))
    _trees(draw, rng, base - 6, 26)
    draw.rectangle((0, base - 16, _W, base + 6), fill=_some(rng, ((56, 84, 48), (72, 92, 52))))
    grass = _some(rng, ((96, 124, 66), (118, 132, 74)))
    draw.rectangle((0, base + 6, _W, base + 60), fill=grass)
    for x in rng.uniform(0, _W, 7):
        draw.rectangle((x, base + 6, x + 64, base + 16), fill=(104, 78, 56))
        draw.rectangle((x + 4, base + 16, x + 9, base + 34), fill=(60, 52, 46))
        draw.rectangle((x + 55, base + 16, x + 60, base + 34), fill=(60, 52, 46))


def _draw_street(draw: ImageDraw.ImageDraw, rng: np.random.Generator, base: int) -> None:
    _draw_facade(draw, rng, base - 30)
    draw.rectangle((0, base - 30, _W, _H), fill=_some(rng, ((92, 92, 96), (112, 110, 108))))
    x = -60.0
    while x < _W:
        paint = _some(rng, ((150, 40, 42), (210, 210, 212), (44, 48, 56), (60, 90, 140), (168, 170, 174)))
        draw.rounded_rectangle((x, base - 34, x + 150, base + 4), 12, fill=paint)
        draw.polygon([(x + 28, base - 32), (x + 48, base - 62), (x + 104, base - 62), (x + 128, base - 32)], fill=paint)
        draw.polygon(
            [(x + 38, base - 34), (x + 52, base - 56), (x + 100, base - 56), (x + 116, base - 34)],
            fill=(58, 68, 80),
        )
        for wheel in (x + 32, x + 118):
            draw.ellipse((wheel - 14, base - 10, wheel + 14, base + 18), fill=(32, 32, 34))
        x += float(rng.uniform(180, 420))
    stripe = int(rng.integers(52, 84))
    for left in range(int(rng.integers(40)), _W, stripe):
        corners = [(left, base + 70), (left + 26, base + 70), (left + 4, _H), (left - 34, _H)]
        draw.polygon(corners, fill=(206, 204, 198))


def _draw_steps(draw: ImageDraw.ImageDraw, rng: np.random.Generator, base: int) -> None:
    wall = _some(rng, _WALLS)
    draw.rectangle((0, 0, _W, base), fill=wall)
    for x in range(int(rng.integers(60)), _W, int(rng.integers(120, 200))):
        draw.rectangle((x, 0, x + 34, base), fill=shade(wall, 1.18))
        draw.rectangle((x + 26, 0, x + 34, base), fill=shade(wall, 0.72))
    stone = _some(rng, _STONES)
    for step in range(5):
        y = base - 4 + 15 * step
        draw.rectangle((0, y, _W, y + 8), fill=shade(stone, 1.12))
        draw.rectangle((0, y + 8, _W, y + 15), fill=shade(stone, 0.68))
    _perspective_tiles(draw, rng, base + 72, shade(stone, 0.8), columns=False)


def _draw_shops(draw: ImageDraw.ImageDraw, rng: np.random.Generator, base: int) -> None:
    left = 0
    while left < _W:
        width = int(rng.integers(140, 300))
        inside = _some(rng, ((236, 214, 170), (200, 214, 226), (224, 204, 200), (74, 66, 64)))
        draw.rectangle((left, 0, left + width, base), fill=inside)
        for _ in range(14):
            x, y = left + rng.uniform(8, max(width - 34, 9)), rng.uniform(base - 170, base - 20)
            size = rng.uniform(6, 26, 2)
            draw.rectangle((x, y, x + size[0], y + size[1]), fill=_some(rng, _SIGNS))
        draw.rectangle((left, base - 214, left + width, base - 182), fill=_some(rng, _SIGNS))
        draw.rectangle((left - 7, 0, left + 7, base), fill=_some(rng, ((120, 116, 112), (60, 60, 64), (210, 206, 200))))
        left += width
    draw.rectangle((0, base - 8, _W, base), fill=(90, 88, 86))
    _perspective_tiles(draw, rng, base, _some(rng, ((214, 206, 194), (150, 142, 134))), columns=True)


def _draw_corridor(draw: ImageDraw.ImageDraw, rng: np.random.Generator, base: int) -> None:
    wall = _some(rng, ((214, 208, 196), (186, 192, 196), (204, 186, 164)))
    draw.rectangle((0, 0, _W, base), fill=wall)
    draw.rectangle((0, base - 70, _W, base), fill=shade(wall, 0.82))
    draw.rectangle((0, base - 74, _W, base - 68), fill=_some(rng, ((150, 110, 70), (96, 100, 108))))
    for x in range(int(rng.integers(100)), _W, int(rng.integers(170, 260))):
        if rng.random() < 0.5:
            draw.rectangle(
                (x, base - 150, x + 62, base), fill=_some(rng, ((124, 88, 60), (84, 96, 110), (170, 60, 56)))
            )
            draw.ellipse((x + 50, base - 74, x + 57, base - 67), fill=(220, 210, 180))
        else:
            draw.rectangle((x, base - 180, x + 70, base - 96), fill=(60, 58, 58))
            draw.rectangle((x + 4, base - 176, x + 66, base - 100), fill=_some(rng, _SIGNS))
    _perspective_tiles(draw, rng, base, shade(wall, 0.72), columns=bool(rng.random() < 0.5))


def _draw_atrium(draw: ImageDraw.ImageDraw, rng: np.random.Generator, base: int) -> None:
    sky = _some(rng, ((196, 214, 226), (170, 188, 198)))
    draw.rectangle((0, 0, _W, base), fill=sky)
    step = int(rng.integers(60, 110))
    for x in range(0, _W, step):
        draw.rectangle((x, 0, x + step - 6, base), fill=shade(sky, float(rng.uniform(0.78, 1.08))))
        draw.line([(x, 0), (x, base)], fill=(96, 102, 108), width=6)
    for y in (base - 150, base - 90):
        draw.line([(0, y), (_W, y)], fill=(110, 116, 120), width=5)
    draw.rectangle((0, base - 64, _W, base - 58), fill=(150, 154, 158))
    for x in range(0, _W, 36):
        draw.line([(x, base - 60), (x, base)], fill=(136, 140, 146), width=3)
    for x in rng.uniform(0, _W, 6):
        draw.rectangle((x, base - 26, x + 50, base + 8), fill=(168, 160, 150))
        for dx, dy in rng.normal(0, 18, (14, 2)):
            draw.ellipse((x + 13 + dx, base - 62 + dy, x + 37 + dx, base - 38 + dy), fill=_some(rng, ((60, 96, 56),)))
    _perspective_tiles(draw, rng, base, (136, 134, 130), columns=True)


def _draw_court(draw: ImageDraw.ImageDraw, rng: np.random.Generator, base: int) -> None:
    _draw_shops(draw, rng, base - 20)
    ground = _some(rng, ((178, 150, 118), (150, 146, 140)))
    draw.rectangle((0, base - 20, _W, _H), fill=ground)
    for x in range(-30, _W, int(rng.integers(96, 150))):
        seat = _some(rng, _SIGNS)
        draw.ellipse((x, base - 18, x + 70, base + 4), fill=(196, 180, 156))
        draw.rectangle((x + 31, base - 8, x + 39, base + 34), fill=(84, 82, 82))
        draw.rectangle((x + 74, base - 24, x + 80, base + 30), fill=shade(seat, 0.7))
        draw.rectangle((x + 74, base + 4, x + 100, base + 11), fill=seat)
    _perspective_tiles(draw, rng, base + 50, shade(ground, 0.84), columns=False)


_PAINTERS: dict[str, Callable[[ImageDraw.ImageDraw, np.random.Generator, int], None]] = {
    "facade": _draw_facade,
    "park": _draw_park,
    "street": _draw_street,
    "steps": _draw_steps,
    "shops": _draw_shops,
    "corridor": _draw_corridor,
    "atrium": _draw_atrium,
    "court": _draw_court,
}


def _paint(rng: np.random.Generator, number: int, base: int, image: Image.Image) -> Image.Image:
    """Colour what is above and what is below `base`, each as a whole.

    A place has its own colours; neutral ones would let a grey-world correction undo the camera's cast. As with the
    casts, neighbouring numbers lie 140 degrees apart on the colour circle.
    """
    pixels = np.array(image, dtype=np.float32)
    for part in (pixels[:base], pixels[base:]):
        hue = np.deg2rad(140.0 * number + rng.uniform(-50.0, 50.0))
        part *= np.asarray(tint(float(hue), _PAINT), dtype=np.float32)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


@lru_cache(maxsize=32)
def draw_scene(camera: Camera) -> Image.Image:
    """The camera's background, an RGB image of the scene's size; shared, so never draw on it."""
    rng = np.random.Generator(np.random.PCG64(camera.scene_seed))
    ground = mix(_some(rng, _STONES), (96, 94, 96), float(rng.uniform(0, 0.6)))
    image = Image.new("RGB", (_W, _H), ground)
    # A camera that looks down sees more ground: the wall then begins higher up in the image.
    base = round((FEET_LINE - 0.12 - 2.6 * camera.elevation) * SCENE_UNIT)
    _PAINTERS[camera.style](ImageDraw.Draw(image), rng, base)
    image = _paint(rng, camera.number, base, image)
    for scale, strength in ((90, 7.0), (20, 4.0), (4, 4.0), (1, 3.0)):
        image = _texture(rng, scale, strength, base, image)
    return image.filter(ImageFilter.GaussianBlur(1.1))
