"""The commands as a user types them: what they print, what they refuse, and with which exit status."""

import subprocess
import sys

import pytest

from reference_pipelines.cli import main
from reference_pipelines.pipelines import PIPELINES

RECIPE = str(PIPELINES["apnet"].recipes / "demo.yaml")


def refused(capsys, *arguments):
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert "\n" not in error
    return error


def train(tmp_path, *more, recipe=RECIPE):
    return ("train", "apnet", "--out", str(tmp_path / "run"), "--config", recipe, *more)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--data.root", "nowhere"), "there is no folder nowhere; give the data set's folder with --data.root"),
        ((), "--data.root is missing; give it on the command line or in the recipe"),
        (("--data.root", "d", "--attention.level", "2"), "did you mean --attention.level"),
        (("--data.root", "d", "--device", "cuda9"), "--device must be of the type Literal['auto', 'cpu', 'cuda']"),
        (
            ("--data.root", "d", "--optimizer.milestones", "3"),
            "milestones must be of the type tuple, got 3",
        ),
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
        (("--model.weights", "nowhere.pth"), "there is no weights file nowhere.pth"),
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


@pytest.mark.parametrize("arguments", [["trian"], ["demo", "--ot", "x"], []])
def test_a_mistyped_command_is_answered_with_the_usage(capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: python -m reference_pipelines" in capsys.readouterr().err


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
    small = ("--data.root", str(market), "--data.image_size", "[32, 16]", "--optimizer.epochs", "1")
    assert "needs 7 different people" in refused(capsys, *train(tmp_path, *small, "--sampler.ids", "7"))
    assert not (tmp_path / "run").exists()
    assert main(train(tmp_path, *small, "--sampler.ids", "4")) == 0
    assert "APNet-C2" in capsys.readouterr().out


def test_a_recipe_may_be_named_and_a_wrong_name_lists_them(capsys, tmp_path):
    message = refused(capsys, *train(tmp_path, recipe="apnet_c3"))
    assert "there is no recipe 'apnet_c3'; the recipes are apnet_c2_market, apnet_s2_market, demo" in message
    assert "there is no folder nowhere" in refused(capsys, *train(tmp_path, "--data.root", "nowhere", recipe="demo"))


def test_train_without_a_paper_lists_them(capsys):
    assert "name one of apnet, mla" in refused(capsys, "train")
    assert main(["train", "--help"]) == 0
    assert "apnet_c2_market" in capsys.readouterr().out


def test_a_missing_extra_is_named_with_how_to_install_it():
    hide = "import sys; sys.modules['numba'] = None"
    source = f"{hide}; from reference_pipelines import cli; sys.exit(cli.main(['demo']))"
    run = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stderr.strip() == "error: the package numba is missing; pip install 'attnreid[pipelines]'"
