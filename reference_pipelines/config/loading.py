"""Typed configs: a frozen dataclass is the schema, a YAML recipe fills it, the command line overrides it."""

import dataclasses
import functools
import math
import reprlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml

from attnreid.command_line import (
    REQUIRED,
    Option,
    Words,
    argument_help,
    closest,
    convert,
    describe,
    refuse_unknown,
    separate,
)
from attnreid.files import read_text
from reference_pipelines.config.attention import modern
from reference_pipelines.config.clustering import modern_engine
from reference_pipelines.errors import UserError, require

Config = TypeVar("Config")

CONFIG_OPTION = Option("--config", "config", str, None, "recipe, a name or a YAML file; the other options override it")
_PACKAGE = Path(__file__).parents[1]
_WHOLE_NUMBER, _MOST_DIGITS = "tag:yaml.org,2002:int", 1000  # Python shows no number of more than 4,300
_MOST_VALUES = 10_000  # of a recipe; an alias may stand for aliases, and so on


def keys_of(schema: type) -> Mapping[str, Option]:
    """Return every dotted key of a config, with its type, default and what it is for."""
    return _keys_of(schema, "")


@functools.cache
def _keys_of(schema: type, prefix: str) -> Mapping[str, Option]:
    keys: dict[str, Option] = {}
    helps = argument_help(schema)
    for field in dataclasses.fields(schema):
        key = prefix + field.name
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            section = dict(_keys_of(field.type, f"{key}."))
            if field.default is not dataclasses.MISSING:
                values = flat(dataclasses.asdict(field.default), section, f"{key}.")
                section = {name: dataclasses.replace(option, default=values[name]) for name, option in section.items()}
            keys |= section
        else:
            default = REQUIRED if field.default is dataclasses.MISSING else field.default
            keys[key] = Option(f"--{key}", key, field.type, default, helps.get(field.name, ""))
    return keys


def word_counts(schema: type) -> dict[str, int | None]:
    """Return how many words each option of a config takes on the command line; None is any number."""
    return {CONFIG_OPTION.name: 1, **{option.name: option.count for option in keys_of(schema).values()}}


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
    words, recipe = _given(schema, arguments, prog, recipes)
    missing = [
        key
        for key, option in keys_of(schema).items()
        if option.default is REQUIRED and option.name not in words.options and recipe.get(key) is None
    ]
    if missing:
        named = words.options.get("--config")
        raise UserError(f"{prog}: {_missing(missing, None if named is None else named[0], recipes)}")
    values = _values(schema, words, recipe, prog)
    for key, value in values.items():
        numbers = [each for each in (value if isinstance(value, tuple) else [value]) if isinstance(each, float)]
        require(all(map(math.isfinite, numbers)), f"{key} must be finite", value)
    return _build(schema, values)


def shown_config(schema: type, arguments: Sequence[str], *, prog: str, recipes: Path) -> str:
    """Return, as YAML, the config that arguments give; a key that is still to be given is null."""
    words, recipe = _given(schema, arguments, prog, recipes)
    values = _values(schema, words, recipe, prog)
    tree: dict[str, Any] = {}
    for key in keys_of(schema):
        section, _, name = f".{key}".rpartition(".")
        inner = tree
        for part in section.split(".")[1:]:
            inner = inner.setdefault(part, {})
        inner[name] = values.get(key)
    return yaml.safe_dump(_listed(tree), sort_keys=False, allow_unicode=True)


def _given(schema: type, arguments: Sequence[str], prog: str, recipes: Path | None) -> tuple[Words, dict[str, Any]]:
    """Return the words of a command line and the values of the recipe that they name."""
    words = separate(prog, arguments, word_counts(schema))
    refuse_unknown(prog, words.options, word_counts(schema))
    if words.bare:
        raise UserError(
            f"{prog}: {words.bare[0]!r} belongs to no option; write --name VALUE, and a value with spaces in quotes"
        )
    named = words.options.get("--config")
    return words, {} if named is None else read_recipe(schema, _find_recipe(named[0], recipes))


def _values(schema: type, words: Words, recipe: Mapping[str, Any], prog: str) -> dict[str, Any]:
    """Return the value of each key: the command line's, else the recipe's, else the default, where there is one."""
    values = {}
    for key, option in keys_of(schema).items():
        if option.name in words.options:
            values[key] = option.value(prog, words.options[option.name])
        elif recipe.get(key) is not None or (key in recipe and option.default is not REQUIRED):
            try:
                values[key] = convert(option.kind, recipe[key])
            except ValueError:
                raise UserError(f"{prog}: {_wrong_value(option, words.options['--config'][0], recipe[key])}") from None
        elif option.default is not REQUIRED:
            values[key] = option.default
    return values


def _build(schema: type[Config], values: Mapping[str, Any], prefix: str = "") -> Config:
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(schema):  # type: ignore[arg-type]
        key = prefix + field.name
        fields[field.name] = values[key] if key in values else _build(field.type, values, f"{key}.")  # type: ignore[arg-type]
    return schema(**fields)


