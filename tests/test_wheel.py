"""The wheel by itself, apart from the checkout: what it holds, what it imports, and that the programs run from it."""

import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.reproduction.miniature import CLUSTERED, FEW, QUICK

ROOT = Path(__file__).parents[1]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("hatchling") is None, reason="the wheel is built by hatchling"),
]
IMPORT = """
import json, sys, time
import torch, numpy, einops
before, start = {*sys.modules}, time.perf_counter()
import attnreid
attnreid.AttentionPyramid, attnreid.attach_apnet, attnreid.fold, attnreid.record_attention
seconds = time.perf_counter() - start
new = {name.partition(".")[0] for name in {*sys.modules} - before}
print(json.dumps([attnreid.__file__, seconds, sorted(new - {*sys.stdlib_module_names})]))
"""


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The folder that the wheel's files lie in."""
    folder = tmp_path_factory.mktemp("wheel")
    build = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", build, str(folder)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    with zipfile.ZipFile(folder / done.stdout.split()[-1]) as wheel:
        wheel.extractall(folder / "files")
    return folder / "files"


def run(unpacked, place, *words):
    environment = {**os.environ, "PYTHONPATH": str(unpacked), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *words], cwd=place, env=environment, capture_output=True, text=True)


def test_it_holds_the_two_packages_and_nothing_else(unpacked):
    assert {path.name for path in unpacked.iterdir() if not path.name.endswith(".dist-info")} == {
        "attnreid",
        "reference_pipelines",
    }
    tracked = subprocess.run(["git", "ls-files", "attnreid", "reference_pipelines"], cwd=ROOT, capture_output=True)
    for name in tracked.stdout.decode().split():
        assert (unpacked / name).is_file(), name


def test_the_library_imports_its_three_packages_alone_and_fast(unpacked, tmp_path):
    found = [json.loads(run(unpacked, tmp_path, "-c", IMPORT).stdout) for _ in range(5)]
    for place, _, others in found:
        assert Path(place).is_relative_to(unpacked)
        assert others == ["attnreid"]
    assert statistics.median(seconds for _, seconds, _ in found) < 0.3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["reproduce", "list"], "apnet.table2"),
        (["train", "apnet", "--help"], "--optimizer.learning_rate"),
        (["--version"], "attnreid-pipelines"),
    ],
)
def test_the_programs_run_apart_from_the_checkout(unpacked, tmp_path, words, said):
    done = run(unpacked, tmp_path, "-m", "reference_pipelines", *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert said in done.stdout


def test_a_recipe_trains_and_reports_apart_from_the_checkout(unpacked, tmp_path):
    for words in (
        "data render images --size tiny",
        "train apnet --config demo --out run --data.root images --sampler.ids 8 --optimizer.epochs 1 "
        "--optimizer.milestones []",
        "report run --out report.html",
    ):
        done = run(unpacked, tmp_path, "-m", "reference_pipelines", *words.split())
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "report.html").stat().st_size > 10_000


def shrunk(folder):
    """Make the demo of an unpacked wheel a matter of seconds: two of its rows, an epoch each, and fewer people."""
    catalogue = folder / "reference_pipelines" / "reproduction"
    experiments = yaml.safe_load((catalogue / "experiments.yaml").read_text())
    experiments["demo"]["rows"] = {"apnet": ["APNet-C_2"], "mla": ["MLA"]}
    (catalogue / "experiments.yaml").write_text(yaml.safe_dump(experiments))
    scales = yaml.safe_load((catalogue / "scales.yaml").read_text())
    demo = scales["demo"]
    for name in ("Market-1501", "source"):
        demo["images"][name] |= FEW
    for recipe in (demo["source"], demo["recipes"]["apnet_c"], demo["recipes"]["mla"]):
        recipe["change"] = {**recipe.get("change", {}), **QUICK, **(CLUSTERED if recipe["pipeline"] == "mla" else {})}
    (catalogue / "scales.yaml").write_text(yaml.safe_dump(scales))


def test_the_demo_runs_from_an_empty_folder_apart_from_the_checkout(unpacked, tmp_path):
    wheel, place = shutil.copytree(unpacked, tmp_path / "wheel"), tmp_path / "empty"
    shrunk(wheel)
    place.mkdir()
    done = run(wheel, place, "-m", "reference_pipelines", "demo")
    assert done.returncode == 0, done.stderr
    out = place / "runs" / "demo"
    assert [path.name for path in place.iterdir()] == ["runs"]
    assert (out / "report.html").stat().st_size > 10_000
    results = [json.loads(path.read_text()) for path in sorted(out.glob("demo/runs/*/result.json"))]
    assert [result["config"]["title"] for result in results] == ["APNet-C_2", "MLA", "source weights"]
    assert all(result["title"] in done.stdout for result in results[:2])
    checked = run(wheel, place, "-m", "reference_pipelines", "check-result", str(out / "ledger"), "--json")
    assert [(each["sound"], each["lines"]) for each in json.loads(checked.stdout)] == [(True, 2)]
