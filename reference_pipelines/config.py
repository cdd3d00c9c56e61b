"""Typed configs: a frozen dataclass is the schema, a YAML recipe fills it, the command line overrides it."""

import dataclasses
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from reference_pipelines.data.transforms import Interpolation
from reference_pipelines.errors import UserError, closest

Config = TypeVar("Config")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The images.

    Args:
        root: folder of the data set.
        image_size: height and width that images are resized to.
        interpolation: how they are resized.
        workers: processes that decode images; 0 decodes in the main process.
    """

    root: str
    image_size: tuple[int, int] = (256, 128)
    interpolation: Interpolation = "bilinear"
    workers: int = 4


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Adam and its schedule.

    Args:
        learning_rate: after the warm-up.
        weight_decay: L2 penalty.
        epochs: how long to train.
        warmup_epochs: epochs over which the rate rises linearly; 0 is none.
        warmup_factor: part of the rate that the first epoch starts from.
        milestones: epochs from which on the rate is multiplied by gamma once more.
        gamma: the factor.
    """

    learning_rate: float
    weight_decay: float
    epochs: int
    warmup_epochs: int = 0
    warmup_factor: float = 0.01
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """How the features are tested.

    Args:
        every: evaluate after every so many epochs; the last epoch is always evaluated.
        flip: add the features of each image and of its mirror.
        batch_size: images a batch in extraction.
    """

    every: int = 10
    flip: bool = True
    batch_size: int = 128


Device = Literal["auto", "cpu", "cuda"]


def config_parser(schema: type, prog: str) -> ArgumentParser:
    """Return the parser of `schema`'s keys, with --config for a recipe."""
    parser = ArgumentParser(
        prog=prog, description=(schema.__doc__ or "").split("\n")[0], exit_on_error=False, allow_abbrev=False
    )
    parser.add_argument("--config", action="config", help="YAML recipe; what follows it on the line overrides it")
    parser.add_class_arguments(schema)
    return parser


def load_config(schema: type[Config], arguments: Sequence[str], *, prog: str = "train") -> Config:
    """Build a `schema` from command-line arguments such as ["--config", "recipe.yaml", "--seed", "2"].

    Raises:
        UserError: an unknown key (with the closest ones), a value of another type, or a recipe that is no YAML.
    """
    for flag, value in pairwise(arguments):
        if flag == "--config":
            check_recipe(schema, Path(value))
    parser = config_parser(schema, prog)
    try:
        values = parser.instantiate(parser.parse_args(list(arguments)))
    except ArgumentError as error:
        message = " ".join(str(error).split()).rstrip(".")
        hint = ""
        if "unrecognized arguments" in message:
            known = [f"--{key}" for key in _keys(schema)]
            wrong = message.partition("unrecognized arguments: ")[2].split()[0].partition("=")[0]
            hint = closest(wrong, known)
        raise UserError(f"{prog}: {message}{hint}") from None
    return schema(**{field.name: values[field.name] for field in dataclasses.fields(schema)})  # type: ignore[arg-type]


def check_recipe(schema: type, path: Path) -> None:
    """Refuse a recipe with a key that `schema` does not have, naming the closest ones."""
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"config: cannot read the recipe {path} ({error.strerror}); check --config") from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"config: {path} is not valid YAML ({reason})") from None
    if not isinstance(recipe, dict):
        raise UserError(f"config: {path} must hold keys and values, it holds {type(recipe).__name__}")
    known = _keys(schema)
    for key in _flatten(recipe):
        if key not in known and not any(key.startswith(f"{name}.") and not known[name] for name in known):
            raise UserError(f"config: {path} has an unknown key {key!r}{closest(key, known)}")


def _keys(schema: type, prefix: str = "") -> dict[str, bool]:
    """Return every dotted key and whether it is a section."""
    keys: dict[str, bool] = {}
    for field in dataclasses.fields(schema):
        section = dataclasses.is_dataclass(field.type)
        keys[prefix + field.name] = section
        if section:
            keys |= _keys(field.type, f"{prefix}{field.name}.")  # type: ignore[arg-type]
    return keys


def _flatten(tree: dict[str, Any], prefix: str = "") -> list[str]:
    keys = []
    for name, value in tree.items():
        keys += _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else [f"{prefix}{name}"]
    return keys


def to_plain(config: Any) -> dict[str, Any]:
    """Return a config as nested dicts and lists, as YAML and JSON hold it."""
    plain: dict[str, Any] = yaml.safe_load(yaml.safe_dump(_listed(dataclasses.asdict(config)), sort_keys=False))
    return plain


def _listed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, list | tuple) else value
