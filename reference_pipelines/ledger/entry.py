"""A line of the ledger: what made a number, the number, where its ranks lie, and the digest of the line before."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from attnreid.files import parse_json

FORMAT = 1
Selection = Literal["last", "held_out", "oracle"]
SELECTIONS: dict[str, str] = {
    "last": "the last epoch",
    "held_out": "the best on training identities that were held out",
    "oracle": "the best on the test set itself: an oracle, in no headline",
}

# What two runs of one recipe may differ in: who draws, where things lie, and what they are called.
_NOT_THE_RECIPE = ("title", "seed", "device", "data.root", "data.workers", "model.weights")


@dataclass(frozen=True)
class Entry:
    """One line.

    Args:
        slice: its chain.
        number: its place there, from 1.
        previous: digest of the line before, or of the slice's name.
        recorded: when it was appended, in UTC.
        cell: where it belongs: the paper, its row and data set, and the scale.
        source: "run", "evaluation", or "failure", which has no scores.
        title: of the run.
        pipeline: "apnet" or "mla".
        command: that made it.
        config: of the training.
        config_sha256: digest of `config`.
        recipe_sha256: digest of what of `config` two seeds have in common.
        seed: of the training.
        trained_on: the data set, with its fingerprint.
        tested_on: the same of query and gallery.
        protocol: how it was tested.
        selection: by which rule the weights were chosen.
        weights: digest of the tested weights.
        start_weights: digest of those that training began with; None where no file was given.
        hardware: where.
        versions: of attnreid and torch.
        commit: of the code, if it is known.
        code: digest of the code.
        seconds: that it took.
        remarks: what speaks against the scores.
        scores: made of the ranks alone; None of a failure.
        ranks: where they lie in the slice's file of ranks: `offset`, `bytes` and `sha256`; None of a failure.
        failure: why there are no scores.
    """

    slice: str
    number: int
    previous: str
    recorded: str
    cell: dict[str, str]
    source: Literal["run", "evaluation", "failure"]
    title: str
    pipeline: str
    command: str | None
    config: dict[str, Any]
    config_sha256: str
    recipe_sha256: str
    seed: int
    trained_on: dict[str, Any]
    tested_on: dict[str, Any]
    protocol: dict[str, Any]
    selection: Selection
    weights: str | None
    start_weights: str | None
    hardware: str
    versions: dict[str, str]
    commit: str | None
    code: str | None
    seconds: float
    remarks: list[str]
    scores: dict[str, Any] | None
    ranks: dict[str, Any] | None
    failure: str | None

    @property
    def held_out(self) -> int:
        """How many training people were left out, to select weights by."""
        evaluation = self.config.get("evaluation")
        return int(evaluation.get("held_out", 0)) if isinstance(evaluation, dict) else 0

    def to_line(self) -> bytes:
        """Return the line, without its end."""
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, separators=(",", ":")).encode()

    @classmethod
    def from_line(cls, line: bytes) -> "Entry":
        """Return what `to_line` wrote.

        Raises:
            ValueError: it is no line of this format.
        """
        try:
            fields = parse_json(line)
        except ValueError:
            raise ValueError("it is no JSON") from None
        if not isinstance(fields, dict) or fields.pop("format", None) != FORMAT:
            raise ValueError(f"it is no line of format {FORMAT}")
        names = {field.name for field in dataclasses.fields(cls)}
        if names != set(fields):
            raise ValueError(f"its fields are others than a line's: {', '.join(sorted(names ^ set(fields)))}")
        for name, kind in _KINDS.items():
            if not isinstance(fields[name], kind) or isinstance(fields[name], bool):
                raise ValueError(f"its {name!r} is {fields[name]!r:.60}")
        return cls(**fields)


_KINDS: dict[str, Any] = {
    **dict.fromkeys(("slice", "previous", "recorded", "source", "title", "config_sha256", "selection"), str),
    **dict.fromkeys(("cell", "config", "trained_on", "tested_on", "protocol"), dict),
    **dict.fromkeys(("scores", "ranks"), dict | None),
    **dict.fromkeys(("number", "seed"), int),
}


def digest(line: bytes) -> str:
    """Return the digest that the next line carries."""
    return hashlib.sha256(line).hexdigest()


def beginning(slice_name: str) -> str:
    """Return what the first line of a slice carries, so that no chain can pass for another slice's."""
    return digest(f"attnreid ledger, slice {slice_name}".encode())


def check_name(slice_name: str) -> None:
    """Refuse a slice's name that is no plain file name.

    Raises:
        ValueError: it is none.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", slice_name):
        raise ValueError(
            f"ledger: a slice's name must be letters, digits, '.', '_' and '-', got {slice_name!r}; "
            "for example apnet.table2-demo-seed1"
        )


def config_digest(config: Mapping[str, Any]) -> str:
    """Return the digest of a config, whatever the order of its keys."""
    return digest(json.dumps(config, sort_keys=True, separators=(",", ":")).encode())


def recipe_digest(config: Mapping[str, Any]) -> str:
    """Return the digest of what of a config the runs of one recipe have in common, whatever their seed and place."""
    kept = {name: dict(value) if isinstance(value, Mapping) else value for name, value in config.items()}
    for key in _NOT_THE_RECIPE:
        section, _, name = key.rpartition(".")
        part = kept.get(section) if section else kept
        if isinstance(part, dict):
            part.pop(name, None)
    return config_digest(kept)
