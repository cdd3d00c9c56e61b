"""`search`: the images of a gallery that are most alike to some images."""

import json
from pathlib import Path
from typing import Any

from reference_pipelines.commands.options import SearchOptions, check_recall
from reference_pipelines.data.names import printable
from reference_pipelines.errors import UserError
from reference_pipelines.features.reading import FeatureStore, is_store
from reference_pipelines.serving.embedder import load
from reference_pipelines.serving.searching import search
from reference_pipelines.templates import write_page
from reference_pipelines.text_table import format_table


def run(options: SearchOptions) -> None:
    """Rank a gallery for each query, and print or show the ranking.

    Raises:
        UserError: no gallery, no queries, features of different networks, or a page that cannot be written.
    """
    check_recall("search", options.recall)
    gallery = FeatureStore(options.gallery, "search")
    if options.html is not None and (options.html.is_dir() or not options.html.absolute().parent.is_dir()):
        raise UserError(f"search: --html must be a file in a folder that exists, got {options.html}; name another")
    of_store = is_store(options.queries)
    if not of_store and not options.query:
        raise UserError("search: --query is missing; name the images to search for")
    flip = bool(gallery.meta.model.get("flip"))
    queries = (
        FeatureStore(options.queries, "search")
        if of_store
        else load(options.queries, device=options.device, flip=flip, who="search")
    )
    found = search(
        queries, gallery, options.query or None, top=options.top, engine=options.engine, recall=options.recall
    )
    result = found.to_plain()
    print(json.dumps(result, indent=1) if options.json else printable(_table(result)))
    if options.html is not None:
        from reference_pipelines.reporting.search_page import render_search

        try:
            write_page(options.html, render_search(result))
        except OSError as error:
            raise UserError(f"search: cannot write {options.html} ({error.strerror}); name another file") from None
        if not options.json:
            print(printable(f"\nthe pictures are in {options.html}"))


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
    how = ", ".join(word for word in (result["engine"], result["approximation"]) if word)
    title = f"{result['model']}, the nearest of {result['images']:,} images in {result['gallery']} ({how})"
    return f"{title}\n\n" + format_table(rows, ["query", "image", "rank", "similarity", "id", "camera"])
