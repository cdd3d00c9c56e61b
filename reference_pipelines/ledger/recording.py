"""A finished run, an evaluation or a failure into the ledger, with all that made it."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attnreid.files import read_bytes, read_json
from reference_pipelines.errors import UserError
from reference_pipelines.ledger.chain import append
from reference_pipelines.ledger.entry import Entry, Selection, config_digest, recipe_digest
from reference_pipelines.ledger.verifying import cmc_of, differences, scores_of
from reference_pipelines.ranks.files import from_bytes
from reference_pipelines.ranks.scoring import QueryRanks
from reference_pipelines.runs.folder import BEST, HELD_OUT, RESULT, WEIGHTS
from reference_pipelines.runs.provenance import file_digest, provenance

_SELECTION: dict[str, Selection] = {
    Path(WEIGHTS).stem: "last",
    Path(HELD_OUT).stem: "held_out",
    Path(BEST).stem: "oracle",
}
_KEPT = ("title", "pipeline", "command", "config", "hardware", "versions", "commit", "code", "seconds", "remarks")


def record(ledger: Path, slice_name: str, source: Path, *, cell: Mapping[str, str], once: bool = False) -> Entry:
    """Append a finished run or an evaluation to a ledger, once its ranks have given its scores again.

    Args:
        ledger: its folder.
        slice_name: the chain, such as "apnet.table2-demo-seed1".
        source: a run folder, whose last epoch is meant, or the JSON file of an `evaluate`.
        cell: where it belongs: `paper`, `row` and `dataset` as claims.csv names them, and `scale`.
        once: append nothing where it is the last line already.

    Returns:
        The line.

    Raises:
        UserError: the source is not finished, is not whole, or has no ranks; or the ledger cannot be appended to.
        ValueError: the name is none of a slice.
    """
    path = source / RESULT if source.is_dir() else source
    result = _read(path)
    ranks, precision = _ranks_of(path, result)
    evaluated = "tested_on" in result
    scores = result["scores"] if evaluated else result["final"]
    again = scores_of(ranks, cmc_of(scores))
    wrong = next(differences({name: scores.get(name) for name in again}, again, ranks, precision), None)
    if wrong is not None:
        raise UserError(f"ledger: the scores of {path} must be those of its ranks, and {wrong}; evaluate it again")
    try:
        fields = _of_evaluation(result) if evaluated else _of_run(path.parent, result)
    except (KeyError, TypeError, AttributeError) as error:
        raise _not_a_result(path, error) from None
    return append(
        ledger, slice_name, {**fields, "scores": again, "failure": None, "cell": dict(cell)}, ranks, once=once
    )


def record_failure(
    ledger: Path,
    slice_name: str,
    reason: str,
    *,
    pipeline: str,
    config: Mapping[str, Any],
    hardware: str,
    seconds: float,
    cell: Mapping[str, str],
) -> Entry:
    """Append a run that came to nothing, so that it stays.

    Args:
        ledger: its folder.
        slice_name: the chain.
        reason: what stopped it.
        pipeline: "apnet" or "mla".
        config: of the training, in plain values.
        hardware: where.
        seconds: that it took.
        cell: where its scores would belong.

    Returns:
        The line.

    Raises:
        UserError: the ledger cannot be appended to.
        ValueError: the name is none of a slice.
    """
    fields = {
        **provenance(),
        **_of_config(config),
        "source": "failure",
        "title": config["title"],
        "pipeline": pipeline,
        "trained_on": {},
        "tested_on": {},
        "protocol": {},
        "selection": "last",
        "weights": None,
        "start_weights": None,
        "hardware": hardware,
        "seconds": seconds,
        "remarks": [],
        "scores": None,
        "failure": reason,
        "cell": dict(cell),
    }
    return append(ledger, slice_name, fields, None)


def _read(path: Path) -> dict[str, Any]:
    try:
        result = read_json(path)
        scores = result["scores" if "tested_on" in result else "final"]
        _ = scores["mAP"], result["ranks"]["file"], *(result[name] for name in _KEPT)
        if not all(isinstance(each, dict) for each in (scores, result["ranks"], result["config"])):
            raise TypeError("its scores, ranks and config are no dicts")
        if not isinstance(result["remarks"], list):
            raise TypeError("its remarks are no list")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _not_a_result(path, error) from None
    if unfinished := result.get("unfinished"):
        told = unfinished if isinstance(unfinished, dict) else {}
        raise UserError(
            f"ledger: {path} must be of a finished run, it is of epoch {told.get('epoch')} of {told.get('epochs')}; "
            "go on with resume"
        )
    return dict(result)


def _not_a_result(path: Path, error: Exception) -> UserError:
    return UserError(
        f"ledger: {path} must be the result of a finished run or of an evaluation, with its ranks "
        f"({type(error).__name__}: {error}); finish it with resume, or evaluate it again"
    )


def _ranks_of(path: Path, result: Mapping[str, Any]) -> tuple[QueryRanks, Any]:
    file = path.parent / "ranks"
    try:
        file = path.with_name(result["ranks"]["file"])  # beside it, and nowhere else
        content = read_bytes(file)
        if hashlib.sha256(content).hexdigest() != result["ranks"].get("sha256"):
            raise ValueError("its digest is another")
        return from_bytes(content)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"ledger: {file} must be the ranks of {path.name}, and is not ({error}); evaluate it again"
        ) from None


def _of_config(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "config": dict(config),
        "config_sha256": config_digest(config),
        "recipe_sha256": recipe_digest(config),
        "seed": config["seed"],
    }


def _data(described: Mapping[str, Any]) -> dict[str, Any]:
    return {name: described.get(name) for name in ("name", "layout", "rendered", "summary", "fingerprint")}


def _of_run(folder: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    config = result["config"]
    return {
        **{name: result[name] for name in _KEPT},
        **_of_config(config),
        "source": "run",
        "trained_on": _data(result["data"]),
        "tested_on": _data(result["data"]),
        "protocol": {
            "flip": config["evaluation"]["flip"],
            "reranked": False,
            "image_size": config["data"]["image_size"],
        },
        "selection": "last",
        "weights": file_digest(folder / WEIGHTS),
        "start_weights": result["weights_digest"],
    }


def _of_evaluation(result: Mapping[str, Any]) -> dict[str, Any]:
    weights = result["weights"]
    if weights["name"] not in _SELECTION:
        raise UserError(
            f"ledger: the weights must be a run's {' or '.join(_SELECTION)}, whose selection is known, got "
            f"{weights['name']!r}; evaluate the run folder"
        )
    return {
        **{name: result[name] for name in _KEPT},
        **_of_config(result["config"]),
        "source": "evaluation",
        "trained_on": _data(result["trained_on"]),
        "tested_on": _data(result["tested_on"]),
        "protocol": {name: result[name] for name in ("flip", "reranked", "image_size")},
        "selection": _SELECTION[weights["name"]],
        "weights": weights["digest"],
        "start_weights": result["start_weights"],
    }
