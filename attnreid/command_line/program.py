"""A program of several commands: which one is meant, and how it ends."""

import errno
import io
import os
import select
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, TextIO

from attnreid.command_line.errors import UserError, closest
from attnreid.command_line.help import help_text, row
from attnreid.command_line.options import options_of, read_options, typed
from attnreid.command_line.words import is_option

_HELP = ("-h", "--help")
# What the system says of a path that it cannot follow, wherever the program first looks at it.
_PATHS = (errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.ENOTDIR)


@dataclass(frozen=True)
class Command:
    """One command of a program.

    Args:
        help: a line on what it does.
        run: where the function is that does it, as module:name, imported when the command is chosen. It returns the
            exit status, or None for 0.
        options: the dataclass that it is given; None where it reads the words, and --help among them, itself.
        description: what the help says of it, `help` if empty.
        examples: what the help ends with; {program} is how it was started.
        listed: of a command that reads its words itself, where the function is that returns its options.
    """

    help: str
    run: str
    options: type | None
    description: str = ""
    examples: str = ""
    listed: str = ""


@dataclass(frozen=True, kw_only=True)
class CompletionOptions:
    """Where words are to be completed.

    Args:
        shell: that reads the script.
    """

    shell: Literal["bash", "zsh", "tcsh"] = typed(word="SHELL")


@dataclass(frozen=True)
class Program:
    """A program of several commands.

    Args:
        script: the name that it is installed under.
        module: its package, for `python -m`.
        description: what it is.
        commands: by name, of one word or two.
        version: what --version prints.
        examples: what its help ends with.
        before: is given the command's name before that is run.
    """

    script: str
    module: str
    description: str
    commands: Mapping[str, Command]
    version: str
    examples: str = ""
    before: Callable[[str], None] = lambda name: None

    @property
    def name(self) -> str:
        """What it was started as."""
        return self.script if Path(sys.argv[0]).stem == self.script else f"python -m {self.module}"

    def main(self, arguments: Sequence[str], *, speaks: bool = True) -> int:
        """Run one command and return its exit status: 2 for a mistake, 130 for Ctrl-C.

        Args:
            arguments: what follows the program's name on the command line.
            speaks: whether this process says what is wrong, or another one that does the same.
        """
        try:
            try:
                return self._answer(arguments)
            finally:
                sys.stdout.flush()
        except UserError as mistake:
            if speaks:
                print(f"error: {mistake}", file=sys.stderr, flush=True)
            return 2
        except OSError as error:
            if error.errno not in _PATHS or error.filename is None:
                raise
            if speaks:
                said = f"cannot use {os.fsdecode(error.filename)} ({error.strerror}); name another file or folder"
                notes = "".join(f"; {note}" for note in getattr(error, "__notes__", ()))  # such as what a run has kept
                print(f"error: {' '.join(arguments[:1])}: {said}{notes}", file=sys.stderr, flush=True)
            return 2
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130

    def _answer(self, arguments: Sequence[str]) -> int:
        name = next((name for name in self.commands if name.split() == [*arguments[: len(name.split())]]), None)
        if name is None:
            return self._without_command(arguments)
        command, words = self.commands[name], arguments[len(name.split()) :]
        asked = bool({*_HELP} & {*words})
        see = f"{self.name} {name} --help"
        options: Any = words
        if command.options is not None and asked:
            about, examples = command.description or _sentence(command.help), command.examples.format(program=self.name)
            print(help_text(f"{self.name} {name}", about, options_of(command.options), examples))
            return 0
        if command.options is not None:
            options = read_options(name, command.options, words, see=see, elsewhere=self._options_without(name))
        if not asked:
            self.before(name)
        module, _, function = command.run.partition(":")
        status: int | None = getattr(import_module(module), function)(options)
        return status or 0

    def _without_command(self, arguments: Sequence[str]) -> int:
        """Answer a line that names no command: with help, the version, or what could be meant."""
        groups = {name.split()[0] for name in self.commands if " " in name}
        group = arguments[0] if arguments and arguments[0] in groups else ""
        inside = [name for name in self.commands if name.startswith(f"{group} ".lstrip())]
        words = arguments[bool(group) :]
        if words and words[0] in _HELP:
            print(self._help(inside, group))
            return 0
        if words and words[0] == "--version" and not group:
            print(f"{self.script} {self.version}")
            return 0
        see = f"see {' '.join([self.name, *([group] if group else [])])} --help"
        if words and is_option(words[0]):
            raise UserError(f"the command must come first, got {words[0]}; {see}")
        names = [name.removeprefix(group).split()[0] for name in inside]
        listed = f"one of {', '.join(dict.fromkeys(names))}"
        who = f"{group}: " if group else ""
        if not words:
            raise UserError(f"{who}which command? name {listed}; {see}")
        raise UserError(f"{who}the command must be {listed}, got {words[0]!r}{closest(words[0], names)}; {see}")

    def _help(self, names: Sequence[str], group: str) -> str:
        lines = [] if group else [self.description, ""]
        lines += [*(row(name, self.commands[name].help) for name in names), ""]
        lines += [f"{self.name} COMMAND --help lists a command's options.", self.examples.format(program=self.name)]
        usage = " ".join([f"usage: {self.name}", *([group] if group else []), "COMMAND ..."])
        return "\n".join([usage, "", *lines]).rstrip()

    def _options_without(self, name: str) -> dict[str, list[str]]:
        return {
            other: [option.name for option in options_of(command.options)]
            for other, command in self.commands.items()
            if command.options is not None and other != name
        }


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."


def start(main: Callable[[Sequence[str]], int]) -> int:
    """Run a program with the words that this process was started with and return its exit status, 141 where a pipe that
    it prints to has no reader any more.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may lack a character of a name
    try:
        return main(sys.argv[1:])
    except BrokenPipeError:
        left = [stream for stream in (sys.stdout, sys.stderr) if not _has_reader(stream)]
        if not left:  # it was another pipe, of a worker's
            raise
        for stream in left:  # as `| head` does; or the interpreter would complain of what is left to write
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return 141


def _has_reader(stream: TextIO) -> bool:
    """Return whether a stream is no pipe whose other end is closed; flushing tells it only where something is left."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
    except (AttributeError, io.UnsupportedOperation):  # a system without poll, or no file
        return True
    return not poll.poll(0)
