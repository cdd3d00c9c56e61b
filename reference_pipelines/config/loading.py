"""Typed configs: a frozen dataclass is the schema, a YAML recipe fills it, the command line overrides it."""

import dataclasses
import math
import re
import reprlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from reference_pipelines.commands.arguments import refuse_unknown, separate
from reference_pipelines.errors import UserError, closest, require

Config = TypeVar("Config")

_SINGULAR = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
_PLURAL = {int: "whole numbers", float: "numbers", str: "texts"}
_EXAMPLE = {2: "64 32", 3: "0 0 0"}


Device = Literal["auto", "cpu", "cuda"]

# What the forward pass of training computes in; "none" is single precision. (YAML reads a bare "off" as false.)
Amp = Literal["none", "float16", "bfloat16"]


def config_parser(schema: type, prog: str) -> ArgumentParser:
    """Return the parser of `schema`'s keys, with --config for a recipe."""
    parser = ArgumentParser(
        prog=prog, description=(schema.__doc__ or "").split("\n")[0], exit_on_error=False, allow_abbrev=False
    )
    parser.add_argument(
        "--config", action="config", help="recipe, a name or a YAML file; the other options override it"
    )
    parser.add_class_arguments(schema)
    return parser


def word_counts(schema: type) -> dict[str, int | None]:
    """Return how many words each option of `schema` takes on the command line; None is any number."""
    kinds = _kinds(schema)
    return {"--config": 1, "--print_config": 0, **{f"--{key}": _count(kind) for key, kind in kinds.items()}}


def load_config(
    schema: type[Config], arguments: Sequence[str], *, prog: str = "train", recipes: Path | None = None
) -> Config:
    """Build a `schema` from command-line arguments such as ["--config", "recipe.yaml", "--seed", "2"].

    Args:
        schema: the config's dataclass.
        arguments: keys and values; they override the recipe's, wherever they stand.
        prog: who complains.
        recipes: folder whose recipes may be named without path and ending.

    Raises:
        UserError: an unknown key (with the closest ones), a value of another type, or a recipe that is no YAML.
    """
    kinds = _kinds(schema)
    words = separate(prog, arguments, word_counts(schema))
    refuse_unknown(prog, words.options, word_counts(schema))
    if words.bare:
        raise UserError(
            f"{prog}: {words.bare[0]!r} belongs to no option; write --name VALUE, and a value with spaces in quotes"
        )
    recipe: dict[str, Any] = {}
    given, named = words.arguments(), words.options.get("--config")
    if named is not None:
        path = _find_recipe(named, recipes)
        recipe = read_recipe(schema, path)
        # What comes later overrides what came before.
        given = [f"--config={path}", *(word for word in given if not word.startswith("--config="))]
    missing = [key for key in _required(schema) if f"--{key}" not in words.options and recipe.get(key) is None]
    if missing and "--print_config" not in words.options:
        raise UserError(f"{prog}: {_missing(missing, named, recipes)}")
    parser = config_parser(schema, prog)
    try:
        values = parser.instantiate(parser.parse_args(given))
    except ArgumentError as error:
        message = " ".join(str(error).split()).rstrip(".")
        wrong = re.search(r'Parser key "([^"]+)"', message)
        if wrong and wrong[1] in kinds:
            raise UserError(_wrong_value(prog, wrong[1], kinds[wrong[1]], words.options, recipe)) from None
        raise UserError(f"{prog}: {message}") from None
    config = schema(**{field.name: values[field.name] for field in dataclasses.fields(schema)})  # type: ignore[arg-type]
    for key, value in _flatten(dataclasses.asdict(config)).items():  # type: ignore[call-overload]
        numbers = [each for each in (value if isinstance(value, tuple) else [value]) if isinstance(each, float)]
        require(all(map(math.isfinite, numbers)), f"{key} must be finite", value)
    return config


def _find_recipe(name: str, recipes: Path | None) -> Path:
    """Return the file that --config names: a path, or a name in the folder of recipes."""
    if recipes is None or Path(name).is_file():
        return Path(name)
    shipped = {path.stem: path for path in recipes.glob("*.yaml")}
    if name in shipped:
        return shipped[name]
    listed = f"the recipes are {', '.join(sorted(shipped))}"
    if owners := sorted(path.parts[-3] for path in Path(__file__).parents[1].glob("*/recipes/*.yaml") if path.stem == name):
        owner = owners[0]
        raise UserError(
            f"config: {name} is a recipe of {owner}, for `train {owner} --config {name}`; {listed} for "
            f"`train {recipes.parent.name}`"
        )
    if Path(name).suffix:
        return Path(name)
    raise UserError(f"config: there is no recipe {name!r}; {listed}, or give a YAML file{closest(name, shipped)}")


def _missing(keys: Sequence[str], recipe: str | None, recipes: Path | None) -> str:
    names = [f"--{key}" for key in keys]
    if recipe is None and recipes is not None:
        shipped = ", ".join(sorted(path.stem for path in recipes.glob("*.yaml")))
        return f"--config is missing; name a recipe, {shipped}, or a YAML file (or give {', '.join(names)} here)"
    are = "is missing; give it" if len(names) == 1 else "are missing; give them"
    return f"{', '.join(names)} {are} on the command line or in the recipe"


