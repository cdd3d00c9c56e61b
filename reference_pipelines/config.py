"""Typed configs: a frozen dataclass is the schema, a YAML recipe fills it, the command line overrides it."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from reference_pipelines.data.transforms import Interpolation
from reference_pipelines.errors import UserError, closest, require

Config = TypeVar("Config")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The images.

    Args:
        root: folder of the data set, or a CSV file.
        layout: name of its layout; found by content when left out.
        image_size: height and width that images are resized to.
        interpolation: how they are resized.
        workers: processes that decode images; 0 decodes in the main process.
        skip_corrupt: decode every image before the run and leave out those that do not decode, instead of stopping
            at the first.
    """

    root: str
    layout: str | None = None
    image_size: tuple[int, int] = (256, 128)
    interpolation: Interpolation = "bilinear"
    workers: int = 4
    skip_corrupt: bool = False

    def __post_init__(self) -> None:
        require(
            min(self.image_size) >= 1,
            "data.image_size must be a height and a width above 0",
            self.image_size,
        )
        require(self.workers >= 0, "data.workers must be at least 0", self.workers)


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

    def __post_init__(self) -> None:
        require(self.learning_rate > 0, "optimizer.learning_rate must be above 0", self.learning_rate)
        require(self.weight_decay >= 0, "optimizer.weight_decay must be at least 0", self.weight_decay)
        require(self.epochs >= 1, "optimizer.epochs must be at least 1", self.epochs)
        require(self.warmup_epochs >= 0, "optimizer.warmup_epochs must be at least 0", self.warmup_epochs)
        require(0 < self.warmup_factor <= 1, "optimizer.warmup_factor must be in (0, 1]", self.warmup_factor)
        require(self.gamma > 0, "optimizer.gamma must be above 0", self.gamma)


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

    def __post_init__(self) -> None:
        require(self.every >= 1, "evaluation.every must be at least 1", self.every)
        require(self.batch_size >= 1, "evaluation.batch_size must be at least 1", self.batch_size)


Device = Literal["auto", "cpu", "cuda"]

# What the forward pass of training computes in; "none" is single precision. (YAML reads a bare "off" as false.)
Amp = Literal["none", "float16", "bfloat16"]


def config_parser(schema: type, prog: str) -> ArgumentParser:
    """Return the parser of `schema`'s keys, with --config for a recipe."""
    parser = ArgumentParser(
        prog=prog, description=(schema.__doc__ or "").split("\n")[0], exit_on_error=False, allow_abbrev=False
    )
    parser.add_argument("--config", action="config", help="YAML recipe; what follows it on the line overrides it")
    parser.add_class_arguments(schema)
    return parser


def load_config(
    schema: type[Config], arguments: Sequence[str], *, prog: str = "train", recipes: Path | None = None
) -> Config:
    """Build a `schema` from command-line arguments such as ["--config", "recipe.yaml", "--seed", "2"].

    Args:
        schema: the config's dataclass.
        arguments: keys and values; a recipe's values are overridden by what follows it.
        prog: who complains.
        recipes: folder whose recipes may be named without path and ending.

    Raises:
        UserError: an unknown key (with the closest ones), a value of another type, or a recipe that is no YAML.
    """
    given = [_with_recipe_found(item, recipes) for item in _one_word_each(arguments)]
    for item in given:
        if item.startswith("--config="):
            check_recipe(schema, Path(item.removeprefix("--config=")))
    parser = config_parser(schema, prog)
    try:
        values = parser.instantiate(parser.parse_args(given))
    except ArgumentError as error:
        raise UserError(f"{prog}: {_sentence(str(error), schema)}") from None
    return schema(**{field.name: values[field.name] for field in dataclasses.fields(schema)})  # type: ignore[arg-type]


def _one_word_each(arguments: Sequence[str]) -> list[str]:
    """Join `--config FILE` to `--config=FILE`, so that there is one spelling to look at."""
    words: list[str] = []
    for word in arguments:
        if words and words[-1] == "--config":
            words[-1] = f"--config={word}"
        else:
            words.append(word)
    return words


def _with_recipe_found(word: str, recipes: Path | None) -> str:
    name = word.removeprefix("--config=")
    if recipes is None or name == word or Path(name).exists():
        return word
    shipped = {path.stem: path for path in recipes.glob("*.yaml")}
    if name in shipped:
        return f"--config={shipped[name]}"
    if not Path(name).suffix:
        raise UserError(f"config: there is no recipe {name!r}; the recipes are {', '.join(sorted(shipped))}")
    return word


def _sentence(message: str, schema: type) -> str:
    """Say in the field's words what the parser says in its own."""
    message = " ".join(message.split()).rstrip(".")
    unknown = re.search(r"unrecognized arguments: (--[^\s=]+)", message)
    if unknown:
        return f"there is no option {unknown[1]}{closest(unknown[1], [f'--{key}' for key in _keys(schema)])}"
    missing = re.search(r"arguments are required: (\S+)", message)
    if missing:
        return f"--{missing[1].removeprefix('--')} is missing; give it on the command line or in the recipe"
    wrong = re.search(r'Parser key "([^"]+)": .*?Expected an? (.+?)\. Got value: (.+)', message)
    if wrong:
        kind = wrong[2].removeprefix("<class '").removesuffix("'>").replace("typing.", "")
        return f"--{wrong[1]} must be of the type {kind}, got {wrong[3]}"
    section = re.search(r'Parser key "([^"]+)": Unable to load config', message)
    if section:
        keys = ", ".join(f"--{key}" for key in _keys(schema) if key.startswith(f"{section[1]}."))
        return f"--{section[1]} is a section of keys: set {keys}"
    return message


def check_recipe(schema: type, path: Path) -> None:
    """Refuse a recipe with a key that `schema` does not have, naming the closest ones."""
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"config: cannot read the recipe {path} ({error.strerror}); check --config") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
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
