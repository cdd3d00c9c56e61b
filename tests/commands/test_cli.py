"""The commands as a user types them: what they print, what they refuse, and with which exit status."""

import errno
import io
import json
import os
import re
import shlex
import subprocess
import sys

import pytest
import torch
import yaml

from attnreid.command_line import options_of, read_options
from reference_pipelines import progress
from reference_pipelines.__main__ import run
from reference_pipelines.commands import extract
from reference_pipelines.commands.cli import COMMANDS, main
from reference_pipelines.pipelines import PIPELINES
from tests.conftest import write_image

RECIPE = str(PIPELINES["apnet"].recipes / "demo.yaml")


def refused(capsys, *arguments):
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert "\n" not in error
    return error


def train(tmp_path, *more, recipe=RECIPE):
    ids = () if "--sampler.ids" in more else ("--sampler.ids", "4")  # the miniature has 6 people
    return ("train", "apnet", "--out", str(tmp_path / "run"), "--config", recipe, *ids, *more)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--data.root", "nowhere"), "no folder .*nowhere; .*--data.root"),
        ((), "--data.root .*missing; "),
        (("--data.root", "d", "--attention.level", "2"), "no option --attention.level; .*--attention.levels"),
        (("--data.root", "d", "--device", "cuda9"), "--device .*auto, cpu, cuda, mps, got cuda9"),
        (("--data.root", "d", "--data.image_size", "64"), "--data.image_size .*2 whole numbers, .*got 64"),
        (("--data.root", "d", "--clustering.k1", "3"), "train: .*no option --clustering.k1; .*mla"),
        (("--data.root", "d", "--o", "x"), "no option --o; .*--out"),
        (("--dat", "d"), "no option --dat; .*--data.root"),
        (("--data.root", "d", "--size", "tiny"), "no option --size; .*--data.image_size"),
        (("--data.root", "d", "--out", "x"), "--out .*once"),
        (("--data.root", "d", "mla"), "'mla' .*no option"),
        (("--data.root", "d", "--attention", "se"), "--attention .*section .*: .*--attention.preset"),
    ],
)
def test_train_refuses_in_one_sentence_and_writes_nothing(capsys, tmp_path, more, message):
    assert re.search(message, refused(capsys, *train(tmp_path, *more)))
    assert not (tmp_path / "run").exists()


def test_train_needs_a_folder(capsys):
    assert re.search("--out .*missing", refused(capsys, "train", "apnet", "--config", RECIPE))


def test_a_used_folder_is_refused_and_kept(capsys, tmp_path, market):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("all of it")
    message = refused(capsys, *train(tmp_path, "--data.root", str(market)))
    assert re.search(re.escape(str(tmp_path / "run")) + " .*not empty", message)
    assert (tmp_path / "run" / "thesis.txt").read_text() == "all of it"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--attention.levels", "8"), "128 parts .*multiple of 128, got 64"),
        (("--attention.layer", "rga_s", "--attention.levels", "4"), "height that 8 divides, .*got "),
        (("--sampler.ids", "7"), "7 different people, .* 6"),
        (("--model.backbone", "resnet5"), "resnet5\\b.*resnet50"),
        (("--model.weights", "nowhere.pth"), "no weights file .*nowhere.pth"),
    ],
)
def test_what_does_not_fit_the_data_or_the_backbone(capsys, tmp_path, market, more, message):
    assert re.search(message, refused(capsys, *train(tmp_path, "--data.root", str(market), *more)))


def test_a_corrupt_image_stops_training_and_is_named(capsys, tmp_path, market):
    broken = market / "query" / "0007_c1s1_000099_00.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    assert str(broken) in refused(capsys, *train(tmp_path, "--data.root", str(market)))


def test_report_refuses_what_is_no_run(capsys, tmp_path):
    refused(capsys, "report", str(tmp_path), "--out", str(tmp_path / "report.html"))
    assert not (tmp_path / "report.html").exists()


def test_demo_refuses_a_folder_of_the_users(capsys, tmp_path):
    (tmp_path / "thesis.txt").write_text("all of it")
    assert re.search(f"{re.escape(str(tmp_path))} .*not a demo", refused(capsys, "demo", "--out", str(tmp_path)))