def _wrong_value(prog: str, key: str, kind: Any, options: Mapping[str, str], recipe: Mapping[str, Any]) -> str:
    """Say what a key's value must be."""
    if f"--{key}" in options:
        return f"{prog}: --{key} must be {_described(kind)}, got {options[f'--{key}']}"
    value = recipe.get(key)
    read = "; YAML reads no, off, yes and on as false and true: put them in quotes" if isinstance(value, bool) else ""
    return f"{prog}: {key} in {options.get('--config')} must be {_described(kind)}, got {value!r}{read}"


def _count(kind: Any) -> int | None:
    if get_origin(kind) is not tuple:
        return 1
    parts = get_args(kind)
    return None if Ellipsis in parts else len(parts)


def _described(kind: Any) -> str:
    """Say what values a type has."""
    parts = get_args(kind)
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if get_origin(kind) is tuple:
        if Ellipsis not in parts:
            return f"{len(parts)} {_PLURAL[parts[0]]}, such as {_EXAMPLE[len(parts)]}"
        inner = _PLURAL.get(parts[0]) or f"any of {', '.join(map(str, get_args(parts[0])))}"
        return f"{inner}, with spaces between them, or [] for none"
    if parts:
        return " or ".join("null" if part is type(None) else _described(part) for part in parts)
    return _SINGULAR[kind]


def read_recipe(schema: type, path: Path) -> dict[str, Any]:
    """Return a recipe's values by dotted key.

    Raises:
        UserError: it cannot be read, or has a key that `schema` does not have (with the closest ones), a key twice, or
            one without a value.
    """
    try:
        text = path.read_text(encoding="utf-8")
        recipe = yaml.safe_load(text)
        twice = _given_twice(yaml.compose(text, Loader=yaml.SafeLoader))
    except OSError as error:
        raise UserError(f"config: cannot read the recipe {path} ({error.strerror}); check --config") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"config: {path} is not valid YAML ({reason})") from None
    if not isinstance(recipe, dict):
        raise UserError(f"config: {path} must hold keys and values, it holds {_said(recipe)}")
    if twice:
        raise UserError(f"config: {path} must give a key once, it gives {twice} twice; leave one of them out")
    kinds, required = _kinds(schema), _required(schema)
    values = _flatten(recipe, kinds)
    for key, value in values.items():
        if value == {} and any(each.startswith(f"{key}.") for each in kinds):
            continue
        if keys := [each for each in kinds if each.startswith(f"{key}.")]:
            raise UserError(
                f"config: {path}: {key} is a section of keys ({', '.join(keys)}), it holds {_said(value)}; give them, "
                "or leave the section out"
            )
        if key not in kinds:
            raise UserError(f"config: {path} has an unknown key {key!r}{closest(key, kinds)}")
        if value is None and type(None) not in get_args(kinds[key]) and key not in required:
            raise UserError(f"config: {path}: {key} has no value; give one, or leave the key out for its default")
    return values


def _given_twice(node: Any, prefix: str = "", seen: set[str] | None = None) -> str | None:
    """Return the first key that a YAML document gives twice, of which a loader would take the last."""
    seen = set() if seen is None else seen
    for name, value in node.value if isinstance(node, yaml.MappingNode) else ():
        key = f"{prefix}{name.value}"
        if key in seen:
            return key
        seen.add(key)
        if inner := _given_twice(value, f"{key}.", seen):
            return inner
    return None


def _kinds(schema: type, prefix: str = "") -> dict[str, Any]:
    """Return every dotted key with its type."""
    kinds: dict[str, Any] = {}
    for field in dataclasses.fields(schema):
        if dataclasses.is_dataclass(field.type):
            kinds |= _kinds(field.type, f"{prefix}{field.name}.")  # type: ignore[arg-type]
        else:
            kinds[prefix + field.name] = field.type
    return kinds


def _required(schema: type, prefix: str = "") -> list[str]:
    """Return the dotted keys that have no default: a recipe may leave their values to the command line."""
    keys: list[str] = []
    for field in dataclasses.fields(schema):
        if field.default is dataclasses.MISSING:
            section = dataclasses.is_dataclass(field.type)
            keys += _required(field.type, f"{prefix}{field.name}.") if section else [prefix + field.name]  # type: ignore[arg-type]
    return keys


def _flatten(tree: Mapping[Any, Any], keys: Collection[str] = (), prefix: str = "") -> dict[str, Any]:
    """Return the values by dotted key; those of `keys` are values, whatever they hold."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        section = isinstance(value, dict) and value and key not in keys
        flat |= _flatten(value, keys, f"{key}.") if section else {key: value}
    return flat


def _said(value: Any) -> str:
    return "nothing" if value is None else reprlib.repr(value)


def to_plain(config: Any) -> dict[str, Any]:
    """Return a config as nested dicts and lists, as YAML and JSON hold it."""
    plain: dict[str, Any] = yaml.safe_load(yaml.safe_dump(_listed(dataclasses.asdict(config)), sort_keys=False))
    return plain


def _listed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, list | tuple) else value
