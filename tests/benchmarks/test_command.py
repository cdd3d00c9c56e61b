"""The command: its tables, its JSON file and its refusals."""

import json
import re
import sys

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import engines, scaling
from benchmarks.__main__ import main
from benchmarks.cases import Skipped, Target
from benchmarks.catalogue import CASES
from benchmarks.limits import KINDS
from benchmarks.table import format_rows, summarise
from tests.benchmarks.support import fake, variant
from tests.conftest import says

QUICK = ["--device", "cpu", "--rounds", "5", "--threads", "1", "--no-resident", "--tables", "rows", "limits"]
SE = [kind for kind in KINDS if kind.name == "se"]


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run(*arguments, cases=(), kinds=()):
    return main([*QUICK, *arguments], cases, kinds)


def table(text):
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def absent(problem):
    raise Skipped("no such thing here")


def test_the_table_has_the_ratio_first_and_the_rows_of_the_json(tmp_path, capsys, clock):
    file = tmp_path / "rows.json"
    cases = [
        fake("a", ours=0.001, theirs=0.002, target=Target(1.5)),
        fake("b", peer=absent, target=Target(3.0)),
        fake("c", target=Target(1.5)),
    ]
    assert run("--json", str(file), cases=cases) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["rows.json"]
    out = capsys.readouterr().out
    header, _rule, *rows = table(out)
    assert header[:6] == ["what", "map", "against", "ratio", "target", "ms"]
    assert [row[:6] for row in rows] == [
        ["what a is", "2x16x8x4", "other a", "2.00", ">= 1.5 met", "1.00 / 2.00"],
        ["what b is", "2x16x8x4", "other b", "-", ">= 3", "-"],
        ["what c is", "2x16x8x4", "other c", "1.00", ">= 1.5 MISSED", "1.00 / 1.00"],
    ]
    assert "1. skipped: no such thing here" in out
    assert "targets: 1 of 3 rows met" in out
    assert "- MISSED: what c is 2x16x8x4 against other c, ratio 1.00, >= 1.5 MISSED" in out
    assert "- not measured: what b is 2x16x8x4 against other b" in out

    written = json.loads(file.read_text())
    assert written.keys() == {
        "date",
        "device",
        "threads",
        "dtype",
        "torch",
        "python",
        "freed_memory_kept",
        "tolerances",
        "rows",
    }
    assert (written["threads"], written["dtype"], written["torch"]) == (1, "float32", torch.__version__)
    assert written["device"]
    a, b, c = written["rows"]
    assert (a["ratio"], a["target"], a["met"], len(a["ratios"])) == (pytest.approx(2), 1.5, True, 5)
    assert (a["ours"]["ms"], a["theirs"]["ms"]) == pytest.approx((1, 2))
    assert (b["ratio"], b["met"], b["notes"]) == (None, None, ["skipped: no such thing here"])
    assert c["met"] is False


def test_a_refused_row_is_no_success(capsys, clock):
    assert run(cases=[fake("wrong", differ=True), fake("right")]) == 1
    assert says(capsys.readouterr().out, "1. refused: ", "differ by 9.1e-02", "allowed 1e-04")


def test_a_missed_target_of_memory_is_said_with_the_worse_of_both_measurements():
    from benchmarks.measuring import Figures, Row

    row = Row(
        "a", "what", "map", "other", 12.0, 10.0, memory_ratio=11.0, resident_ratio=9.0, memory_target=10.0,
        ours=Figures(1.0, 10**6, 2**20, 2**21), theirs=Figures(12.0, 2 * 10**6, 11 * 2**20, 18 * 2**20),
    )  # fmt: skip
    text = format_rows([row])
    assert ">= 10 met; extra memory 9.00 >= 10 MISSED" in text
    assert "1.00 / 12.0" in text
    assert "1.00 / 11.0" in text
    assert "2.00 / 18.0" in text
    assert row.met is False
    assert summarise([row]).startswith("targets: 0 of 1 rows met")
    assert summarise([]) == "targets: none in these rows"


def test_only_keeps_the_named_rows_in_the_tables_order(capsys, clock):
    assert run("--only", "c", "a", cases=[fake("a"), fake("b"), fake("c")]) == 0
    out = capsys.readouterr().out
    assert out.index("what a is") < out.index("what c is")
    assert "what b is" not in out


def test_rows_on_request_are_measured_where_they_are_named(capsys, clock):
    cases = [fake("a"), fake("b", on_request=True)]
    assert run(cases=cases) == 0
    assert "what b is" not in capsys.readouterr().out
    assert run("--only", "b", cases=cases) == 0
    assert "what b is" in capsys.readouterr().out


