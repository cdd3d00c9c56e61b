"""Command lines out of dataclasses: a field is an option, its type says what it takes, `Args:` what it is for.

The commands of the library and those of the pipelines are read by this. Options and words may stand in any order, an
option is given once and in full, and what is wrong is said in one sentence that names it. Imports nothing but the
standard library, so that help and a mistyped word are answered at once. (argparse keeps the last of two options, knows
one place for a list, and its messages and jsonargparse's have no key that a sentence could be made of.)
"""

from attnreid.command_line.errors import UserError, closest
from attnreid.command_line.help import explained, help_text, row
from attnreid.command_line.options import REQUIRED, Option, argument_help, options_of, read_options, typed
from attnreid.command_line.program import Command, CompletionOptions, Program, start
from attnreid.command_line.values import convert, describe
from attnreid.command_line.words import Words, is_option, refuse_unknown, separate

__all__ = [
    "REQUIRED",
    "Command",
    "CompletionOptions",
    "Option",
    "Program",
    "UserError",
    "Words",
    "argument_help",
    "closest",
    "convert",
    "describe",
    "explained",
    "help_text",
    "is_option",
    "options_of",
    "read_options",
    "refuse_unknown",
    "row",
    "separate",
    "start",
    "typed",
]
