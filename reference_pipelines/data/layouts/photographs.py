"""Photographs without labels: every image in a folder and the folders in it, nobody known and nothing split."""

import os
from pathlib import Path

from reference_pipelines.data.layouts.cameras import camera_of, folder_camera, tracklet_of
from reference_pipelines.data.layouts.own import Image, assemble
from reference_pipelines.data.layouts.reading import Problem, Reading
from reference_pipelines.data.layouts.scanning import images_below, is_image, look_into, subfolders

LAYOUTS = ("photographs",)


def looks_like(base: Path) -> bool:
    """Return whether a folder has images in it, or holds nothing but folders that are called like cameras."""
    if any(is_image(name) for name in look_into(base).files):
        return True
    folders = subfolders(base)
    return bool(folders) and all(_is_camera(folder.name) for folder in folders)


def read(base: Path, layout: str | None) -> Reading:
    """Read every image; a camera is taken from the folder CAMERA/ below `base`, or from the names if all say one.

    Args:
        base: the folder.
        layout: "photographs", or None for the same.

    Raises:
        OSError: a folder cannot be listed.
    """
    paths = images_below(base)
    folders = [path.relative_to(base).parts[0] if path.parent != base else "" for path in paths]
    if paths and all(map(_is_camera, folders)):
        cameras = [folder_camera(name) for name in folders]
    else:
        cameras = [camera_of(path.name) for path in paths]
    notes = ["nobody is labelled"]
    if None in cameras:
        if any(camera is not None for camera in cameras):
            notes.append("only some names give a camera, so that none is used")
        cameras = [None] * len(paths)
    images = [
        Image(path, "", camera, "train", os.path.relpath(path, base), tracklet_of(path.name))
        for path, camera in zip(paths, cameras, strict=True)
    ]
    problems = []
    if not images:
        problems.append(Problem("empty part", f"{base} must hold images, it and its folders hold none"))
    return assemble(base, LAYOUTS[0], images, problems, tuple(notes))


def _is_camera(name: str) -> bool:
    return not name.isdigit() and folder_camera(name) is not None
