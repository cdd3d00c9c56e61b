"""`extract`, `evaluate` and `cluster` on several processes: the bits of one."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

import reference_pipelines
from reference_pipelines.commands.cli import main
from reference_pipelines.errors import UserError
from reference_pipelines.features import FeatureStore
from reference_pipelines.serving import extraction
from reference_pipelines.serving.embedder import Embedder
from reference_pipelines.serving.extraction import extract
from reference_pipelines.serving.listing import list_images
from tests.conftest import says
from tests.together import in_threads
from tests.training.runs import ROOT, Together

FILES = ("features.npy", "table.csv", "meta.json")


@pytest.fixture(scope="module")
def model(run):
    return reference_pipelines.load(run, device="cpu", batch_size=4)


@pytest.fixture(scope="module")
def damaged(images, tmp_path_factory):
    """Images of which the sixth and the last do not decode."""
    folder = tmp_path_factory.mktemp("damaged") / "images"
    folder.mkdir()
    for number, path in enumerate(sorted((images / "bounding_box_test").glob("*.jpg"))[:21]):
        shutil.copy(path, folder / f"{number:02d}.jpg")
    for number in (5, 20):
        (folder / f"{number:02d}.jpg").write_bytes(b"")
    return folder


def same_files(mine, others):
    return all((mine / name).read_bytes() == (others / name).read_bytes() for name in FILES)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_the_store_is_that_of_one_process(model, damaged, tmp_path, count):
    listing = list_images(damaged, part="images")
    extract(model, listing, tmp_path / "one")
    stores = in_threads(count, lambda each: extract(model, listing, tmp_path / "many", processes=each))
    assert same_files(tmp_path / "one", tmp_path / "many")
    assert [place for place, _, _ in stores[-1].meta.passed_over] == [5, 20]


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (2, 3)])
def test_any_number_of_processes_goes_on(model, damaged, tmp_path, monkeypatch, before, after):
    listing = list_images(damaged, part="images")
    extract(model, listing, tmp_path / "whole")
    seen = []

    def embed_batch(self, pixels, real=Embedder.embed_batch):
        seen.append(len(pixels))
        if len(seen) > 3:
            raise ValueError("embed: stopped here")
        return real(self, pixels)

    monkeypatch.setattr(Embedder, "embed_batch", embed_batch)
    with pytest.raises(UserError, match="extract: stopped here"):
        in_threads(before, lambda each: extract(model, listing, tmp_path / "out", processes=each))
    monkeypatch.undo()
    with pytest.raises(UserError, match="must be finished"):
        FeatureStore(tmp_path / "out")
    in_threads(after, lambda each: extract(model, listing, tmp_path / "out", processes=each))
    assert same_files(tmp_path / "whole", tmp_path / "out")


def test_what_the_first_refuses_all_refuse(model, damaged, tmp_path):
    (tmp_path / "notes.txt").write_text("of mine")

    def work(processes):
        with pytest.raises(UserError) as refused:
            extract(model, damaged, tmp_path, processes=processes)
        return str(refused.value)

    assert len(set(in_threads(3, work))) == 1


def test_a_full_disk_stops_all(model, damaged, tmp_path, monkeypatch):
    def full(writer, *_):
        raise UserError("extract: cannot write it (No space left on device)")

    monkeypatch.setattr(extraction.FeatureWriter, "add", full)

    def work(processes):
        with pytest.raises(UserError, match="No space left"):
            extract(model, damaged, tmp_path / "out", processes=processes)
        return True

    assert in_threads(2, work) == [True, True]


def together(count, arguments):
    with Together(list(map(str, arguments)), processes=count) as running:
        printed = running.process.communicate(timeout=240)[0]
        assert running.process.returncode == 0, printed
    return printed


def alone(arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "reference_pipelines", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_the_commands_under_torchrun_write_and_say_what_they_do_alone(run, images, damaged, tmp_path, count):
    def ways(function, suffix):
        one, many = tmp_path / f"one{suffix}", tmp_path / f"many{suffix}"
        return one, many, alone(function(one)), together(count, function(many))

    small = ("--batch-size", 4, "--workers", 0, "--device", "cpu")
    one, many, said, printed = ways(lambda out: ["extract", run, damaged, "--out", out, *small], "")
    assert same_files(one, many)
    assert (
        said.replace(str(one), str(many)).splitlines()[-3:]
        == [line for line in printed.splitlines() if line in said.replace(str(one), str(many))][-3:]
    )
    one, many, said, printed = ways(
        lambda out: ["cluster", tmp_path / "one", "--out", out, "--k1", 6, "--k2", 2, "--min-samples", 2], ".csv"
    )
    assert one.read_bytes() == many.read_bytes()
    assert printed.count("clusters") == said.count("clusters")
    one, many, _, _ = ways(lambda out: ["evaluate", run, "--out", out, *small, "--json", "--top-k", 5], ".json")
    mine, others = (json.loads(each.read_text()) for each in (one, many))
    for name in ("scores", "top_k", "chance", "tested_on", "remarks"):
        assert mine[name] == others[name]
    assert np.isfinite(mine["scores"]["mAP"])


def test_other_commands_do_not_run_under_torchrun(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "report.html")]) == 2
    assert says(capsys.readouterr().err, "report", "train, resume, extract, evaluate and cluster", "without torchrun")
