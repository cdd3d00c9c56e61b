"""The commands as a user types them: what they print, what they refuse, and with which exit status."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from reference_pipelines.__main__ import run
from reference_pipelines.cli import build_parser, main
from reference_pipelines.pipelines import PIPELINES

NOWHERE = Path("nowhere").absolute()
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
        (
            ("--data.root", "nowhere"),
            f"there is no folder {NOWHERE}; give the data set's folder with --data.root",
        ),
        ((), "--data.root is missing; give it on the command line or in the recipe"),
        (("--data.root", "d", "--attention.level", "2"), "did you mean --attention.level"),
        (("--data.root", "d", "--device", "cuda9"), "--device must be one of auto, cpu, cuda, got cuda9"),
        (("--data.root", "d", "--data.image_size", "64"), "--data.image_size must be 2 whole numbers"),
        (("--data.root", "d", "--clustering.k1", "3"), "no option --clustering.k1 for apnet; it is one of mla"),
        (("--data.root", "d", "--o", "x"), "there is no option --o; did you mean --out"),
        (("--dat", "d"), "there is no option --dat; did you mean --data.root"),
        (("--data.root", "d", "--size", "tiny"), "there is no option --size; did you mean --data.image_size"),
        (("--data.root", "d", "--out", "x"), "--out must be given once"),
        (("--data.root", "d", "mla"), "'mla' belongs to no option"),
        (("--data.root", "d", "--attention", "se"), "--attention is a section of keys: set --attention.kind"),
    ],
)
def test_train_refuses_in_one_sentence_and_writes_nothing(capsys, tmp_path, more, message):
    assert message in refused(capsys, *train(tmp_path, *more))
    assert not (tmp_path / "run").exists()


def test_train_needs_a_folder(capsys):
    assert "--out is missing" in refused(capsys, "train", "apnet", "--config", RECIPE)


def test_a_used_folder_is_refused_and_kept(capsys, tmp_path, market):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("all of it")
    message = refused(capsys, *train(tmp_path, "--data.root", str(market)))
    assert "exists and is not empty" in message
    assert (tmp_path / "run" / "thesis.txt").read_text() == "all of it"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--attention.levels", "8"), "64"),  # 128 parts of 64 channels
        (("--attention.kind", "rga_s", "--attention.levels", "4"), "height"),
        (("--sampler.ids", "7"), "needs 7 different people, the training set has 6"),
        (("--model.backbone", "resnet5"), "did you mean resnet50"),
        (("--model.weights", "nowhere.pth"), f"there is no weights file {NOWHERE}.pth"),
    ],
)
def test_what_does_not_fit_the_data_or_the_backbone(capsys, tmp_path, market, more, message):
    assert message in refused(capsys, *train(tmp_path, "--data.root", str(market), *more))


def test_a_corrupt_image_stops_training_and_is_named(capsys, tmp_path, market):
    broken = market / "query" / "0007_c1s1_000099_00.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    assert str(broken) in refused(capsys, *train(tmp_path, "--data.root", str(market)))


def test_report_refuses_what_is_no_run(capsys, tmp_path):
    refused(capsys, "report", str(tmp_path), "--out", str(tmp_path / "report.html"))
    assert not (tmp_path / "report.html").exists()


def test_demo_refuses_a_folder_of_the_users(capsys, tmp_path):
    (tmp_path / "thesis.txt").write_text("all of it")
    assert "holds something that is not a demo" in refused(capsys, "demo", "--out", str(tmp_path))


def test_data_render_refuses_an_unknown_size(capsys, tmp_path):
    assert "tiny" in refused(capsys, "data", "render", str(tmp_path / "d"), "--size", "tinny")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "the following arguments are required: COMMAND; see python -m reference_pipelines --help"),
        ("trian", "invalid choice: 'trian' .*train.*; see python -m reference_pipelines --help"),
        ("--verbose train", "the command must come first, got --verbose; see python -m reference_pipelines --help"),
        ("data", "required: KIND; see python -m reference_pipelines data --help"),
        ("data --he", "required: KIND"),
        ("data rendr", "invalid choice: 'rendr' .*render"),
        ("demo --ot x", "demo: there is no option --ot; did you mean --out"),
        ("demo x", "demo: 'x' is one word too many; see python -m reference_pipelines demo --help"),
        ("evaluate", "required: RUN_DIR; see python -m reference_pipelines evaluate --help"),
        ("evaluate run x", "evaluate: 'x' is one word too many"),
        ("evaluate run --domain mall", "evaluate: there is no option --domain; it is one of data render"),
        (
            "evaluate run --workers two",
            "--workers must be a whole number, got two; see .* evaluate --help",
        ),
        ("evaluate run --workers -1", "--workers must be at least 0, got -1"),
        ("evaluate run --batch-size 0", "--batch-size must be at least 1, got 0"),
        ("evaluate run --flip --no-flip", "evaluate: --flip must be given once"),
        ("evaluate run --device gpu", "--device: invalid choice: 'gpu' .*cpu"),
        ("evaluate run --out a --out=b", "evaluate: --out must be given once"),
        ("evaluate run --out=", "--out must not be empty"),
        ("report", "required: RUN_DIR; see python -m reference_pipelines report --help"),
        ("data render d --seed -1", "--seed must be at least 0, got -1"),
        ("data render d --image-size 64", "--image-size: expected 2 arguments"),
        ("data render d --image-size 64 32 8", "data render: '8' is one word too many"),
        ("data render d --image-size 1 1", "data render: --image-size must be .*at least"),
        ("data render d --workers -1", "--workers must be at least 0, got -1"),
        ("data verify d --json --json", "data verify: --json must be given once"),
        ("data difficulty d --runs a", "data difficulty: there is no option --runs; did you mean --run"),
        ("train", "train: which paper? name one of apnet, mla"),
        ("train apent", "train: the paper must be one of apnet, mla, got 'apent'; did you mean apnet"),
        ("train --verbose apnet", "train: there is no option --verbose; see train --help"),
        ("train apnet -- --out x", "train: '--' has no meaning here"),
        ("train apnet --config mla_market --out x --data.root d", "mla_market is a recipe of mla"),
        ("train apnet --out x --data.root d", "--config is missing; name a recipe, apnet_c2_market, apnet_s2_market"),
        ("resume", "resume: which run? name its folder"),
        ("resume --data.workers 8", "resume: which run? name its folder"),
        ("resume --dat", "resume: there is no option --dat; did you mean --data.root"),
        ("resume run --config demo", "resume: a run goes on with its own config; leave --config out"),
    ],
)
def test_a_mistyped_line_is_answered_in_one_sentence(capsys, tmp_path, monkeypatch, line, message):
    monkeypatch.chdir(tmp_path)
    assert re.search(message.replace("? ", "\\? "), refused(capsys, *line.split()))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["demo", "evaluate", "report", "data render", "data verify", "data difficulty"])
def test_no_option_may_be_abbreviated(capsys, command):
    _, parsers = build_parser()
    names = [name for name in parsers[command]._option_string_actions if name.startswith("--")]
    assert names
    for name in names:
        for short in {name[:3], name[:-1]} - {*names, "--"}:
            message = refused(capsys, *command.split(), "x", short, "1")
            assert f"there is no option {short}; " in message
            assert any(each in message for each in names if each.startswith(short))


@pytest.mark.parametrize("words", [("evaluate", ""), ("evaluate", "run", "--data", ""), ("data", "verify", " ")])
def test_an_empty_word_is_no_folder(capsys, words):
    assert "must not be empty" in refused(capsys, *words)


@pytest.mark.parametrize(
    "line",
    [
        "train --config demo apnet --out OUT --data.root nowhere",
        "train --config demo --out OUT --data.root nowhere apnet",
        "train --optimizer.epochs 1 --out OUT apnet --data.root nowhere --config demo",
        "train --data.image_size 64 32 apnet --out OUT --data.root nowhere --config=demo",
        "train --optimizer.milestones 3 4 apnet --out OUT --data.root nowhere --config demo",
        "train --attention.levels 2 apnet --out OUT --data.root nowhere --config demo",
        "train --attention.levels pixel head mla --out OUT --data.root nowhere --config demo",
        "train --attention.levels [pixel, head] mla --out OUT --data.root nowhere --config demo",
    ],
)
def test_train_takes_its_words_in_any_order(capsys, tmp_path, line):
    # All of them were understood when the data is looked for.
    assert f"there is no folder {NOWHERE}" in refused(capsys, *line.replace("OUT", str(tmp_path / "run")).split())


def test_print_config_shows_what_a_run_would_take(capsys):
    assert main(["train", "--seed", "3", "apnet", "--config", "demo", "--data.root", "d", "--print_config"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["seed"], shown["data"]["root"], shown["model"]["backbone"]) == (3, "d", "resnet_demo")


def test_workers_0_draws_in_this_process(capsys, tmp_path, monkeypatch):
    def no_process(*_, **__):
        raise AssertionError("a process was started")

    monkeypatch.setattr("reference_pipelines.data.rendering.market.ProcessPoolExecutor", no_process)
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
    assert (status, out.startswith("usage: attnreid-pipelines [-h] COMMAND")) == (0, True)


@pytest.mark.skipif(os.name != "posix", reason="pipes close otherwise elsewhere")
def test_a_reader_that_leaves_ends_it_quietly(tmp_path, market, monkeypatch, capsys):
    """And a training that could not say its first word leaves no folder."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", pipe)
        assert main(train(tmp_path, "--data.root", str(market), *TINY)) == 141
    assert capsys.readouterr().err == ""
    assert not (tmp_path / "run").exists()