@pytest.mark.parametrize(
    "line",
    [
        "evaluate {0}",
        "resume {0}",
        "report {0} --out report.html",
        "demo --out {0}",
        "export {0} --onnx {0}",
        "extract {0} {0} --out a.npy",
        "cluster {0} --out a.csv",
        "search {0} --gallery {0}",
        "explain {0} {0} --out a",
        "train apnet --data.root {0} --out run --config demo",
        "train mla --config {0} --out run",
        "reproduce apnet.table2 --out {0}",
        "data verify {0}",
    ],
)
def test_a_name_too_long_for_the_system_is_one_sentence(capsys, tmp_path, monkeypatch, line):
    monkeypatch.chdir(tmp_path)
    name = "a" * 300
    assert "File name too long" in refused(capsys, *line.format(name).split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "told"),
    [
        *((number, True) for number in (errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR)),
        (errno.ENOENT, False),
    ],
)
def test_the_systems_refusal_of_a_path_is_told_with_what_is_kept(number, told, monkeypatch, capsys):
    def refuse(options):
        error = OSError(number, os.strerror(number), "there")
        error.add_note("The run has stopped; all is kept")
        raise error

    monkeypatch.setattr(extract, "run", refuse)
    line = ("extract", "run", "images", "--out", "out")
    if told:
        expected = f"error: extract: cannot use there ({os.strerror(number)}); name another file or folder; "
        assert refused(capsys, *line) == f"{expected}The run has stopped; all is kept"
    else:
        with pytest.raises(OSError, match="there"):
            main(line)


def test_data_render_refuses_an_unknown_size(capsys, tmp_path):
    assert "tiny" in refused(capsys, "data", "render", str(tmp_path / "d"), "--size", "tinny")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "which command.* demo, train, .*; .*python -m reference_pipelines --help"),
        ("trian", "one of .*, got 'trian'; .* train.*; .*python -m reference_pipelines --help"),
        ("--verbose train", "command .*first, got --verbose; .*python -m reference_pipelines --help"),
        ("data", "data: .*which command.* render, verify, difficulty; .*python -m reference_pipelines data --help"),
        ("data --he", "command .*first, got --he; .*data --help"),
        ("data rendr", "data: .*one of render, .*, got 'rendr'; .* render\\?"),
        ("demo --ot x", "demo: .*no option --ot; .*--out"),
        ("demo x", "demo: 'x' .*too many; .*python -m reference_pipelines demo --help"),
        ("evaluate", "evaluate: RUN_DIR .*missing, .*; .*python -m reference_pipelines evaluate --help"),
        ("evaluate run x", "evaluate: 'x' .*too many"),
        ("evaluate run --domain mall", "evaluate: .*no option --domain; .*data render"),
        (
            "evaluate run --workers two",
            "evaluate: --workers .*whole number, got two",
        ),
        ("evaluate run --workers -1", "--workers .* 0, got -1"),
        ("evaluate run --batch-size 0", "--batch-size .* 1, got 0"),
        ("evaluate run --flip --no-flip", "evaluate: --flip and --no-flip .*once"),
        ("evaluate run --device gpu", "evaluate: --device .*auto, cpu, cuda, mps, got gpu"),
        ("evaluate run --out a --out=b", "evaluate: --out .*once"),
        ("evaluate run --out=", "evaluate: --out .*no value"),
        ("report", "report: RUN_DIR .*missing, .*; .*python -m reference_pipelines report --help"),
        ("data render d --seed -1", "--seed .* 0, got -1"),
        ("data render d --image-size 64", "--image-size .*2 whole numbers, .*got 64"),
        ("data render d --image-size 64 32 8", "data render: '8' .*too many"),
        ("data render d --image-size 1 1", "data render: --image-size .*at least .*got .*1"),
        ("data render d --workers -1", "--workers .* 0, got -1"),
        ("data verify d --json --json", "data verify: --json .*once"),
        ("data difficulty d --runs a", "data difficulty: .*no option --runs; .*--run"),
        ("train", "train: .*paper.*apnet, mla"),
        ("train apent", "train: .*paper .*apnet, mla, got 'apent'; .*apnet"),
        ("train --verbose apnet", "train: .*no option --verbose; .*train --help"),
        ("train apnet -- --out x", "train: '--' .*no meaning"),
        ("train apnet --config mla_market --out x --data.root d", "mla_market .*recipe of mla"),
        ("train apnet --out x --data.root d", "--config .*missing; .*apnet_c2_market, .*apnet_s2_market"),
        ("resume", "resume: .*run.*folder"),
        ("resume --data.workers 8", "resume: .*run.*folder"),
        ("resume --dat", "resume: .*no option --dat; .*--data.root"),
        ("resume run --config demo", "resume: .*own config; .*--config"),
    ],
)
def test_a_mistyped_line_is_answered_in_one_sentence(capsys, tmp_path, monkeypatch, line, message):
    monkeypatch.chdir(tmp_path)
    assert re.search(message, refused(capsys, *line.split()))
    assert not list(tmp_path.iterdir())


