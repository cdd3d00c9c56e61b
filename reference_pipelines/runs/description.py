"""What a checkpoint says of its run: the description in its file, for evaluation, tables and reports."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from attnreid import read_description

_PROGRAM, _FORMAT = "reference_pipelines", 3  # formats 1 and 2 had files of their own
Kind = TypeVar("Kind")


class Damaged(Exception):
    """A checkpoint that is not whole or not one of a run, and why."""


@dataclass(frozen=True)
class RunDescription:
    """A run as it was when one of its checkpoints was saved.

    Args:
        pipeline: "apnet" or "mla".
        title: what tables call the run.
        config: the pipeline's config.
        recipe: the nearest shipped one, and what of it was changed.
        classes: of the network's classifier; None where it has none.
        data: what it was trained on, as `ReidData.describe` says it; None where nobody knows any more.
        fingerprint: of the images.
        weights: what the training started from.
        weights_digest: of that file; None where there was none.
        chance: mAP of random rankings; None where it is not known.
        hardware: where it was trained.
        remarks: what speaks against its scores.
        processes: how many trained together.
        command: that started the program.
        commit: of the code, if it is known.
        code: digest of the code.
        versions: of attnreid and torch.
        epoch: how many are done.
        start: scores of the network before training.
        scored: `epoch`, `mAP` and `rank1` of the last epoch that was evaluated.
        best: `epoch` and `mAP` of the best one.
        measured: in the last epoch, by the pipeline.
        resumed: how the run was gone on with, each time.
        seconds: that the run has taken.
        train_seconds: those of them in epochs.
    """

    pipeline: str
    title: str
    config: dict[str, Any]
    recipe: dict[str, Any] | None
    classes: int | None
    data: dict[str, Any] | None
    fingerprint: str
    weights: str
    weights_digest: str | None
    chance: float | None
    hardware: str
    remarks: list[str]
    processes: int
    command: str | None
    commit: str | None
    code: str
    versions: dict[str, str]
    epoch: int = 0
    start: dict[str, Any] = dataclasses.field(default_factory=dict)
    scored: dict[str, Any] = dataclasses.field(default_factory=dict)
    best: dict[str, Any] = dataclasses.field(default_factory=dict)
    measured: dict[str, Any] = dataclasses.field(default_factory=dict)
    resumed: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    train_seconds: float = 0.0

    @property
    def epochs(self) -> int:
        """How many epochs the recipe asks for."""
        return int(self.config["optimizer"]["epochs"])

    def to_json(self) -> dict[str, Any]:
        """Return the description as it stands in a checkpoint."""
        return {"program": _PROGRAM, "format": _FORMAT, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any] | None) -> "RunDescription":
        """Return what `to_json` wrote.

        Raises:
            Damaged: it is of another program or format, or a field is missing or of another type.
        """
        if content is None or content.get("program") != _PROGRAM or content.get("format") != _FORMAT:
            raise Damaged(f"it has no description of format {_FORMAT} of these pipelines")
        return read_fields(cls, content)


def describe_file(path: Path) -> tuple[RunDescription, dict[str, Any]]:
    """Return what a checkpoint says of its run, and the rest of its description; the whole file is verified.

    Args:
        path: the file, or a folder with model.safetensors in it.

    Raises:
        Damaged: it is not whole, or no checkpoint of a run.
    """
    try:
        content = read_description(path)
    except OSError as error:
        raise Damaged(f"{Path(str(error.filename)).name}: {error.strerror}") from None
    except ValueError as error:
        raise Damaged(str(error).removeprefix("read_description: ").rpartition("; ")[0]) from None
    description = RunDescription.from_json(content)
    return description, {key: value for key, value in (content or {}).items() if key not in _NAMES}


_NAMES = {"program", "format", *(field.name for field in dataclasses.fields(RunDescription))}


def read_fields(kind: type[Kind], content: Mapping[str, Any]) -> Kind:
    """Return a dataclass from JSON.

    Raises:
        Damaged: a field is missing or of another type.
    """
    values = {}
    for name, hint in get_type_hints(kind).items():
        if name not in content:
            raise Damaged(f"it lacks {name!r}")
        if not _fits(content[name], hint):
            raise Damaged(f"its {name!r} is {content[name]!r:.60}")
        values[name] = content[name]
    return kind(**values)


def _fits(value: Any, hint: Any) -> bool:
    if isinstance(hint, UnionType):
        return any(_fits(value, part) for part in get_args(hint))
    kind = get_origin(hint) or hint
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return value is None if kind in (None, NoneType) else type(value) is kind
