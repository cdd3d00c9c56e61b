"""Miniature folders in the exact layouts of the public data sets: file names, lists, splits, junk, nesting, litter.

Every maker takes the folder to unpack into and returns the data set's root. Each has a few people, every image is
different noise, and `COUNTS` says how many of everything there are.
"""

import csv
import itertools
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from reference_pipelines.data.layouts import PUBLISHED, Counts

_seeds = itertools.count()


def draw(path: Path) -> Path:
    """Write a small image that no other call writes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(next(_seeds)).integers(0, 256, (32, 16, 3), dtype=np.uint8)
    form = "PNG" if path.suffix.lower() == ".png" else "JPEG"
    Image.fromarray(pixels).save(path, form)
    return path


def litter(root: Path, folder: Path) -> None:
    """Leave behind what archives and systems leave: in `folder` files, beside `root` a folder of the same form."""
    for name in ("Thumbs.db", ".DS_Store", f"._{next(p.name for p in sorted(folder.iterdir()) if p.is_file())}"):
        (folder / name).write_bytes(b"\x00\x05\x16\x07")
    shadow = root.parent / "__MACOSX" / root.name / "bounding_box_train"
    shadow.mkdir(parents=True)
    (shadow / "._0002_c1s1_000451_03.jpg").write_bytes(b"\x00\x05\x16\x07")


def three_folders(
    root: Path,
    name: Callable[[int, int, int], str],
    *,
    train: Iterable[int],
    test: Iterable[int],
    cameras: Iterable[int],
    extra: Iterable[str] = (),
) -> Path:
    """Two images a person and camera in train or gallery, one in query, and `extra` files in the gallery."""
    cameras = tuple(cameras)
    for folder, people, frames in (
        ("bounding_box_train", train, (0, 1)),
        ("bounding_box_test", test, (0, 1)),
        ("query", test, (2,)),
    ):
        for person, camera, frame in itertools.product(tuple(people), cameras, frames):
            draw(root / folder / name(person, camera, frame))
    for file in extra:
        draw(root / "bounding_box_test" / file)
    return root


def market1501(into: Path) -> Path:
    """Market-1501 as its archive unpacks, with the hand-drawn boxes and the readme that nothing here needs."""
    root = three_folders(
        into / "Market-1501-v15.09.15",
        lambda person, camera, frame: f"{person:04d}_c{camera}s1_{frame:06d}_0{frame}.jpg",
        train=(2, 7, 10),
        test=(1, 3),
        cameras=range(1, 7),
        extra=("0000_c1s1_000151_01.jpg", "0000_c2s1_000151_01.jpg", "-1_c1s1_000401_03.jpg"),
    )
    draw(root / "gt_bbox" / "0001_c1s1_001051_00.jpg")
    (root / "gt_query").mkdir()
    (root / "gt_query" / "0001_c1s1_001051_00_good.mat").write_bytes(b"MATLAB 5.0")
    (root / "readme.txt").write_text("Market-1501\n")
    (root / "bounding_box_test" / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    return root


def _duke_name(person: int, camera: int, frame: int) -> str:
    return f"{person:04d}_c{camera}_f{46182 + frame:07d}.jpg"


def dukemtmc(into: Path) -> Path:
    """DukeMTMC-reID, with its archive's licence files and distractors that are people without a query."""
    root = three_folders(
        into / "DukeMTMC-reID",
        _duke_name,
        train=(1, 5, 9),
        test=(2, 4),
        cameras=range(1, 9),
        extra=(_duke_name(7137, 2, 0), _duke_name(7139, 5, 0)),
    )
    (root / "LICENSE_DukeMTMC.txt").write_text("licence\n")
    return root


def occluded_duke(into: Path) -> Path:
    """Occluded-Duke: DukeMTMC-reID's names, another split."""
    return three_folders(
        into / "Occluded_Duke", _duke_name, train=(1, 5), test=(2, 4, 6), cameras=range(1, 9), extra=()
    )


def cuhk03_np(into: Path) -> Path:
    """CUHK03-NP with both halves; the labeled one has an image more in train and one less in the gallery."""
    root = into / "cuhk03-np"
    for half in ("detected", "labeled"):
        three_folders(
            root / half,
            lambda person, camera, frame: f"{person:04d}_c{camera}_{5 * camera + frame}.png",
            train=(1, 2, 4),
            test=(3, 5),
            cameras=(1, 2),
        )
    draw(root / "labeled" / "bounding_box_train" / "0001_c1_3.png")
    (root / "labeled" / "bounding_box_test" / "0003_c1_5.png").unlink()
    return root


def personx(into: Path) -> Path:
    """PersonX's subset of six cameras, in its folder subset1."""
    return three_folders(
        into / "PersonX" / "subset1",
        lambda person, camera, frame: f"{person:04d}_c{camera}_{frame:04d}.jpg",
        train=(1, 3, 5),
        test=(2, 4),
        cameras=(3, 4, 8, 10, 11, 12),
    )


def msmt17_repacked(into: Path) -> Path:
    """MSMT17 in three folders, train and test counted from 0 each."""
    return three_folders(
        into / "MSMT17_V1",
        lambda person, camera, frame: f"{person:04d}_c{camera}_{frame:04d}.jpg",
        train=(0, 1),
        test=(0, 1),
        cameras=range(1, 16),
    )