WITH_OPTIONS = [
    name
    for name, each in COMMANDS.items()
    if each.options is not None and any(option.name.startswith("--") for option in options_of(each.options))
]


@pytest.mark.parametrize("command", WITH_OPTIONS)
def test_no_option_may_be_abbreviated(capsys, command):
    names = [option.name for option in options_of(COMMANDS[command].options) if option.name.startswith("--")]
    for name in names:
        for short in {name[:3], name[:-1]} - {*names, "--"}:
            message = refused(capsys, *command.split(), "x", short, "1")
            assert f"no option {short}; " in message
            assert any(each in message for each in names if each.startswith(short))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_ends_with_examples_that_are_understood(capsys, command):
    assert main([*command.split(), "--help"]) == 0
    text = capsys.readouterr().out
    lines = re.findall(r"^ +(?:python -m reference_pipelines|attnreid-pipelines) (.*)$", text, flags=re.MULTILINE)
    lines = [line for line in lines if line.startswith(command)]
    assert lines
    for line in lines:
        if COMMANDS[command].options is not None:
            words = line.split()[len(command.split()) :]
            assert read_options(command, COMMANDS[command].options, words, see="--help")


def test_quiet_shows_no_progress_and_is_no_option_of_a_command(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv(progress.QUIET, "")  # to be put back
    monkeypatch.delenv(progress.QUIET)
    assert not progress.progress_bar(range(3), 3, "counting").disable
    assert main(["data", "verify", str(tmp_path / "nothing"), "--quiet"]) == 2
    assert "--quiet" not in capsys.readouterr().err
    assert progress.progress_bar(range(3), 3, "counting").disable


@pytest.mark.parametrize("words", [("evaluate", ""), ("evaluate", "run", "--data", ""), ("data", "verify", " ")])
def test_an_empty_word_is_no_folder(capsys, words):
    assert re.search("RUN_DIR must not be empty|DIR must not be empty|--data has no value", refused(capsys, *words))


@pytest.mark.parametrize(
    "line",
    [
        "train --config demo apnet --out OUT --data.root nowhere",
        "train --config demo --out OUT --data.root nowhere apnet",
        "train --optimizer.epochs 1 --out OUT apnet --data.root nowhere --config demo",
        "train --data.image_size 64 32 apnet --out OUT --data.root nowhere --config=demo",
        "train --optimizer.milestones 3 4 apnet --out OUT --data.root nowhere --config demo",
        "train --attention.levels 2 apnet --out OUT --data.root nowhere --config demo",
        "train --attention.parts pixel head mla --out OUT --data.root nowhere --config demo",
        "train --attention.parts [pixel, head] mla --out OUT --data.root nowhere --config demo",
    ],
)
def test_train_takes_its_words_in_any_order(capsys, tmp_path, line):
    # All of them were understood when the data is looked for.
    assert re.search("no folder .*nowhere; ", refused(capsys, *line.replace("OUT", str(tmp_path / "run")).split()))


def test_print_config_shows_what_a_run_would_take(capsys):
    assert main(["train", "--seed", "3", "apnet", "--config", "demo", "--data.root", "d", "--print_config"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["seed"], shown["data"]["root"], shown["model"]["backbone"]) == (3, "d", "resnet_demo")


def test_workers_0_draws_in_this_process(capsys, tmp_path, monkeypatch):
    def no_process(*_, **__):
        raise AssertionError("a process was started")

    monkeypatch.setattr("reference_pipelines.rendering.market.ProcessPoolExecutor", no_process)
    root = tmp_path / "d"
    assert main(["data", "render", str(root), "--image-size", "32", "16", "--workers", "0"]) == 0
    assert "train 66 images" in capsys.readouterr().out
    assert len(list((root / "bounding_box_train").glob("*.jpg"))) == 66


class Terminal(io.TextIOWrapper):
    """What is written to a terminal of an encoding."""

    def __init__(self, encoding):
        super().__init__(io.BytesIO(), encoding=encoding, write_through=True)

    def text(self):
        return self.buffer.getvalue().decode(self.encoding)


@pytest.fixture
def on_terminal(monkeypatch):
    def start(*arguments, encoding="cp1252"):
        out, err = Terminal(encoding), Terminal(encoding)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["attnreid-pipelines", *map(str, arguments)])
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            return run(), out.text(), err.text()

    return start


TINY = ("--data.image_size", "32", "16", "--optimizer.epochs", "1", "--sampler.ids", "4", "--augment.pad", "2")


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_a_terminal_without_a_titles_characters_shows_their_codes(on_terminal, tmp_path, market, encoding):
    arguments = train(tmp_path, *TINY, "--data.root", str(market), "--title", "行人")
    status, out, err = on_terminal(*arguments, encoding=encoding)
    assert (status, err) == (0, "")
    assert out.count(r"\u884c\u4eba") == 2  # the first line and the table
    assert json.loads((tmp_path / "run" / "result.json").read_text())["title"] == "行人"
    status, _, err = on_terminal("evaluate", tmp_path / "行人", encoding=encoding)
    assert status == 2
    assert r"\u884c\u4eba" in err


def test_the_usage_names_the_program_that_was_started(on_terminal):
    status, _, err = on_terminal("evaluate")
    assert (status, err.endswith("see attnreid-pipelines evaluate --help\n")) == (2, True)
    status, out, _ = on_terminal("--help")
    assert (status, out.startswith("usage: attnreid-pipelines COMMAND")) == (0, True)


@pytest.mark.skipif(os.name != "posix", reason="pipes close otherwise elsewhere")
def test_a_reader_that_leaves_ends_it_quietly(tmp_path, market, monkeypatch, capsys):
    """And a training that could not say its first word leaves no folder."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", pipe)
        patch.setattr(sys, "argv", ["attnreid-pipelines", *train(tmp_path, "--data.root", str(market), *TINY)])
        assert run() == 141
    assert capsys.readouterr().err == ""
    assert not (tmp_path / "run").exists()


def test_another_pipe_that_breaks_shows_itself(monkeypatch, tmp_path):
    def fail(*_, **__):
        raise BrokenPipeError

    monkeypatch.setattr("reference_pipelines.commands.data_verify.verify", fail)
    monkeypatch.setattr(sys, "argv", ["attnreid-pipelines", "data", "verify", str(tmp_path), "--workers", "0"])
    with pytest.raises(BrokenPipeError):
        run()


@pytest.mark.parametrize("step", ["Evaluator.__call__", "Trainer.train_epoch"])
def test_a_bug_before_the_first_epochs_end_leaves_no_folder(tmp_path, market, monkeypatch, step):
    def fail(*_, **__):
        raise RuntimeError("out of luck")

    arguments = train(tmp_path, "--data.root", str(market), *TINY)
    with monkeypatch.context() as patch:
        patch.setattr(f"reference_pipelines.training.session.{step}", fail)
        with pytest.raises(RuntimeError) as shown:
            main(arguments)
    assert shown.value.__notes__ == [
        f"The run has stopped; nothing was trained yet, so {tmp_path / 'run'} was removed."
    ]
    assert not (tmp_path / "run").exists()


def test_resume_takes_its_words_in_any_order(capsys, tmp_path, market):
    run = str(tmp_path / "run")
    assert main(train(tmp_path, *TINY, "--data.root", str(market))) == 0
    for words in (["--data.workers", "8", run], [run, "--data.workers", "8"], ["--data.image_size", "32", "16", run]):
        capsys.readouterr()
        assert main(["resume", *words]) == 0
        assert re.search(f"{re.escape(run)} .*finished, 1 epoch", capsys.readouterr().out)
    # The recipe in the folder does not win, either.
    error = refused(capsys, "resume", "--optimizer.epochs", "0", run)
    assert re.search("optimizer.epochs .*1, got 0", error)
    assert "sampler.ids: 4 -> 3" in refused(capsys, "resume", "--sampler.ids", "3", run)
    assert re.search("'8' .*no option", refused(capsys, "resume", run, "8"))
    assert "no option --out" in refused(capsys, "resume", run, "--out", "x")
    assert re.search("no option --dat; .*--data.root", refused(capsys, "resume", run, "--dat", "x"))
    assert re.search("--seed .*once", refused(capsys, "resume", run, "--seed", "1", "--seed", "1"))


def test_help_lists_the_configs_keys(capsys):
    assert main(["train", "mla", "--help"]) == 0
    text = capsys.readouterr().out
    for key in ("--clustering.eps", "--memory.momentum", "--sampler.other_cameras", "--out RUN_DIR"):
        assert key in text


def test_the_module_runs_and_help_answers_at_once():
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "reference_pipelines", "--help"], capture_output=True, text=True
    )
    assert run.returncode == 0
    assert "demo" in run.stdout
    assert "| torch\n" not in run.stderr  # nothing heavy is imported for it


def test_the_corrected_command_may_use_the_folder_of_the_refused_one(capsys, tmp_path, market):
    small = ("--data.root", str(market), *TINY)
    more = [word if word != "4" else "7" for word in small]
    assert "7 different people" in refused(capsys, *train(tmp_path, *more))
    assert not (tmp_path / "run").exists()
    assert main(train(tmp_path, *small)) == 0
    assert "APNet-C2" in capsys.readouterr().out


def test_a_recipe_may_be_named_and_a_wrong_name_lists_them(capsys, tmp_path):
    message = refused(capsys, *train(tmp_path, recipe="apnet_c3"))
    assert re.search("no recipe 'apnet_c3'; .*apnet_c2_market, .*apnet_s2_market, demo", message)
    assert re.search(
        "no folder .*nowhere; ", refused(capsys, *train(tmp_path, "--data.root", "nowhere", recipe="demo"))
    )


def test_train_without_a_paper_lists_them(capsys):
    assert "apnet, mla" in refused(capsys, "train")
    assert main(["train", "--help"]) == 0
    assert "apnet_c2_market" in capsys.readouterr().out
    assert main(["resume", "run", "--help"]) == 0
    assert "RUN_DIR [--tensorboard] [--any.key VALUE]" in capsys.readouterr().out


@pytest.mark.slow
def test_the_help_of_train_is_enough_to_train_on_a_table(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    columns, *examples = re.findall(r"^ +(\S+,\S+,\S+,\S+)$", text, flags=re.MULTILINE)
    parts = [example.split(",")[3] for example in examples]
    rows = []
    for person in range(18):
        for camera, part in [(1, parts[0]), (2, parts[0])] if person < 16 else [(1, parts[1]), (2, parts[2])]:
            name = f"images/{len(rows):04d}.jpg"
            write_image(tmp_path / name, len(rows))
            rows.append(f"{name},person {person},{camera},{part}")
    (tmp_path / "people.csv").write_text("\n".join([columns, *rows]))
    commands = re.findall(r"^  python -m reference_pipelines ((?:.*\\\n)*.*)$", text, flags=re.MULTILINE)
    for command in commands[:2]:
        assert main(shlex.split(command.replace("\\\n", " "))) == 0
    assert "mAP" in capsys.readouterr().out
    assert json.loads((tmp_path / "runs" / "people" / "result.json").read_text())["final"]["queries"] == 2


def test_a_missing_extra_is_named_with_how_to_install_it():
    hide = "import sys; sys.modules['PIL'] = None"
    source = f"{hide}; from reference_pipelines.commands import cli; sys.exit(cli.main(['data', 'render', 'd']))"
    run = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert run.returncode == 2
    assert re.fullmatch(r"error: .*PIL .*missing; pip install 'attnreid\[pipelines\]'\n", run.stderr)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "none was left"),
        (MemoryError("Unable to allocate 3 GiB"), "Unable to allocate 3 GiB"),
        (RuntimeError("[enforce fail at a.cpp:1] . DefaultCPUAllocator: can't allocate memory"), "DefaultCPUAllocator"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. GPU 0 has"), "CUDA out of memory"),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), "Cannot allocate memory"),
        (RuntimeError("can't start new thread"), "new thread"),
    ],
)
def test_too_little_memory_is_one_sentence(error, reason, monkeypatch, capsys):
    error.add_note("in a worker process: Traceback")
    error.add_note("The run has stopped; what was saved after epoch 1 is kept, and `resume` goes on.")
    monkeypatch.setattr(extract, "run", lambda options: (_ for _ in ()).throw(error))
    assert main(["extract", "run", "images", "--out", "out"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: extract: the memory must suffice, and it did not (")
    assert reason in line
    assert line.endswith("fewer workers; what was saved after epoch 1 is kept, and `resume` goes on")


def test_another_error_is_no_lack_of_memory(monkeypatch):
    monkeypatch.setattr(extract, "run", lambda options: (_ for _ in ()).throw(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        main(["extract", "run", "images", "--out", "out"])
