"""Extraction and scoring of a network on a data set's query and gallery."""

import warnings
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reference_pipelines.config.sections import DataConfig, EvaluationConfig
from reference_pipelines.data import ImageList, ReidData
from reference_pipelines.data.tracklets import Tracklets, one_a_tracklet
from reference_pipelines.distributed.processes import ALONE, Processes
from reference_pipelines.evaluation.extraction import extract_features
from reference_pipelines.retrieval import RetrievalResult, chance_level, evaluate


class Evaluator:
    """Tests a network on one data set; the protocol and the images stay the same through a run.

    Tracklets count as one query or gallery image each, with the pooled features of their images; `data` has the first
    image of each.

    Args:
        data: its query and gallery are used.
        data_config: image size, interpolation and workers.
        config: flip averaging and batch size.
        device: where the networks are.
        processes: who share the extraction and the scoring.
    """

    def __init__(
        self,
        data: ReidData,
        data_config: DataConfig,
        config: EvaluationConfig,
        device: torch.device,
        processes: Processes = ALONE,
    ) -> None:
        self.data = replace(data, query=one_a_tracklet(data.query), gallery=one_a_tracklet(data.gallery))
        self.images = data
        self.data_config = data_config
        self.config = config
        self.device = device
        self.processes = processes

    def features(self, model: nn.Module) -> tuple[Tensor, Tensor]:
        """Return on every process the features (Q, D) of the queries and (G, D) of the gallery, on the CPU."""
        model.eval()

        def extract(images: ImageList, title: str) -> Tensor:
            features = extract_features(
                model,
                images,
                self.data_config,
                batch_size=self.config.batch_size,
                flip=self.config.flip,
                device=self.device,
                title=title,
                processes=self.processes,
            )
            return torch.from_numpy(self.processes.spread(Tracklets(images).pool(features).numpy()))

        return extract(self.images.query, "query"), extract(self.images.gallery, "gallery")

    def __call__(self, model: nn.Module) -> RetrievalResult:
        """Return the retrieval result of `model`."""
        return self.score(*self.features(model))

    def score(self, query: Tensor, gallery: Tensor, **options: Any) -> RetrievalResult:
        """Return the retrieval result of the features (Q, D) and (G, D), which every process passes, on every process.

        Args:
            query: features of the queries.
            gallery: features of the gallery.
            options: of `retrieval.evaluate`.
        """
        queries, images = self.data.query, self.data.gallery

        sides = (query, queries.ids, queries.cameras, gallery, images.ids, images.cameras)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the result's remarks say it, and stay with it
            found = evaluate(*sides, **options, processes=self.processes)
        # Without cameras each image has a number of its own, which makes pairs of images.
        return found if self.data.cameras_known else replace(found, camera_pairs=())

    def chance(self) -> float:
        """Return the mAP of random rankings under the same protocol."""
        queries, images = self.data.query, self.data.gallery
        return chance_level(queries.ids, queries.cameras, images.ids, images.cameras)


def as_numbers(result: RetrievalResult) -> dict[str, Any]:
    """Return a result as it is written to result.json; "single_shot" only where it was asked for."""
    single = result.single_shot_cmc
    return {
        "mAP": result.mAP,
        "interval": None if result.interval is None else list(result.interval),
        **{f"rank{k}": value for k, value in result.cmc.items()},
        "mINP": result.mINP,
        "mAP_market": result.mAP_market,
        "interval_market": None if result.interval_market is None else list(result.interval_market),
        **({} if single is None else {"single_shot": {f"rank{k}": value for k, value in single.items()}}),
        "queries": len(result.queries),
        "skipped": result.skipped,
        "average_precision": np.round(result.average_precision, 5).tolist(),
        "camera_pairs": [asdict(pair) for pair in result.camera_pairs],
        "remarks": list(result.remarks),
    }
