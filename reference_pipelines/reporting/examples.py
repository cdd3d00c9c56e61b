"""What the report shows of a trained network, saved with the run: ranked lists, a map of the features, attention."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attnreid import record_attention
from attnreid.files import write_bytes, write_text
from reference_pipelines.config.sections import DataConfig
from reference_pipelines.data import ImageList, ReidData
from reference_pipelines.data.decoding import load_image
from reference_pipelines.data.transforms import evaluation_transform
from reference_pipelines.errors import writing
from reference_pipelines.retrieval import RetrievalResult, ranked_matches
from reference_pipelines.runs.provenance import file_digest
from reference_pipelines.unit_vectors import unit_rows

LISTS = 6
WORST = 6
LIST_LENGTH = 10
MAPS = 6
EMBEDDED_PEOPLE = 20
EMBEDDED_OF_EACH = 16
FITTED = 5000  # images that the map's axes are found on


def _ranked_lists(
    data: ReidData, query_features: Tensor, gallery_features: Tensor, result: RetrievalResult
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[Path]]:
    """Return ranked lists of some queries, those of the worst, and the images of the first.

    The first are spread evenly over the average precisions, worst to best, so that they are no selection.

    Args:
        data: whose query and gallery the features are of.
        query_features: (Q, D).
        gallery_features: (G, D).
        result: what they give.
    """
    by_precision = result.queries[np.argsort(result.average_precision, kind="stable")]
    shown = _spread(by_precision, LISTS).tolist()
    precision = dict(zip(result.queries.tolist(), result.average_precision.tolist(), strict=True))

    def ranked(query: int) -> dict[str, Any]:
        found = ranked_matches(
            query_features[query],
            int(data.query.ids[query]),
            int(data.query.cameras[query]),
            gallery_features,
            data.gallery.ids,
            data.gallery.cameras,
            first=LIST_LENGTH,
        )
        return {
            "query": str(data.query.paths[query].resolve()),
            **_who_and_where(data, data.query, query),
            "average_precision": precision[query],
            "ranked": [
                {
                    "image": str(data.gallery.paths[i].resolve()),
                    "match": match,
                    **_who_and_where(data, data.gallery, i),
                }
                for i, match in found
            ],
        }

    worst = by_precision[:WORST].tolist()
    return [*map(ranked, shown)], [*map(ranked, worst)], [data.query.paths[query] for query in shown]


def _who_and_where(data: ReidData, images: ImageList, place: int) -> dict[str, Any]:
    """Return the person on an image, as the data set names people, and its camera; None of what is not known."""
    person, camera = int(images.ids[place]), int(images.cameras[place])
    return {
        "person": data.id_name(person) if person > 0 else None,
        "camera": camera if data.cameras_known else None,
    }


def embed(data: ReidData, query_features: Tensor, gallery_features: Tensor) -> dict[str, Any] | None:
    """Return a map of the features of some people's images: their first two principal components.

    The components are those of the unit features of query and gallery, spread evenly where they are very many.

    Args:
        data: whose query and gallery the features are of.
        query_features: (Q, D).
        gallery_features: (G, D).

    Returns:
        `shares` of the variance that the two axes have, the `people` there are, and `points`, each with `at`, `person`,
        `camera`, `query` and `image`; None where there are fewer than three images or one dimension.
    """
    features = unit_rows(torch.cat([query_features, gallery_features])).double().numpy()
    if len(features) < 3 or features.shape[1] < 2:
        return None
    fitted = features[_spread(np.arange(len(features)), FITTED)]
    middle = fitted.mean(axis=0)
    axes, shares = principal_axes(fitted - middle)
    people = data.query.people()
    points = []
    for person in _spread(people, EMBEDDED_PEOPLE).tolist():
        for images, offset in ((data.query, 0), (data.gallery, len(data.query))):
            for place in _spread(np.flatnonzero(images.ids == person), EMBEDDED_OF_EACH // 2).tolist():
                at = (features[offset + place] - middle) @ axes
                points.append(
                    {
                        "at": np.round(at, 5).tolist(),
                        **_who_and_where(data, images, place),
                        "query": offset == 0,
                        "image": images.paths[place].name,
                    }
                )
    return {"shares": np.round(shares, 5).tolist(), "people": len(people), "points": points}


def principal_axes(centred: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (D, 2) the directions of the most variance, most first, and (2,) its shares of the whole.

    The largest component of a direction is positive, so that the same features give the same map. Where there are fewer
    rows than columns, a direction without variance is 0.

    Args:
        centred: (N, D) with columns of mean 0, N and D at least 2.
    """
    from scipy.linalg import eigh  # the report itself is written without scipy

    wide = len(centred) < centred.shape[1]  # the products of the rows then have the same variances, and are fewer
    products = centred @ centred.T if wide else centred.T @ centred
    whole, last = float(np.trace(products)), len(products) - 1
    values, vectors = eigh(products, subset_by_index=[last - 1, last])
    values, axes = np.maximum(values[::-1], 0), vectors[:, ::-1]
    if wide:
        varies = values > 1e-12 * whole  # below that the direction is one of rounding
        axes = np.where(varies, centred.T @ axes / np.sqrt(np.where(varies, values, 1)), 0)
    axes = axes * np.where(np.take_along_axis(axes, np.abs(axes).argmax(axis=0)[None], axis=0) < 0, -1.0, 1.0)
    return axes, values / whole if whole > 0 else np.zeros(2)


