"""The words that a shell offers, asked of bash's own completion function in a process of its own."""

import shlex
import shutil
import subprocess
import sys

import pytest

from attnreid.__main__ import PROGRAM as LIBRARY
from attnreid.command_line import UserError, options_of
from attnreid.command_line.completion import completion_script
from reference_pipelines.commands.cli import PROGRAM as PIPELINES
from reference_pipelines.commands.cli import main
from reference_pipelines.config.loading import keys_of
from reference_pipelines.pipelines import PIPELINES as PAPERS

# The script, then for each line of words what is offered for the last of them, as TAB asks for it.
ASK = """
script=$1; program=$2
source "$script"
function=$(complete -p "$program" | sed 's/.*-F \\([^ ]*\\).*/\\1/')
while IFS= read -r line; do
    eval "COMP_WORDS=($line)"; COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=()
    "$function"
    echo "${COMPREPLY[*]}"
done
"""


@pytest.fixture(scope="module")
def offered(tmp_path_factory):
    pytest.importorskip("shtab", reason="shtab makes the script (extra completion)")
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash")
    scripts = {}
    for program, everywhere in ((LIBRARY, ()), (PIPELINES, ("--quiet",))):
        scripts[program.script] = tmp_path_factory.mktemp("completion") / program.script
        scripts[program.script].write_text(completion_script(program, "bash", everywhere=everywhere))

    def ask(program, *lines):
        typed = "\n".join(shlex.join([program, *line]) for line in lines) + "\n"
        command = [bash, "--norc", "--noprofile", "-c", ASK, "ask", str(scripts[program]), program]
        ran = subprocess.run(command, input=typed, capture_output=True, text=True, check=True)
        assert ran.stderr == ""
        found = [{*line.split()} for line in ran.stdout.splitlines()]
        assert len(found) == len(lines)
        return found

    return ask


@pytest.mark.parametrize("program", [LIBRARY, PIPELINES], ids=["attnreid", "attnreid-pipelines"])
def test_every_command_and_all_its_options_are_offered(offered, program):
    words = {name: name.split() for name in program.commands}
    first, *options = offered(program.script, [""], *([*each, "--"] for each in words.values()))
    assert first == {each[0] for each in words.values()}
    everywhere = {"--help"} | ({"--quiet"} if program is PIPELINES else set())
    for (name, command), found in zip(program.commands.items(), options, strict=True):
        if command.options is not None:
            named = {option.name for option in options_of(command.options) if option.name.startswith("--")}
            assert found == named | everywhere, name


def test_keys_of_recipes_and_values_are_offered(offered):
    keys, resumed, *values = offered(
        "attnreid-pipelines",
        ["train", "mla", "--"],
        ["resume", "--"],
        ["train", "m"],
        ["train", "apnet", "--device", "c"],
        ["data", "v"],
        ["reproduce", "--scale", "d"],
        ["evaluate", "runs/c2", "--cam"],
        ["completion", ""],
        ["train", "apnet", "--data.skip_corrupt", ""],
    )
    known = {option.name for paper in PAPERS.values() for option in keys_of(paper.config).values()}
    assert keys == known | {"--out", "--config", "--print_config", "--tensorboard", "--help", "--quiet"}
    assert resumed == known | {"--tensorboard", "--help", "--quiet"}
    assert values == [
        {"mla"},
        {"cpu", "cuda"},
        {"verify"},
        {"demo"},
        {"--camera-pairs"},
        {"bash", "zsh", "tcsh"},
        {"true", "false"},
    ]


def test_the_library_offers_choices(offered):
    found = offered("attnreid", ["cost", "x:y", "--preset", ""], ["cost", "x:y", "--last-stride", ""], ["do"])
    assert found == [{"apnet", "pyramid", "mla", "se"}, {"1", "2"}, {"doctor"}]


def test_files_are_offered_where_a_path_is_meant(offered, tmp_path, monkeypatch):
    (tmp_path / "someone.csv").touch()
    monkeypatch.chdir(tmp_path)
    assert offered("attnreid-pipelines", ["claims", "some"], ["claims", "x", "--out", "some"]) == [{"someone.csv"}] * 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_the_command_prints_the_script(capsys, shell):
    pytest.importorskip("shtab", reason="shtab makes the script (extra completion)")
    for start, program in ((LIBRARY.main, LIBRARY), (main, PIPELINES)):
        assert start(["completion", shell]) == 0
        printed = capsys.readouterr().out
        assert printed.rstrip("\n") == completion_script(
            program, shell, everywhere=("--quiet",) if program is PIPELINES else ()
        ).rstrip("\n")
        assert program.script in printed


def test_without_shtab_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(UserError, match=r"^completion: shtab .*not installed; pip install 'attnreid\[completion\]'$"):
        completion_script(LIBRARY, "bash")
    assert main(["completion", "bash"]) == 2
    assert capsys.readouterr().out == ""