def test_another_pipe_that_breaks_shows_itself(monkeypatch, tmp_path):
    def fail(*_, **__):
        raise BrokenPipeError

    monkeypatch.setattr("reference_pipelines.commands.verify", fail)
    with pytest.raises(BrokenPipeError):
        main(["data", "verify", str(tmp_path), "--workers", "0"])


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
        assert f"{run} is finished, 1 epochs" in capsys.readouterr().out
    # The recipe in the folder does not win, either.
    assert "optimizer.epochs must be at least 1, got 0" in refused(capsys, "resume", "--optimizer.epochs", "0", run)
    assert "sampler.ids: 4 -> 3" in refused(capsys, "resume", "--sampler.ids", "3", run)
    assert "'8' belongs to no option" in refused(capsys, "resume", run, "8")
    assert "there is no option --out" in refused(capsys, "resume", run, "--out", "x")
    assert "there is no option --dat; did you mean --data.root" in refused(capsys, "resume", run, "--dat", "x")
    assert "--seed must be given once" in refused(capsys, "resume", run, "--seed", "1", "--seed", "1")


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
    assert "needs 7 different people" in refused(capsys, *train(tmp_path, *more))
    assert not (tmp_path / "run").exists()
    assert main(train(tmp_path, *small)) == 0
    assert "APNet-C2" in capsys.readouterr().out


def test_a_recipe_may_be_named_and_a_wrong_name_lists_them(capsys, tmp_path):
    message = refused(capsys, *train(tmp_path, recipe="apnet_c3"))
    assert "there is no recipe 'apnet_c3'; the recipes are apnet_c2_market, apnet_s2_market, demo" in message
    assert f"there is no folder {NOWHERE}" in refused(capsys, *train(tmp_path, "--data.root", "nowhere", recipe="demo"))


def test_train_without_a_paper_lists_them(capsys):
    assert "name one of apnet, mla" in refused(capsys, "train")
    assert main(["train", "--help"]) == 0
    assert "apnet_c2_market" in capsys.readouterr().out
    assert main(["resume", "run", "--help"]) == 0
    assert "RUN_DIR [--any.key VALUE]" in capsys.readouterr().out


def test_a_missing_extra_is_named_with_how_to_install_it():
    hide = "import sys; sys.modules['numba'] = None"
    source = f"{hide}; from reference_pipelines import cli; sys.exit(cli.main(['demo']))"
    run = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stderr.strip() == "error: the package numba is missing; pip install 'attnreid[pipelines]'"
