"""What is imported before a command answers, and before it works: one process looks at all of them."""

import subprocess
import sys

# What takes from a tenth of a second to several seconds to import.
ANSWERING = """
import contextlib, io, sys

from attnreid.__main__ import PROGRAM as library
from reference_pipelines.commands.cli import COMMANDS, main

HEAVY = {
    *("torch", "torchvision", "numpy", "scipy", "sklearn", "numba", "matplotlib", "PIL", "jinja2", "safetensors"),
    *("tqdm", "argparse", "jsonargparse", "attnreid.layers", "attnreid.backbones"),
}


def answers(start, line):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        status = start(line.split())
    assert (status, bool(out.getvalue())) == (0 if "--help" in line or "--print" in line else 2, True), (line, status)
    assert not HEAVY & set(sys.modules), (line, HEAVY & set(sys.modules))


for line in ("--help", "sites --help", "cost --help", "cost x:y", "sites x:y --jsno"):
    answers(library.main, line)
for line in ("--help", "trian", "data", *(f"{name} {more}" for name in COMMANDS for more in ("--help", "--xyz"))):
    answers(main, line)
for line in (
    "train apnet --help",
    "train mla --help",
    "train apnet --config demo --print_config",
    "train mla --config mla_market --out x --data.root d --seed one",
    "train apnet --config nothing --out x --data.root d",
    "resume run --config demo",
):
    answers(main, line)

# What each command works with: the module that does it, and what it must do without.
WORKING = {
    "data_render": ["torch", "scipy", "matplotlib", "yaml"],
    "running": ["torchvision", "scipy", "sklearn", "numba", "matplotlib", "PIL", "jinja2"],
    "report": ["torchvision", "torch._dynamo", "scipy", "sklearn", "numba", "tqdm"],
    "evaluate": ["torchvision", "torch._dynamo", "sklearn", "matplotlib", "jinja2"],
    "data_verify": ["torchvision", "torch._dynamo", "scipy", "numba", "matplotlib", "yaml"],
    "check_result": ["torch", "torchvision", "scipy", "sklearn", "numba", "matplotlib", "yaml", "PIL"],
    "claims": ["torch", "torchvision", "sklearn", "numba", "matplotlib", "PIL"],
    "apnet": ["torchvision", "torch._dynamo", "sklearn", "matplotlib", "jinja2"],
}
from importlib import import_module

from reference_pipelines.pipelines import PIPELINES

for name, without in WORKING.items():
    hidden = {each: sys.modules.pop(each) for each in list(sys.modules) if each.startswith(tuple(without))}
    ours = [each for each in sys.modules if each.startswith("reference_pipelines.")]
    for each in ours:
        del sys.modules[each]
    sys.modules.update(dict.fromkeys(without))  # None: importing it fails
    try:
        if name in PIPELINES:
            import_module("reference_pipelines.pipelines").PIPELINES[name].program()
        else:
            import_module(f"reference_pipelines.commands.{name}")
    except ImportError as error:
        raise AssertionError(f"{name} imports {error.name}") from error
    for each in without:
        del sys.modules[each]
    sys.modules.update(hidden)
"""


def test_a_command_imports_what_it_needs_when_it_needs_it():
    run = subprocess.run([sys.executable, "-c", ANSWERING], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
