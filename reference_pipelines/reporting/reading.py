"""What a run's folder says, whole and checked, as the report shows it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attnreid.files import parse_json, read_json, read_text
from reference_pipelines.arrays import load_arrays
from reference_pipelines.data.layouts.published import PUBLISHED
from reference_pipelines.data.layouts.three_folders import MANIFEST
from reference_pipelines.errors import UserError
from reference_pipelines.ranks.files import from_bytes
from reference_pipelines.ranks.scoring import QueryRanks
from reference_pipelines.reporting.shapes import Maybe, check_shape
from reference_pipelines.reporting.table import evaluation_rows
from reference_pipelines.runs.folder import BEST, EVALUATIONS, HELD_OUT, RESULT, WEIGHTS
from reference_pipelines.runs.provenance import file_digest
from reference_pipelines.runs.result import read_result

_NEEDED = (
    *("pipeline", "title", "data", "weights", "chance", "start", "final", "train_seconds", "seconds"),
    *("hardware", "command", "commit", "code", "versions", "config"),
)
_LATER: dict[str, Any] = {"unfinished": None, "resumed": [], "weights_digest": None}  # what older results lack
# Who is on an image, and where: what runs of before do not tell.
_SEEN = {"person": Maybe(str), "camera": Maybe(int)}
_LIST: dict[str, Any] = {
    "query": str,
    "average_precision": float,
    "ranked": [{"image": str, "match": bool, **_SEEN}],
    **_SEEN,
}
_POINT = {"at": [float, float], "query": bool, "image": str, "person": str, "camera": Maybe(int)}
_DIGESTS: dict[Any, Any] = {str: Maybe(str)}
_EXAMPLES: dict[str, Any] = {
    "lists": [_LIST],
    "worst": Maybe([_LIST]),
    "attention_images": [str],
    "digests": Maybe(_DIGESTS),
    "embedding": Maybe({"shares": [float, float], "people": int, "points": [_POINT]}),
}
# Drawn over the epochs.
_MEASURES = (
    *("loss", "mAP", "held_out_mAP", "clusters", "noise"),
    *("id_purity", "camera_purity", "id_nmi", "silhouette"),
)
_LOGGED: dict[str, Any] = {"epoch": int, **dict.fromkeys(_MEASURES, Maybe(float))}
_VERSIONS: dict[Any, Any] = {str: str}
_CHANGED: dict[Any, Any] = {str: [object, object]}
_SHOTS: dict[Any, Any] = {str: float}
_SCORES: dict[str, Any] = {
    **dict.fromkeys(("rank1", "rank5", "rank10", "rank20", "mINP", "mAP_market"), Maybe(float)),
    "mAP": float,
    "interval": Maybe([float, float]),
    "interval_market": Maybe([float, float]),
    "average_precision": Maybe([float]),
    "camera_pairs": Maybe([{"query_camera": int, "gallery_camera": int, "queries": int, "rank1": float, "mAP": float}]),
    "remarks": Maybe([str]),
    "single_shot": Maybe(_SHOTS),
}
_DATA = {"name": str, "fingerprint": Maybe(str), "summary": Maybe(str)}
_STANDING = Maybe({"file": str})
_RESULT: dict[str, Any] = {
    **dict.fromkeys(("pipeline", "title", "weights", "hardware"), str),
    **dict.fromkeys(("command", "commit", "code", "weights_digest"), Maybe(str)),
    **dict.fromkeys(("train_seconds", "seconds"), float),
    "data": _DATA,
    "chance": Maybe(float),
    "start": Maybe({**_SCORES, "mAP": Maybe(float)}),
    "final": Maybe(_SCORES),
    "versions": _VERSIONS,
    "config": {
        "data": {"image_size": [int, int]},
        "optimizer": {"epochs": int},
        "model": {"backbone": str},
        "seed": Maybe(int),
    },
    "recipe": Maybe({"name": str, "title": str, "changed": _CHANGED}),
    "remarks": Maybe([str]),
    "clustering": Maybe({**dict.fromkeys(("clusters", "noise", "id_purity", "camera_purity"), Maybe(float))}),
    "unfinished": Maybe({"epoch": int, "epochs": int, "scored": Maybe(int)}),
    "resumed": Maybe([{"epoch": int, "code": Maybe(str), "changed": Maybe(_CHANGED)}]),
    "processes": Maybe(int),
    "ranks": _STANDING,
}
_EVALUATED: dict[str, Any] = {
    "title": str,
    "trained_on": _DATA,
    "tested_on": _DATA,
    "flip": bool,
    "reranked": bool,
    "chance": Maybe(float),
    "scores": _SCORES,
    "weights": {"name": str, "digest": Maybe(str)},
    "remarks": Maybe([str]),
    "ranks": _STANDING,
}
_PUBLISHED = frozenset(counts.title for counts in PUBLISHED.values())


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` wrote about a run later.

    Args:
        numbers: its JSON file.
        ranks: of its true matches; None where the file has none beside it.
    """

    numbers: Mapping[str, Any]
    ranks: QueryRanks | None


