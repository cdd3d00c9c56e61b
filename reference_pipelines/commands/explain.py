"""`explain`: what a network looks at in images, as pictures."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from attnreid.files import write_bytes
from reference_pipelines.commands.options import ExplainOptions
from reference_pipelines.data.names import printable
from reference_pipelines.errors import UserError
from reference_pipelines.explaining.explain import Explanation, explain
from reference_pipelines.explaining.pictures import as_page, as_png, sheets_of
from reference_pipelines.templates import write_page
from reference_pipelines.text_table import format_table

PAGE = "index.html"


def run(options: ExplainOptions) -> None:
    """Explain the images, write pictures and page, and print the numbers.

    Raises:
        UserError: no model, no such image or one that does not decode, no classifier and no --against, a backbone
            without stages, or a folder that cannot be written.
    """
    against = () if options.against is None else (options.against,)
    for path in (*options.images, *against):
        if not path.is_file():
            raise UserError(f"explain: there is no image {path}; name image files")
    if options.out.exists() and not options.out.is_dir():
        raise UserError(f"explain: --out must be a folder, got the file {options.out}; name another")
    found = explain(options.model, options.images, against=against, device=options.device)
    sheets = sheets_of(found)
    names = _names(options.images)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        for name, sheet in zip(names, sheets, strict=True):
            write_bytes(options.out / name, as_png(found.title, sheet))
        write_page(options.out / PAGE, as_page(found, sheets))
    except OSError as error:
        raise UserError(f"explain: cannot write in {options.out} ({error.strerror}); choose another --out") from None
    if options.json:
        print(json.dumps(to_plain(found), indent=1))
    else:
        print(printable(f"{found.title}\n\n{_table(found)}\n\nwritten: {options.out / PAGE}, {', '.join(names)}"))


def to_plain(explanation: Explanation) -> dict[str, Any]:
    """Return the numbers of an explanation as they are written to JSON."""
    shares = explanation.on_person()
    images = [
        {
            "image": str(path),
            "target": explanation.targets[index],
            "person_covers": _known(None if mask is None else float(mask.mean())),
            "maps": [
                {
                    "site": each.site,
                    "level": each.level,
                    "size": list(each.values.shape[1:]),
                    "largest": float(each.values[index].max()),
                    "on_person": _known(float(shares[each.site, each.level][index])),
                }
                for each in explanation.heat
            ],
        }
        for index, (path, mask) in enumerate(zip(explanation.images, explanation.masks, strict=True))
    ]
    against = None if explanation.against is None else [str(path) for path in explanation.against]
    return {"model": explanation.title, "against": against, "images": images}


def _known(number: float | None) -> float | None:
    return None if number is None or np.isnan(number) else number


def _names(images: tuple[Path, ...]) -> list[str]:
    """Return the name of each image's PNG file; images of one name get a number."""
    names: list[str] = []
    for image in images:
        name, count = f"{image.stem}.png", 1
        while name in names:
            count += 1
            name = f"{image.stem}-{count}.png"
        names.append(name)
    return names


def _table(explanation: Explanation) -> str:
    """Return a row an image and place: how large the map is, and how much of it is on the person, if that is known."""
    plain, rows = to_plain(explanation), []
    known = any(mask is not None for mask in explanation.masks)
    for each in plain["images"]:
        for number, found in enumerate(each["maps"]):
            share = "-" if found["on_person"] is None else f"{found['on_person']:.0%}"
            size = "{} x {}".format(*found["size"])
            row = [Path(each["image"]).name if number == 0 else "", found["site"], found["level"], size]
            rows.append([*row, *([share] if known else [])])
    headings = ["image", "site", "Grad-CAM", "map", *(["on the person"] if known else [])]
    asked = "\n".join(f"{Path(each['image']).name}: {each['target']}" for each in plain["images"])
    return f"{asked}\n\n{format_table(rows, headings, words=3)}"
