"""The pictures of docs/rendered.md; `python -m reference_pipelines.rendering.samples docs/images` makes them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from reference_pipelines.rendering.camera import sample_camera
from reference_pipelines.rendering.identity import sample_identity
from reference_pipelines.rendering.image import render_image
from reference_pipelines.rendering.plan import SIZES, ImageSpec, plan_images
from reference_pipelines.rendering.pose import sample_pose
from reference_pipelines.rendering.seeding import Domain

_CAMERAS = range(1, 7)
_GAP, _PAPER, _QUALITY = 3, 255, 82
_BOTH: tuple[Domain, Domain] = ("plaza", "mall")


def sample_sheets() -> dict[str, Image.Image]:
    """Return the pictures by name, without their file's ending."""
    return {
        **{f"rendered_{domain}": _sheet(_people_by_cameras(domain, range(1, 7))) for domain in _BOTH},
        "rendered_sequence": _sheet([_sequence("plaza", 4), _sequence("mall", 9)]),
        "rendered_occluded": _sheet(_planned(domain, "occluded") for domain in _BOTH),
        "rendered_others": _sheet(_planned(domain, kind) for kind in ("distractor", "junk") for domain in _BOTH),
        "rendered_sizes": _sheet([_sizes("plaza", 2, 4) + _sizes("mall", 14, 6)]),
    }


def write_samples(folder: Path) -> list[Path]:
    """Write the pictures as JPEG files into `folder` and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, sheet in sample_sheets().items():
        paths.append(folder / f"{name}.jpg")
        sheet.save(paths[-1], quality=_QUALITY, optimize=True)
    return paths


def _draw(domain: Domain, spec: ImageSpec, size: tuple[int, int] = (128, 64)) -> np.ndarray:
    pose = sample_pose(
        spec.person, spec.camera, spec.index, domain=domain, framing=spec.framing, occluded=spec.occluded
    )
    person = None if spec.empty else sample_identity(spec.person, domain=domain)
    return render_image(person, sample_camera(spec.camera, domain=domain), pose, image_size=size)


def _seen(domain: Domain, person: int, camera: int, index: int, size: tuple[int, int] = (128, 64)) -> np.ndarray:
    return _draw(domain, ImageSpec("bounding_box_test", "", person, camera, index), size)


def _people_by_cameras(domain: Domain, people: Iterable[int]) -> list[list[np.ndarray]]:
    """A row has two people, each under every camera once."""
    return [
        [_seen(domain, each, camera, 1) for each in (person, person + 20) for camera in _CAMERAS] for person in people
    ]


def _sequence(domain: Domain, person: int) -> list[np.ndarray]:
    """One person under every camera, two images of each walk."""
    return [_seen(domain, person, camera, index) for camera in _CAMERAS for index in (1, 2)]


def _planned(domain: Domain, kind: str) -> list[np.ndarray]:
    """Twelve of the small set's occluded queries, distractors or junk boxes, spread over the cameras."""
    specs = [
        spec
        for spec in plan_images(SIZES["small"], domain=domain, occluded=True)
        if (spec.occluded if kind == "occluded" else spec.framing == kind)
    ]
    return [_draw(domain, specs[place]) for place in np.linspace(0, len(specs) - 1, 12).astype(int)]


def _sizes(domain: Domain, person: int, camera: int) -> list[np.ndarray]:
    return [_seen(domain, person, camera, 1, size) for size in ((64, 32), (128, 64), (256, 128), (384, 192))]


def _sheet(rows: Iterable[Sequence[np.ndarray]]) -> Image.Image:
    """Lay images out in rows with a gap between them, their upper edges aligned."""
    rows = list(rows)
    height = sum(max(len(image) for image in row) + _GAP for row in rows) - _GAP
    width = max(sum(image.shape[1] + _GAP for image in row) for row in rows) - _GAP
    paper = np.full((height, width, 3), _PAPER, dtype=np.uint8)
    top = 0
    for row in rows:
        left = 0
        for image in row:
            paper[top : top + len(image), left : left + image.shape[1]] = image
            left += image.shape[1] + _GAP
        top += max(len(image) for image in row) + _GAP
    return Image.fromarray(paper)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m reference_pipelines.rendering.samples FOLDER")
    for written in write_samples(Path(sys.argv[1])):
        print(written)
