"""A script that completes a program's words in a shell, made by shtab from an argparse parser of the same options."""

import argparse
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from attnreid.command_line.errors import UserError
from attnreid.command_line.options import Option, options_of
from attnreid.command_line.program import Command, Program


def completion_script(program: Program, shell: str, *, everywhere: Iterable[str] = ()) -> str:
    """Return the script.

    Args:
        program: whose words are completed, under the name that it is installed under.
        shell: that reads the script; bash, zsh or tcsh.
        everywhere: options without a value that every command takes.

    Raises:
        UserError: shtab is not installed.
    """
    try:
        shtab: Any = import_module("shtab")
    except ModuleNotFoundError:
        raise UserError(
            "completion: shtab makes the script and is not installed; pip install 'attnreid[completion]'"
        ) from None
    parser = argparse.ArgumentParser(program.script, allow_abbrev=False)
    parser.add_argument("--version", action="store_true")
    commands = parser.add_subparsers()
    groups: dict[str, Any] = {}
    for name, command in program.commands.items():
        group, _, own = name.rpartition(" ")
        if group and group not in groups:
            inside = [other for other in program.commands if other.startswith(f"{group} ")]
            groups[group] = commands.add_parser(group, help=", ".join(inside)).add_subparsers()
        taken = groups[group] if group else commands
        child = taken.add_parser(own, help=command.help, allow_abbrev=False)
        for option in [*_listed(command), *(Option(each, each, bool, constant=True) for each in everywhere)]:
            _add(child, option, shtab)
    script: str = shtab.complete(parser, shell)
    return script


def _listed(command: Command) -> list[Option]:
    """Return a command's options; of one that reads its words itself, those that it names."""
    if command.options is not None:
        return options_of(command.options)
    module, _, function = command.listed.partition(":")
    found: list[Option] = getattr(import_module(module), function)()
    return found


def _add(parser: argparse.ArgumentParser, option: Option, shtab: Any) -> None:
    if option.constant is not None:
        parser.add_argument(option.name, action="store_true", help=option.help)
        return
    parts = get_args(option.kind)
    inner = next((part for part in parts if get_origin(part) is Literal), option.kind)
    kind = next((part for part in (option.kind, *parts) if part in (bool, Path)), None)
    more: dict[str, Any] = {"choices": [str(each) for each in get_args(inner)]} if get_origin(inner) is Literal else {}
    if kind is bool:
        more["choices"] = ["true", "false"]
    if option.count != 1:
        more["nargs"] = "*" if option.count is None else option.count
    action = parser.add_argument(option.name, help=option.help.replace("%", "%%"), **more)
    if kind is Path:
        action.complete = shtab.FILE  # type: ignore[attr-defined]
