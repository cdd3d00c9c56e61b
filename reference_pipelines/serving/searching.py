"""The images of a gallery that are most alike to some images."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reference_pipelines.config.clustering import Engine
from reference_pipelines.errors import UserError
from reference_pipelines.features.reading import FeatureStore
from reference_pipelines.neighbours.engines import Approximation, check_engine
from reference_pipelines.neighbours.gallery import find_in_gallery
from reference_pipelines.serving.embedder import Embedder, ImageLike


@dataclass(frozen=True)
class Ranking:
    """A gallery, ranked for each query.

    Args:
        queries: Q files, or which image it was where it came from none.
        gallery: the G images.
        engine: that found them; "exact" too where it was asked for so few queries that all were searched exactly.
        indices: (Q, k) rows of the gallery, the most alike first; -1 where an engine proposed too few.
        similarities: (Q, k) cosines; -inf for these.
        approximation: how many of the most alike were found, `str()` of it a sentence; None where all were.
    """

    queries: tuple[str, ...]
    gallery: FeatureStore
    engine: Engine
    indices: np.ndarray
    similarities: np.ndarray
    approximation: Approximation | None = None

    def to_plain(self) -> dict[str, Any]:
        """Return it as it is written to JSON: for each query the path, person, camera and similarity by rank."""
        rows = zip(self.queries, self.indices.tolist(), self.similarities.tolist(), strict=True)
        return {
            "gallery": str(self.gallery.folder),
            "images": len(self.gallery),
            "model": self.gallery.meta.title,
            "engine": self.engine,
            "approximation": None if self.approximation is None else str(self.approximation),
            "recall": None if self.approximation is None else self.approximation.recall,
            "queries": [{"query": query, "ranked": self._ranked(*found)} for query, *found in rows],
        }

    def _ranked(self, indices: Sequence[int], similarities: Sequence[float]) -> list[dict[str, Any]]:
        ids, cameras = self.gallery.ids, self.gallery.cameras
        return [
            {
                "rank": rank,
                "path": str(self.gallery.paths[index]),
                "id": None if ids is None else int(ids[index]),
                "camera": None if cameras is None else int(cameras[index]),
                "similarity": similarity,
            }
            for rank, (index, similarity) in enumerate(zip(indices, similarities, strict=True), start=1)
            if index >= 0
        ]


def search(
    queries: Embedder | FeatureStore,
    gallery: FeatureStore | str | Path,
    images: ImageLike | Sequence[ImageLike] | None = None,
    *,
    top: int = 10,
    engine: Engine = "exact",
    recall: float = 0.99,
) -> Ranking:
    """Rank a gallery for each query by cosine similarity, in double precision; ties are in the gallery's order.

    Args:
        queries: the network that computes the queries' features, or a store whose rows are the queries.
        gallery: a store, or its folder.
        images: to search for; of a store, those of its files that are meant, all if None.
        top: images to list for each query.
        engine: "exact", or an index of faiss, "faiss-flat" or "faiss-hnsw", that proposes the images which are then
            ranked in double precision; some may be missed. For up to 1,000 queries, of which the recall would be
            measured, the search is exact.
        recall: the part of the most alike images that an index is to find, above 0 and at most 1.

    Raises:
        TypeError: `queries` is neither, or what no image is.
        ValueError: an option is out of range, or a network is given no images.
        UserError: features of different networks, or damaged ones, an image that does not decode or is not in the
            store, or an engine without faiss.

    Example:
        model = reference_pipelines.load("runs/apnet")
        found = reference_pipelines.search(model, "features/gallery", ["who.jpg"], top=5)
        print(found.gallery.paths[found.indices[0, 0]], found.similarities[0, 0])
    """
    if top < 1:
        raise ValueError(f"search: top must be at least 1, got {top}")
    check_engine("search", engine, recall)
    store = gallery if isinstance(gallery, FeatureStore) else FeatureStore(gallery, "search")
    if isinstance(queries, FeatureStore):
        names, features = _of_store(queries, store, images)
    elif isinstance(queries, Embedder):
        names, features = _of_model(queries, store, images)
    else:
        raise TypeError(
            f"search: queries must be an Embedder or a FeatureStore, got {type(queries).__name__}; pass "
            "reference_pipelines.load(...) or FeatureStore(folder)"
        )
    store.check("search")
    found = find_in_gallery(features, store.features, top, engine=engine, recall=recall)
    used: Engine = "exact" if found.approximation is None else engine
    return Ranking(tuple(names), store, used, found.indices, found.similarities, found.approximation)


def _of_model(
    model: Embedder, gallery: FeatureStore, images: ImageLike | Sequence[ImageLike] | None
) -> tuple[list[str], np.ndarray]:
    if images is None:
        raise ValueError("search: a network needs images to search for, got none")
    _check_same(model.identity.to_plain(), gallery, model.title)
    features = model.embed(images).numpy()
    several = _several(images)
    if len(several) != len(features):  # an array of many
        several *= len(features)
    names = [
        str(image) if isinstance(image, str | Path) else f"image {number}" for number, image in enumerate(several, 1)
    ]
    return names, features


def _of_store(
    store: FeatureStore, gallery: FeatureStore, images: ImageLike | Sequence[ImageLike] | None
) -> tuple[list[str], np.ndarray]:
    _check_same(store.meta.model, gallery, store.folder)
    store.check("search")
    if images is None:
        return [str(path) for path in store.paths], np.asarray(store.features)
    rows = {path: row for row, path in enumerate(store.paths)}
    wanted = [Path(os.path.abspath(str(image))) for image in _several(images)]
    missing = [path for path in wanted if path not in rows]
    if missing:
        raise UserError(
            f"search: every query must be an image of {store.folder}, {missing[0]} is none; see its table.csv, or "
            "name the network instead of features"
        )
    return [str(path) for path in wanted], store.features[[rows[path] for path in wanted]]


def _several(images: object) -> list[object]:
    return list(images) if isinstance(images, Sequence) and not isinstance(images, str) else [images]


def _check_same(mine: Any, gallery: FeatureStore, queries: str | Path) -> None:
    """Refuse to compare what different networks, or different preprocessing, have made.

    Raises:
        UserError: they differ; the sentence says in what.
    """
    theirs = gallery.meta.model
    keys = [key for key in {**mine, **theirs} if mine.get(key) != theirs.get(key)]
    if keys:
        listed = ", ".join(f"{key} ({mine.get(key)} and {theirs.get(key)})" for key in keys)
        raise UserError(
            f"search: {queries} and {gallery.folder} must be of one network and preprocessing, "
            f"they differ in {listed}; extract the gallery with the network of the queries"
        )