def test_shapes_batch_and_dtype_reach_the_rows_that_follow_them(capsys, clock):
    seen = []

    def note(problem):
        seen.append(problem)
        return variant("ours")(problem)

    following, fixed = fake("a", peer=note), fake("b", peer=note, resizable=False, counted=False)
    assert run("--shapes", "8x4x2", "4x2x2", "--batch", "3", "--dtype", "float64", cases=[following, fixed]) == 0
    assert [(each.batch, each.shape) for each in seen] == [(3, (8, 4, 2)), (3, (4, 2, 2)), (2, (16, 8, 4))]
    assert {each.dtype for each in seen} == {torch.float64}
    assert "3x8x4x2" in capsys.readouterr().out


def test_the_second_table_and_its_json(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "make_rates", small_rates)
    file = tmp_path / "limits.json"
    assert run("--shapes", "16x8x4", "--json", str(file), "--tables", "limits", cases=[fake("a")], kinds=SE) == 0
    out = capsys.readouterr().out
    assert "what a is" not in out
    assert "GMAC/s, copy" in out
    assert says(out, "depends on the whole map", "twice")
    assert "largest gaps, forward+backward: se 8x16x8x4 (" in out
    limits = json.loads(file.read_text())["limits"]
    assert [row["mode"] for row in limits["rows"]] == ["forward", "forward+backward"]
    assert limits["rates"].keys() == {"multiply_adds", "bytes"}


@pytest.mark.slow
def test_the_third_table_and_its_json(tmp_path, capsys):
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    file = tmp_path / "gflops.json"
    assert run("--json", str(file), "--tables", "gflops", cases=[fake("a")], kinds=SE) == 0
    header, _rule, *rows = table(capsys.readouterr().out)
    assert header == ["model", "counted", "paper", "added by a level", "target"]
    assert rows[0] == ["APNet-C0", "6.208", "6.23", "-", "within 1% of the paper's met"]
    assert rows[3] == ["APNet-C3", "6.209", "6.25", "0.0002", "added <= 0.01 met"]
    assert [row["met"] for row in json.loads(file.read_text())["gflops"]] == [True] * 4


def test_without_torchvision_the_third_table_is_skipped(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    assert run("--tables", "gflops") == 0
    assert says(capsys.readouterr().out, "skipped: torchvision ", "pip install 'attnreid[pipelines]'")


def small_rates(device):
    from dataclasses import replace

    from benchmarks.hardware import make_rates

    return tuple(replace(case, shapes=((2, 64, 64),)) for case in make_rates(device))


def test_list_names_everything_and_measures_nothing(capsys):
    assert main(["--list"]) == 0
    names = capsys.readouterr().out.split()
    assert names[:2] == ["rga_s", "rga_s_parts"]
    assert {case.name for case in CASES} | {kind.name for kind in KINDS} | {"gflops"} == set(names)
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--only", "rga"], "--only .*got 'rga'; .*rga_c or rga_s"),
        (["--only", "zzz", "?"], "--only .*got 'zzz'; .*rga_s, "),
        (["--rounds", "4"], "--rounds .* 5, got 4"),
        (["--threads", "0"], "--threads .* 1, got 0"),
        (["--batch", "0"], "--batch .* 1, got 0"),
        (["--json", "no/such/file.json"], "--json .*folder that exists, got no/such/file.json: "),
    ],
)
def test_a_mistake_is_one_sentence_before_anything_is_measured(arguments, sentence, capsys):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.match(f"error: benchmarks: {sentence}", captured.err)
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("shape", ["256x64", "axbxc", "0x4x4", "256,64,32"])
def test_a_shape_that_is_none_is_refused(shape, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--shapes", shape])
    assert stopped.value.code == 2
    assert says(capsys.readouterr().err, "CHANNELSxHEIGHTxWIDTH", f"got '{shape}'")


def test_cuda_is_refused_where_there_is_none(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["--device", "cuda"]) == 2
    error = capsys.readouterr().err
    assert says(error, "error: benchmarks: --device cuda ", "got none: ", "--device cpu")
    assert error.count("\n") == 1


@pytest.mark.parametrize("program", [engines, scaling])
def test_what_is_kept_goes_into_a_folder(program, tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as stopped:
        program.main(["--keep", str(tmp_path / "file")])
    assert stopped.value.code == 2
    assert says(capsys.readouterr().err, "--keep", "folder", str(tmp_path / "file"))
    assert program.build_parser().parse_args(["--keep", str(tmp_path / "a" / "b")]).keep.is_dir()
