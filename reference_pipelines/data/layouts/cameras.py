"""The camera in a name of the user's own: c1, c01, c1s1, cam1, cam_1, camera01, ch1, and MARS's 0001C1T0001F001."""

import re
from collections import Counter
from collections.abc import Sequence
from os.path import splitext

from reference_pipelines.data.layouts.reading import NUMBER

# A word by itself, between what is neither letter nor digit. Random letters and digits, c3f9a1, thus give none.
_TOKEN = re.compile(
    rf"(?:^|[\W_])(?:c|(?:cam(?:era)?|ch(?:annel)?)[\W_]?)({NUMBER})(?:s\d+)?(?=[\W_]|$)", re.IGNORECASE
)
# Person, camera, tracklet and frame as MARS and its relatives write them in one word.
_MARS = re.compile(rf"^(\d{{4,}})C({NUMBER})T(\d+)F\d+$", re.ASCII)
_FOLDER = re.compile(rf"([0-9]{{1,3}})|(?:c|(?:cam(?:era)?|ch(?:annel)?)[\W_]?)({NUMBER})", re.IGNORECASE)
# What else people may mean: frontcam3, cam1frame5, camA, 0001c3.
_WORD = re.compile(r"cam(?:era)?[\W_]?(?:\d+|[a-z](?![^\W_]))", re.IGNORECASE)
_LETTER = re.compile(r"(?<![^\W\d_])c\d+", re.IGNORECASE)
_FEW = 3  # names that may be built alike by chance
_RUN = re.compile(r"[^\W_]+")


def camera_of(name: str) -> int | None:
    """Return the camera that a file's name says, None where it says none, or more than one."""
    if match := _MARS.match(splitext(name)[0]):
        return int(match[2])
    found = {int(number) for number in _TOKEN.findall(splitext(name)[0])}
    return found.pop() if len(found) == 1 else None


def tracklet_of(name: str) -> str:
    """Return the tracklet, of a person, that a file's name says after MARS's manner, "" where it says none."""
    match = _MARS.match(splitext(name)[0])
    return f"{match[1]}T{match[3]}" if match else ""


def folder_camera(name: str) -> int | None:
    """Return the camera that a folder's name says, a camera's word or a number of at most three digits and no more."""
    match = _FOLDER.fullmatch(name)
    return int(match[1] or match[2]) if match else None


def camera_like(names: Sequence[str]) -> dict[str, str]:
    """Return those names that hold something like a camera, each with it.

    A c and a number inside of a longer word counts where most names are built alike, p0001c3f017: in names of random
    letters and digits it says nothing.
    """
    found: dict[str, str] = {}
    shapes: dict[str, str] = {}
    for name in names:
        stem = splitext(name)[0]
        if match := _WORD.search(stem):
            found[name] = match[0]
        elif run := next((run for run in _RUN.findall(stem) if _LETTER.search(run)), None):
            shapes[name] = re.sub(r"\d+", "#", run)
            found[name] = run
    usual = Counter(shapes.values()).most_common(1)
    common = usual[0][0] if usual and usual[0][1] >= max(_FEW, len(names) // 2 + 1) else None
    return {name: token for name, token in found.items() if name not in shapes or shapes[name] == common}