@dataclass(frozen=True)
class ReadRun:
    """What a run's folder says.

    Args:
        key: its name in the page's ids.
        folder: where it lies.
        result: result.json.
        ranks: of the true matches behind its final scores; None of an unfinished run, or one of before.
        log: the lines of log.jsonl.
        evaluations: what `evaluate` wrote about it later.
        lists: ranked lists of queries that are spread over the average precisions.
        worst: those of the queries with the lowest; None where the run did not keep them.
        embedding: the map of its features; None where there is none, or the run did not keep it.
        gates: of its attention, by "site/level".
        attention_images: the images that they are of.
        digests: of the images in the lists, as the run saw them.
    """

    key: str
    folder: Path
    result: Mapping[str, Any]
    ranks: QueryRanks | None
    log: Sequence[Mapping[str, Any]]
    evaluations: Sequence[Evaluation]
    lists: Sequence[Mapping[str, Any]]
    worst: Sequence[Mapping[str, Any]] | None
    embedding: Mapping[str, Any] | None
    gates: Mapping[str, np.ndarray]
    attention_images: Sequence[str]
    digests: Mapping[str, str]

    @property
    def setting(self) -> str:
        """The network, the image size and the length of the training."""
        config = self.result["config"]
        height, width = config["data"]["image_size"]
        epochs = config["optimizer"]["epochs"]
        return f"{config['model']['backbone']} at {height} × {width} pixels, {epochs} epoch{'' if epochs == 1 else 's'}"

    @property
    def weights(self) -> str:
        """What the training started from."""
        return "random" if self.result["weights"] == "none" else str(self.result["weights"])

    @property
    def rendered(self) -> bool:
        """Whether its queries are drawings of the renderer, which leaves a manifest beside them."""
        if "rendered" in self.result["data"]:
            return bool(self.result["data"]["rendered"])
        return any((folder / MANIFEST).is_file() for shown in self.lists for folder in Path(shown["query"]).parents[:3])

    @property
    def published(self) -> bool:
        """Whether it was tested on a whole data set that others publish numbers of."""
        return str(self.result["data"]["name"]).partition(", no cameras")[0] in _PUBLISHED

    def weights_digests(self) -> set[str]:
        """Return the digests of the weights that lie in its folder, by which a ledger knows them."""
        found = (file_digest(self.folder / name) for name in (WEIGHTS, BEST, HELD_OUT))
        return {digest for digest in found if digest is not None}


def read_run(folder: Path, key: str) -> ReadRun:
    """Read a run folder; `key` names it in the page.

    Raises:
        UserError: it is not the folder of a run.
    """
    try:
        result = read_result(folder)
        if result is None:
            found = f"it has no {RESULT} and no whole checkpoint" if folder.is_dir() else "there is no such folder"
            raise UserError(
                f"report: {folder} must be a run that has saved something, and {found}; name another folder"
            )
        result = {**_LATER, **result}
        lines = read_text(folder / "log.jsonl").splitlines()
        examples: dict[str, Any] = {"lists": [], "attention_images": []}
        gates: dict[str, np.ndarray] = {}
        if not result["unfinished"]:  # they are made at the end; what lies there is of an end before
            examples = read_json(folder / "examples.json")
            check_shape(examples, _EXAMPLES, "examples.json")
            gates = load_arrays(folder / "attention.npz")
        log = [parse_json(line) for line in lines if line.strip()]
        check_shape(log, [_LOGGED], "log.jsonl")
        later = sorted((folder / EVALUATIONS).glob("*.json"))
        evaluations = [_read_evaluation(path) for path in later]
        evaluation_rows([each.numbers for each in evaluations])  # to find a foreign file here
        ranks = _read_ranks(folder, result)
        lacking = [name for name in _NEEDED if name not in result]
        if not lacking:
            check_shape(result, _RESULT, RESULT)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"report: {folder} must hold a whole run, and it does not ({_reason(error)}); train it again"
        ) from None
    if lacking:
        raise UserError(
            f"report: {folder / RESULT} must come from `train`, and it lacks {', '.join(lacking)}; train it again"
        )
    return ReadRun(
        key=key,
        folder=folder,
        result=result,
        ranks=ranks,
        log=log,
        evaluations=evaluations,
        lists=examples["lists"],
        worst=examples.get("worst"),
        embedding=examples.get("embedding"),
        gates=gates,
        attention_images=examples["attention_images"],
        digests=examples.get("digests") or {},
    )


def _read_evaluation(path: Path) -> Evaluation:
    numbers = read_json(path)
    check_shape(numbers, _EVALUATED, path.name)
    return Evaluation(numbers, _read_ranks(path.parent, numbers))


def _read_ranks(folder: Path, numbers: Mapping[str, Any]) -> QueryRanks | None:
    """Return the ranks that a result names; None where it names none, as those of before and of unfinished runs.

    Raises:
        OSError: the file is not there.
        ValueError: it is none of ranks.
    """
    standing = numbers.get("ranks")
    return None if not standing else from_bytes((folder / standing["file"]).read_bytes())[0]


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"{Path(error.filename).name}: {error.strerror}"
    return f"{type(error).__name__}: {error}"
