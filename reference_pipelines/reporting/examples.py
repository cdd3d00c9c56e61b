"""What the report shows of a trained network, saved with the run: ranked lists and attention maps."""

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
from reference_pipelines.data import ReidData
from reference_pipelines.data.decoding import load_image
from reference_pipelines.data.transforms import evaluation_transform
from reference_pipelines.errors import writing
from reference_pipelines.retrieval import RetrievalResult, ranked_matches
from reference_pipelines.runs.provenance import file_digest

LISTS = 6
LIST_LENGTH = 10
MAPS = 6


def _ranked_lists(
    data: ReidData, query_features: Tensor, gallery_features: Tensor, result: RetrievalResult
) -> tuple[list[dict[str, Any]], list[Path]]:
    """Return ranked lists of some queries, and the images of these queries.

    The queries shown are spread evenly over the average precisions, worst to best, so that they are no selection.

    Args:
        data: whose query and gallery the features are of.
        query_features: (Q, D).
        gallery_features: (G, D).
        result: what they give.
    """
    by_precision = result.queries[np.argsort(result.average_precision, kind="stable")]
    shown = by_precision[np.linspace(0, len(by_precision) - 1, min(LISTS, len(by_precision))).round().astype(int)]
    precision = dict(zip(result.queries.tolist(), result.average_precision.tolist(), strict=True))
    lists = []
    for query in shown.tolist():
        ranked = ranked_matches(
            query_features[query],
            int(data.query.ids[query]),
            int(data.query.cameras[query]),
            gallery_features,
            data.gallery.ids,
            data.gallery.cameras,
            first=LIST_LENGTH,
        )
        lists.append(
            {
                "query": str(data.query.paths[query].resolve()),
                "average_precision": precision[query],
                "ranked": [{"image": str(data.gallery.paths[i].resolve()), "match": match} for i, match in ranked],
            }
        )
    return lists, [data.query.paths[query] for query in shown.tolist()]


def _spread_evenly(paths: Sequence[Path]) -> list[Path]:
    """Return some of the images, from the first to the last."""
    return [paths[i] for i in np.linspace(0, len(paths) - 1, min(MAPS, len(paths))).round().astype(int)]


def save_examples(
    folder: Path,
    model: nn.Module,
    data: ReidData,
    tested: tuple[Tensor, Tensor, RetrievalResult] | None,
    config: DataConfig,
    device: torch.device,
) -> None:
    """Write examples.json (ranked lists, digests of their images) and attention.npz (gates) into a run folder.

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
    lists, images = ([], _spread_evenly(data.train.paths)) if tested is None else _ranked_lists(data, *tested)
    images = images[:MAPS]
    shown_files = {entry["image"] for each in lists for entry in each["ranked"]} | {each["query"] for each in lists}
    document = {
        "lists": lists,
        "attention_images": [str(path.resolve()) for path in images],
        "digests": {path: file_digest(Path(path)) for path in sorted(shown_files)},
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
