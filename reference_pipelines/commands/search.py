"""`search`: the images of a gallery that are most alike to some images."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attnreid.files import write_text
from reference_pipelines.commands.options import SearchOptions
from reference_pipelines.data.names import printable
from reference_pipelines.errors import UserError
from reference_pipelines.features.reading import FeatureStore, is_store
from reference_pipelines.neighbours.gallery import find_in_gallery
from reference_pipelines.text_table import format_table


def run(options: SearchOptions) -> None:
    """Rank a gallery for each query, and print or show the ranking.

    Raises:
        UserError: no gallery, no queries, features of different networks, or a page that cannot be written.
    """
    gallery = FeatureStore(options.gallery, "search")
    if options.html is not None and (options.html.is_dir() or not options.html.absolute().parent.is_dir()):
        raise UserError(f"search: --html must be a file in a folder that exists, got {options.html}; name another")
    paths, features = _of_store(options, gallery) if is_store(options.queries) else _of_model(options, gallery)
    engine: Any = {"exact": "exact", "faiss": "approximate"}[options.engine]
    found = find_in_gallery(features, gallery.features, options.top, search=engine)
    lists = [_ranked(gallery, *row) for row in zip(found.indices.tolist(), found.similarities.tolist(), strict=True)]
    result = {
        "gallery": str(gallery.folder),
        "images": len(gallery),
        "model": gallery.meta.title,
        "engine": options.engine,
        "queries": [{"query": str(path), "ranked": ranked} for path, ranked in zip(paths, lists, strict=True)],
    }
    print(json.dumps(result, indent=1) if options.json else printable(_table(result)))
    if options.html is not None:
        from reference_pipelines.reporting.search_page import render_search

        try:
            write_text(options.html, render_search(result))
        except OSError as error:
            raise UserError(f"search: cannot write {options.html} ({error.strerror}); name another file") from None
        if not options.json:
            print(printable(f"\nthe pictures are in {options.html}"))


def _of_model(options: SearchOptions, gallery: FeatureStore) -> tuple[Sequence[Path], np.ndarray]:
    if not options.query:
        raise UserError("search: --query is missing; name the images to search for")
    from reference_pipelines.serving.embedder import load

    model = load(options.queries, device=options.device, flip=bool(gallery.meta.model.get("flip")), who="search")
    _check_same(model.identity.to_plain(), gallery, options.queries)
    return options.query, model.embed(list(options.query)).numpy()


def _of_store(options: SearchOptions, gallery: FeatureStore) -> tuple[Sequence[Path], np.ndarray]:
    store = FeatureStore(options.queries, "search")
    _check_same(store.meta.model, gallery, options.queries)
    if not options.query:
        return store.paths, np.asarray(store.features)
    rows = {path: row for row, path in enumerate(store.paths)}
    wanted = [Path(os.path.abspath(path)) for path in options.query]
    missing = [path for path in wanted if path not in rows]
    if missing:
        raise UserError(
            f"search: every --query must be an image of {store.folder}, {missing[0]} is none; see its table.csv, or "
            "name the network instead of features"
        )
    return wanted, store.features[[rows[path] for path in wanted]]


def _check_same(mine: Any, gallery: FeatureStore, queries: Path) -> None:
    """Refuse to compare what different networks, or different preprocessing, have made."""
    theirs = gallery.meta.model
    keys = [key for key in {**mine, **theirs} if mine.get(key) != theirs.get(key)]
    if keys:
        listed = ", ".join(f"{key} ({mine.get(key)} and {theirs.get(key)})" for key in keys)
        raise UserError(
            f"search: {queries} and {gallery.folder} must be of one network and preprocessing, "
            f"they differ in {listed}; extract the gallery with the network of the queries"
        )


def _ranked(gallery: FeatureStore, indices: Sequence[int], similarities: Sequence[float]) -> list[dict[str, Any]]:
    return [
        {
            "rank": rank,
            "path": str(gallery.paths[index]),
            "id": None if gallery.ids is None else int(gallery.ids[index]),
            "camera": None if gallery.cameras is None else int(gallery.cameras[index]),
            "similarity": similarity,
        }
        for rank, (index, similarity) in enumerate(zip(indices, similarities, strict=True), start=1)
        if index >= 0
    ]


def _table(result: dict[str, Any]) -> str:
    def shown(value: int | None) -> str:
        return "-" if value is None else str(value)

    rows = [
        [
            Path(each["query"]).name if found["rank"] == 1 else "",
            found["path"],
            str(found["rank"]),
            f"{found['similarity']:.4f}",
            shown(found["id"]),
            shown(found["camera"]),
        ]
        for each in result["queries"]
        for found in each["ranked"]
    ]
    title = f"{result['model']}, the nearest of {result['images']:,} images in {result['gallery']} ({result['engine']})"
    return f"{title}\n\n" + format_table(rows, ["query", "image", "rank", "similarity", "id", "camera"])
