"""Writes rendered pedestrians as JPEG files in the Market-1501 layout, whole or not at all."""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from PIL import Image

from attnreid.files import draft_beside, read_json
from reference_pipelines.data.layouts import three_folders
from reference_pipelines.data.layouts.three_folders import MANIFEST
from reference_pipelines.machine import available_cores
from reference_pipelines.progress import progress_bar
from reference_pipelines.rendering.camera import Camera, sample_camera
from reference_pipelines.rendering.identity import Identity, sample_identity
from reference_pipelines.rendering.image import check_image_size, render_image
from reference_pipelines.rendering.plan import FOLDERS, ImageSpec, RenderSize, named_size, plan_images
from reference_pipelines.rendering.pose import Pose, sample_pose
from reference_pipelines.rendering.seeding import Domain, check_domain, check_seed

DRAWING_VERSION = 2  # raise it when any pixel changes, so that older folders are not taken for the new drawings
_CHUNK = 32
_IMAGES_WORTH_A_WORKER = 1500  # a spawned worker starts in about the time that one process draws so many


@dataclass(frozen=True, slots=True)
class RenderSummary:
    """What a rendered folder holds.

    Fields: the numbers of images, `gallery_images` without `distractors` and `junk`; the numbers of ids and
    cameras; `content`, the SHA-256 over all files' sorted paths and contents; `fingerprint`, as `data verify` and
    every result name the data set; `reused`, True if the folder was there already.
    """

    root: Path
    train_images: int
    query_images: int
    gallery_images: int
    distractors: int
    junk: int
    train_ids: int
    test_ids: int
    cameras: int
    content: str
    fingerprint: str
    reused: bool = False

    def __str__(self) -> str:
        verb = "already rendered" if self.reused else "rendered"
        return (
            f"{self.root}: {verb}, train {self.train_images:,} images of {self.train_ids:,} ids, query "
            f"{self.query_images:,} of {self.test_ids:,} ids, gallery {self.gallery_images:,} and {self.distractors:,} "
            f"distractors and {self.junk:,} junk, {self.cameras} cameras, fingerprint {self.fingerprint}"
        )


@dataclass(frozen=True, slots=True)
class _Settings:
    image_size: tuple[int, int]
    domain: Domain
    seed: int


@lru_cache(maxsize=128)
def _camera(number: int, domain: Domain, seed: int) -> Camera:
    return sample_camera(number, domain=domain, seed=seed)


def cast_of(spec: ImageSpec, *, domain: Domain, seed: int) -> tuple[Identity | None, Camera, Pose]:
    """Return who is seen in a planned image, by which camera, and how."""
    camera = _camera(spec.camera, domain, seed)
    pose = sample_pose(
        spec.person,
        spec.camera,
        spec.index,
        domain=domain,
        seed=seed,
        framing=spec.framing,
        occluded=spec.occluded,
    )
    return None if spec.empty else sample_identity(spec.person, domain=domain, seed=seed), camera, pose


def encode_image(spec: ImageSpec, *, image_size: tuple[int, int], domain: Domain, seed: int) -> bytes:
    """Draw one planned image and return its JPEG file's bytes."""
    identity, camera, pose = cast_of(spec, domain=domain, seed=seed)
    pixels = render_image(identity, camera, pose, image_size=image_size)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=camera.quality)
    return buffer.getvalue()


def _write_chunk(specs: Sequence[ImageSpec], *, folder: Path, settings: _Settings) -> list[tuple[str, str]]:
    """Write a few images; returns (path inside the folder, SHA-256 of the file) for each."""
    written = []
    for spec in specs:
        data = encode_image(spec, image_size=settings.image_size, domain=settings.domain, seed=settings.seed)
        (folder / spec.folder / spec.name).write_bytes(data)
        written.append((f"{spec.folder}/{spec.name}", hashlib.sha256(data).hexdigest()))
    return written