def _spread(items: np.ndarray, count: int) -> np.ndarray:
    """Return at most `count` of the items, evenly from the first to the last."""
    spread: np.ndarray = items[np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)]
    return spread


def save_examples(
    folder: Path,
    model: nn.Module,
    data: ReidData,
    tested: tuple[Tensor, Tensor, RetrievalResult] | None,
    config: DataConfig,
    device: torch.device,
) -> None:
    """Write examples.json (ranked lists, digests of their images, a map) and attention.npz (gates) into a run folder.

    Args:
        folder: of the run.
        model: the network.
        data: the images.
        tested: features (Q, D) of the queries and (G, D) of the gallery, and what they give; None where nothing was
            tested, so that there are no lists and the gates are of training images.
        config: how images are read.
        device: where the network is.

    Raises:
        UserError: the folder cannot be written.
    """
    lists: list[dict[str, Any]] = []
    worst: list[dict[str, Any]] = []
    if tested is None:
        images = [data.train.paths[place] for place in _spread(np.arange(len(data.train)), MAPS).tolist()]
    else:
        lists, worst, images = _ranked_lists(data, *tested)
    images = images[:MAPS]
    shown = [*lists, *worst]
    shown_files = {entry["image"] for each in shown for entry in each["ranked"]} | {each["query"] for each in shown}
    document = {
        "lists": lists,
        "worst": worst,
        "attention_images": [str(path.resolve()) for path in images],
        "digests": {path: file_digest(Path(path)) for path in sorted(shown_files)},
        "embedding": None if tested is None else embed(data, *tested[:2]),
    }
    gates = _gates(model, images, config, device)
    with writing(folder):
        write_text(folder / "examples.json", json.dumps(document, indent=1))
        write_bytes(folder / "attention.npz", gates)


@torch.no_grad()
def _gates(model: nn.Module, images: Sequence[Path], config: DataConfig, device: torch.device) -> bytes:
    """Return a .npz with one array a site and level, named "site/level", with a row an image."""
    transform = evaluation_transform(config.image_size, config.interpolation, config.normalisation)
    batch = torch.stack([transform(load_image(image)) for image in images]).to(device)
    model.eval()
    with record_attention(model) as recorded:
        model(batch)
    gates: dict[str, Any] = {
        f"{site}/{level}": gate.float().cpu().numpy()
        for site, levels in recorded.items()
        for level, gate in levels.items()
    }
    content = io.BytesIO()
    np.savez_compressed(content, **gates)
    return content.getvalue()