def _find_recipe(name: str, recipes: Path | None) -> Path:
    """Return the file that --config names: a path, or a name in the folder of recipes."""
    if recipes is None or Path(name).is_file():
        return Path(name)
    shipped = {path.stem: path for path in recipes.glob("*.yaml")}
    if name in shipped:
        return shipped[name]
    listed = f"the recipes are {', '.join(sorted(shipped))}"
    if owners := sorted(path.parts[-3] for path in _PACKAGE.glob("*/recipes/*.yaml") if path.stem == name):
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
    return f"{', '.join(names)} {are} on the command line or in {recipe or 'the recipe'}"


def _wrong_value(option: Option, path: str, value: Any) -> str:
    """Say what a recipe's value must be."""
    read = "; YAML reads no, off, yes and on as false and true: put them in quotes" if isinstance(value, bool) else ""
    return f"{option.key} in {path} must be {describe(option.kind)}, got {_said(value)}{read}"


def read_recipe(schema: type, path: Path) -> dict[str, Any]:
    """Return a recipe's values by dotted key.

    Raises:
        UserError: it cannot be read, or has a key that `schema` does not have (with the closest ones), a key twice, or
            one without a value.
    """
    try:
        recipe, twice = _parse(read_text(path))
    except OSError as error:
        raise UserError(f"config: cannot read the recipe {path} ({error.strerror}); check --config") from None
    except ValueError as error:
        raise UserError(f"config: {path} is not valid YAML ({error})") from None
    if not isinstance(recipe, dict):
        raise UserError(f"config: {path} must hold keys and values, it holds {_said(recipe)}")
    if twice:
        raise UserError(f"config: {path} must give a key once, it gives {twice} twice; leave one of them out")
    keys = keys_of(schema)
    values = modern_engine(modern(flat(recipe, keys)))
    for key, value in values.items():
        section = [each for each in keys if each.startswith(f"{key}.")]
        if section and value == {}:
            continue
        if section:
            raise UserError(
                f"config: {path}: {key} is a section of keys ({', '.join(section)}), it holds {_said(value)}; give "
                "them, or leave the section out"
            )
        if key not in keys:
            raise UserError(f"config: {path} has an unknown key {key!r}{closest(key, keys)}")
        optional = type(None) in get_args(keys[key].kind)
        if value is None and not optional and keys[key].default is not REQUIRED:
            raise UserError(f"config: {path}: {key} has no value; give one, or leave the key out for its default")
    return values


def read_yaml(path: Path) -> Any:
    """Return the plain data in a YAML file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no YAML of plain data.
    """
    return _parse(read_text(path))[0]


def _parse(text: str) -> tuple[Any, str | None]:
    """Return what a YAML text holds, and the first key that it gives twice.

    Raises:
        ValueError: it is no YAML, has a value that its tag does not fit, or is too much by its aliases.
    """
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is not None and _expanded(node, {}) > _MOST_VALUES:
            raise ValueError(f"its aliases make more than {_MOST_VALUES:,} values of it")
        return None if node is None else loader.construct_document(node), _given_twice(node)
    except Exception as error:  # PyYAML raises much else than its own errors where a value does not fit its tag
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from None


def _expanded(node: Any, known: dict[int, float]) -> float:
    """Return how many values a node is with its aliases written out; infinitely many where it stands in itself."""
    if id(node) not in known:
        known[id(node)] = math.inf
        if node.tag == _WHOLE_NUMBER and len(node.value) > _MOST_DIGITS:
            raise ValueError(f"line {node.start_mark.line + 1} has a number of {len(node.value):,} digits")
        parts = node.value if isinstance(node, yaml.CollectionNode) else ()
        inside = (each for part in parts for each in (part if isinstance(part, tuple) else (part,)))
        known[id(node)] = 1 + sum(_expanded(each, known) for each in inside)
    return known[id(node)]


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


def _said(value: Any) -> str:
    return "nothing" if value is None else reprlib.repr(value)


def to_plain(config: Any) -> dict[str, Any]:
    """Return a config as nested dicts and lists, as YAML and JSON hold it."""
    plain: dict[str, Any] = _listed(dataclasses.asdict(config))
    return plain


def _listed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, list | tuple) else value


def flat(tree: Mapping[Any, Any], keys: Collection[str] = (), prefix: str = "") -> dict[str, Any]:
    """Return nested values by dotted key; those of `keys` are values, whatever they hold."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        section = isinstance(value, dict) and value and key not in keys
        found |= flat(value, keys, f"{key}.") if section else {key: value}
    return found


def defaults_of(schema: type) -> dict[str, Any]:
    """Return the defaults of a config by dotted key, as YAML and JSON hold them."""
    defaults = {key: option.default for key, option in keys_of(schema).items()}
    return {key: _listed(value) for key, value in defaults.items() if value is not REQUIRED}