def _write_chunks(
    chunks: Sequence[Sequence[ImageSpec]], folder: Path, settings: _Settings, workers: int
) -> Iterator[list[tuple[str, str]]]:
    write = partial(_write_chunk, folder=folder, settings=settings)
    if workers <= 1:
        yield from map(write, chunks)
        return
    # Forking a process that has started torch's threads can hang; spawned workers start clean.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        try:
            yield from pool.map(write, chunks)
        except BrokenProcessPool as error:
            raise RuntimeError(
                "render_market: all workers must live to the end, got a dead one; nothing was kept: try "
                "again with workers=0 (a script that renders needs an `if __name__ == '__main__':` guard)."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _content(digests: Sequence[tuple[str, str]]) -> str:
    total = hashlib.sha256()
    for name, digest in sorted(digests):
        total.update(f"{name} {digest}\n".encode())
    return total.hexdigest()


def _worker_count(workers: int | None, images: int) -> int:
    if workers is None:
        return max(1, min(available_cores(), images // _IMAGES_WORTH_A_WORKER))
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 0:
        raise ValueError(f"render_market: workers must be a whole number >= 0, got {workers!r}; None chooses.")
    return workers


def _resolve_size(size: str | RenderSize, counts: dict[str, int | None]) -> RenderSize:
    base = named_size(size) if isinstance(size, str) else size
    given: dict[str, Any] = {name: value for name, value in counts.items() if value is not None}
    if given.keys() - {"distractors", "junk"}:
        given |= {"train_images": None, "query_images": None, "gallery_images": None}
    return replace(base, **given)


def _existing(root: Path, parameters: dict[str, Any]) -> RenderSummary | None:
    """The summary of a folder that already holds exactly this; None if there is nothing there yet."""
    if root.is_dir() and not any(root.iterdir()):
        return None
    if not root.exists():
        return None
    try:
        manifest = read_json(root / MANIFEST)
        found, counts = manifest["parameters"], manifest["counts"]
        content = manifest.get("content") or manifest["fingerprint"]  # as it was called at first
        summary = RenderSummary(root=root, **counts, content=content, fingerprint="", reused=True)
    except (OSError, ValueError, KeyError, TypeError):
        raise FileExistsError(
            f"render_market: the folder must be empty, new, or rendered by this function, got {root} with "
            "other contents; choose another folder."
        ) from None
    if found != parameters:
        names = [name for name in parameters if found.get(name) != parameters[name]]
        there, asked = ({name: values.get(name) for name in names} for values in (found, parameters))
        raise FileExistsError(
            f"render_market: {root} must hold what is asked for, {asked}, got one rendered with {there}; "
            "choose another folder, or delete this one."
        )
    expected = (
        summary.train_images,
        summary.query_images,
        summary.gallery_images + summary.distractors + summary.junk,
    )
    present = tuple(sum(1 for _ in (root / folder).glob("*.jpg")) for folder in FOLDERS)
    if present != expected:
        raise FileExistsError(
            f"render_market: {root} must hold {expected} images in {FOLDERS}, got {present}; files were "
            "added or lost: delete the folder and render it again."
        )
    return replace(summary, fingerprint=_fingerprint(root))


def _fingerprint(root: Path) -> str:
    return three_folders.read(root, None).data.fingerprint()


def _count(specs: Sequence[ImageSpec], size: RenderSize) -> dict[str, Any]:
    """The summary's numbers."""
    boxes = {folder: sum(spec.folder == folder for spec in specs) for folder in FOLDERS}
    return {
        "train_images": boxes["bounding_box_train"],
        "query_images": boxes["query"],
        "gallery_images": boxes["bounding_box_test"] - size.distractors - size.junk,
        "distractors": size.distractors,
        "junk": size.junk,
        "train_ids": size.train_ids,
        "test_ids": size.test_ids,
        "cameras": size.cameras,
    }


def _render_into(folder: Path, specs: Sequence[ImageSpec], settings: _Settings, *, workers: int, progress: bool) -> str:
    """Write all images into a folder that exists; returns the digest of its content."""
    for name in FOLDERS:
        (folder / name).mkdir()
    chunks = [specs[start : start + _CHUNK] for start in range(0, len(specs), _CHUNK)]
    digests: list[tuple[str, str]] = []
    with progress_bar(None, len(specs), "render", unit="image", shown=progress) as bar:
        for written in _write_chunks(chunks, folder, settings, workers):
            digests += written
            bar.update(len(written))
    return _content(digests)


def _publish(unfinished: Path, root: Path, parameters: dict[str, Any]) -> RenderSummary | None:
    """Move the finished folder into place; if another process was faster with the same images, keep its."""
    try:
        if root.is_dir():
            root.rmdir()
        unfinished.rename(root)
    except OSError:
        if found := _existing(root, parameters):
            return found
        raise
    return None


def render_market(
    root: str | os.PathLike[str],
    *,
    size: str | RenderSize = "tiny",
    train_ids: int | None = None,
    test_ids: int | None = None,
    cameras: int | None = None,
    images_per_camera: int | None = None,
    distractors: int | None = None,
    junk: int | None = None,
    image_size: tuple[int, int] = (128, 64),
    domain: Domain = "plaza",
    occluded: bool = False,
    seed: int = 0,
    workers: int | None = None,
    progress: bool = True,
) -> RenderSummary:
    """Render a data set of pedestrians into a folder in the Market-1501 layout.

    The images are written beside `root` and moved there at the end, so `root` is never half written; a folder
    that already holds exactly this data set is reused at once. The bytes depend on the arguments (and on
    Pillow's JPEG encoder), not on the number of workers.

    Args:
        root: The folder to write: new, empty, or rendered before with the same arguments.
        size: A name of `SIZES` or a `RenderSize`.
        train_ids: Replaces the size's number of training identities, at least 1; as the next three, if given,
            it also drops the size's exact totals.
        test_ids: Replaces the number of test identities, at least 1.
        cameras: Replaces the number of cameras, at least 2.
        images_per_camera: Replaces the boxes of an identity under a camera, at least 1.
        distractors: Replaces the number of distractors (id 0000).
        junk: Replaces the number of junk boxes (id -1).
        image_size: (height, width) of the images in pixels.
        domain: "plaza" or "mall": other people, clothes, places and cameras.
        occluded: True hides a part of the person in every query, as Occluded-Duke does.
        seed: At least 0; another seed gives other people and cameras.
        workers: Processes that draw; with 0 or 1 this one does. None chooses by the number of images and cores.
        progress: Whether a progress bar is shown.

    Raises:
        ValueError: An unknown domain or size, or an impossible count.
        FileExistsError: `root` holds something else; it is left as it is.
        OSError: The folder cannot be written; nothing is left behind.

    >>> render_market("rendered/plaza", size="small", seed=1)  # doctest: +SKIP
    """
    check_domain(domain)
    check_seed(seed)
    image_size = (image_size[0], image_size[1]) if len(image_size) == 2 else image_size
    check_image_size(image_size, who="render_market")
    chosen = _resolve_size(
        size,
        {
            "train_ids": train_ids,
            "test_ids": test_ids,
            "cameras": cameras,
            "images_per_camera": images_per_camera,
            "distractors": distractors,
            "junk": junk,
        },
    )
    root = Path(root)
    parameters = {
        "drawing_version": DRAWING_VERSION,
        **asdict(chosen),
        "image_size": list(image_size),
        "domain": domain,
        "occluded": occluded,
        "seed": seed,
    }
    if found := _existing(root, parameters):
        return found
    specs = plan_images(chosen, domain=domain, seed=seed, occluded=occluded)
    counts = _count(specs, chosen)
    processes = _worker_count(workers, len(specs))
    settings = _Settings(image_size, domain, seed)
    unfinished = draft_beside(root)
    try:
        unfinished.mkdir(parents=True)
        content = _render_into(unfinished, specs, settings, workers=processes, progress=progress)
        manifest = {"parameters": parameters, "counts": counts, "content": content}
        (unfinished / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        summary = RenderSummary(root, **counts, content=content, fingerprint=_fingerprint(unfinished))
        return _publish(unfinished, root, parameters) or summary
    except FileExistsError:
        raise
    except OSError as error:
        raise OSError(
            f"render_market: {root} must be writable with enough space, got '{error.strerror or error}'; "
            "nothing was kept: free space or choose another folder."
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