def msmt17(into: Path, version: int) -> Path:
    """MSMT17 with its four lists; every third file ends in _ex.jpg."""
    root = into / f"MSMT17_V{version}"
    train, test = ("train", "test") if version == 1 else ("mask_train_v2", "mask_test_v2")
    lines: dict[str, list[str]] = {"list_train": [], "list_val": [], "list_query": [], "list_gallery": []}
    times = ("0303morning", "0114noon", "0302afternoon")
    for folder, lists in ((train, ("list_train", "list_train", "list_val")), (test, ("list_gallery", "list_query"))):
        for person in (0, 1, 2):
            for index, (camera, name) in enumerate(itertools.product(range(1, 16), lists)):
                ending = "_ex" * (index % 3 == 0)
                file = f"{person:04d}_{index:03d}_{camera:02d}_{times[index % 3]}_{8 + index:04d}_0{ending}.jpg"
                draw(root / folder / f"{person:04d}" / file)
                lines[name].append(f"{person:04d}/{file} {person}\n")
    for name, each in lines.items():
        (root / f"{name}.txt").write_text("".join(each))
    return root


def raw_cuhk03(into: Path) -> Path:
    """CUHK03 as its authors released it."""
    root = into / "cuhk03_release"
    root.mkdir(parents=True)
    for name in ("cuhk-03", "cuhk03_new_protocol_config_detected", "cuhk03_new_protocol_config_labeled"):
        (root / f"{name}.mat").write_bytes(b"MATLAB 5.0")
    return root


_OWN = {
    "train": (("ada", 1), ("ada", 2), ("bo", 1), ("bo", 2), ("bo", 3)),
    "query": (("cy", 1), ("di", 2)),
    "gallery": (("cy", 2), ("cy", 3), ("di", 1), ("0", 3), ("-1", 1)),
}


def own_csv(into: Path, *, cameras: bool = True) -> Path:
    """A CSV file of the user's own, two of whose images lie outside of its folder; returns the file."""
    elsewhere = into / "elsewhere"
    table = into / "people" / "list.csv"
    rows = []
    for part, images in _OWN.items():
        for number, (person, camera) in enumerate(images):
            outside = part == "query"
            path = draw((elsewhere if outside else table.parent) / "pictures" / f"{part}-{number}.jpg")
            name = str(path.resolve()) if outside else path.relative_to(table.parent).as_posix()
            rows.append([name, person, *([str(camera)] if cameras else []), part])
    with open(table, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["image", "id", *(["camera"] if cameras else []), "split"], *rows])
    return table


def own_folders(into: Path, *, cameras: bool = True) -> Path:
    """A folder of the user's own: a folder a person below train, query and gallery."""
    root = into / "mine"
    for part, images in _OWN.items():
        for number, (person, camera) in enumerate(images):
            draw(root / part / person / (f"c{camera}_{number:03d}.JPEG" if cameras else f"{number:03d}.png"))
    return root


MAKERS: Mapping[str, Callable[[Path], Path]] = {
    "market1501": market1501,
    "dukemtmc": dukemtmc,
    "occluded_duke": occluded_duke,
    "cuhk03_np_detected": lambda into: cuhk03_np(into) / "detected",
    "cuhk03_np_labeled": lambda into: cuhk03_np(into) / "labeled",
    "personx": personx,
    "msmt17_repacked": msmt17_repacked,
    "msmt17_v1": lambda into: msmt17(into, 1),
    "msmt17_v2": lambda into: msmt17(into, 2),
    "csv": own_csv,
    "folders": own_folders,
}


def _counts(
    layout: str, train: tuple[int, int], query: tuple[int, int], gallery: tuple[int, int], **more: int
) -> Counts:
    (images, ids), (queries, query_ids), (candidates, gallery_ids) = train, query, gallery
    return Counts(
        title=PUBLISHED[layout].title,
        train=images,
        train_ids=ids,
        query=queries,
        query_ids=query_ids,
        gallery=candidates,
        gallery_ids=gallery_ids,
        **more,
    )


COUNTS: Mapping[str, Counts] = {
    "market1501": _counts("market1501", (36, 3), (12, 2), (26, 2), cameras=6, junk=1),
    "dukemtmc": _counts("dukemtmc", (48, 3), (16, 2), (34, 4), cameras=8),
    "occluded_duke": _counts("occluded_duke", (32, 2), (24, 3), (48, 3), cameras=8),
    "cuhk03_np_detected": _counts("cuhk03_np_detected", (12, 3), (4, 2), (8, 2), cameras=2),
    "cuhk03_np_labeled": _counts("cuhk03_np_labeled", (13, 3), (4, 2), (7, 2), cameras=2),
    "personx": _counts("personx", (36, 3), (12, 2), (24, 2), cameras=6),
    "msmt17_repacked": _counts("msmt17_repacked", (60, 2), (30, 2), (60, 2), cameras=15),
    "msmt17_v1": _counts("msmt17_v1", (135, 3), (45, 3), (45, 3), cameras=15),
    "msmt17_v2": _counts("msmt17_v2", (135, 3), (45, 3), (45, 3), cameras=15),
    "msmt17_v1_list_train": _counts("msmt17_v1_list_train", (90, 3), (45, 3), (45, 3), cameras=15),
    "msmt17_v2_list_train": _counts("msmt17_v2_list_train", (90, 3), (45, 3), (45, 3), cameras=15),
}
"""(images, ids) of whole miniatures; the user's own data have no counts to be held to."""


def rendered_manifest(root: Path, **counts: int) -> None:
    """Mark a folder as rendered, with these counts."""
    (root / "rendered.json").write_text(json.dumps({"parameters": {"domain": "plaza"}, "counts": counts}))


def nest(root: Path, *names: str) -> Path:
    """Move a data set some folders deeper, as archives unpacked by hand are; return the outermost folder."""
    outer = root.parent / "outer"
    inner = outer.joinpath(*names)
    inner.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(root, inner)
    return outer
