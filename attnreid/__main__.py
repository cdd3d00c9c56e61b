"""The command line: where attention can stand in a model, and what a paper's attention costs there.

A mistake of the user's is answered in one sentence on stderr, with exit status 2 and nothing on stdout;
anything else is a bug and shows itself. torch is imported once the words are understood.
"""

import os
import sys
from collections.abc import Sequence

import attnreid
from attnreid._options import CostOptions, DoctorOptions, SitesOptions
from attnreid.command_line import Command, CompletionOptions, Program, start

_DESCRIPTION = """\
Look at a model before attention goes into it. A model is named as MODULE:CALLABLE: a function or
class of torchvision or any other package, or your own (models:build is build() in models.py of this
folder). The module is imported and the callable called, so their code runs. Where it can be, the
model is built without memory for its weights; none are downloaded."""

_EXAMPLES = """\
examples:
  {program} sites torchvision.models:resnet50 --input-size 256 128
  {program} cost torchvision.models:resnet50 --preset apnet --levels 2"""

_SITES = """\
List the modules of a model that give a map, by the names that attnreid.attach takes: the kind of
module, the channels and size of the map, and, where attention cannot stand there, why."""

_SITES_EXAMPLES = """\
examples:
  {program} sites torchvision.models:resnet50 --input-size 256 128
  {program} sites torchvision.models:inception_v3 --option aux_logits=False --all
  {program} sites models:build --json"""

_COST = """\
Put a paper's attention into a model and print where it stands, with the parameters and
multiply-adds that it adds, and those of the whole model without and with it."""

_COST_EXAMPLES = """\
examples:
  {program} cost torchvision.models:resnet50 --preset apnet --levels 2 --last-stride 1
  {program} cost torchvision.models:resnet50 --preset apnet --attention rga_s --levels 1,2
  {program} cost torchvision.models:resnet50 --preset mla --levels pixel,head --blocks last
  {program} cost torchvision.models:resnet50 --preset se --reduction 8
  {program} cost torchvision.models:resnet50 --preset apnet --json"""

_DOCTOR = """\
Print versions, devices, the packages of each extra, and what compiles and decodes here: what a bug
report needs. Every trial runs in a process of its own, half a minute in all."""

_DOCTOR_EXAMPLES = """\
examples:
  {program} doctor
  {program} doctor --json"""

_COMPLETION = """\
Print a script that completes the program's commands, options and their values in a shell. It knows
the options of this version: print it anew after an upgrade. It is made by shtab."""

_COMPLETION_EXAMPLES = """\
examples:
  {program} completion bash > ~/.local/share/bash-completion/completions/attnreid
  source <({program} completion bash)"""


def completion(options: CompletionOptions) -> None:
    """Print the script that completes this program's words."""
    from attnreid.command_line.completion import completion_script  # which imports argparse

    print(completion_script(PROGRAM, options.shell))


PROGRAM = Program(
    "attnreid",
    "attnreid",
    _DESCRIPTION,
    {
        "sites": Command(
            "where attention can stand in a model", "attnreid._answers:sites", SitesOptions, _SITES, _SITES_EXAMPLES
        ),
        "cost": Command(
            "what a paper's attention costs in a model", "attnreid._answers:cost", CostOptions, _COST, _COST_EXAMPLES
        ),
        "doctor": Command(
            "what this machine has and what works on it",
            "attnreid._doctor:doctor",
            DoctorOptions,
            _DOCTOR,
            _DOCTOR_EXAMPLES,
        ),
        "completion": Command(
            "a script that completes words in a shell",
            "attnreid.__main__:completion",
            CompletionOptions,
            _COMPLETION,
            _COMPLETION_EXAMPLES,
        ),
    },
    attnreid.__version__,
    _EXAMPLES,
)


def main(arguments: Sequence[str]) -> int:
    """Run one command and return the exit status: 0, 2 for a mistake, 130 for Ctrl-C.

    Args:
        arguments: what follows the program's name on the command line.
    """
    return PROGRAM.main(arguments)


def run() -> int:
    """Run what this process was started with and return its exit status."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # timm would fetch weights from there
    if not sys.flags.safe_path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does, for a model of this folder
    return start(main)


if __name__ == "__main__":
    sys.exit(run())
