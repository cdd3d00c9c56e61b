"""The benchmarks measure what they say: equal outputs, turn by turn, and their time by ours."""

import json
import sys
from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from attnreid import AttentionPyramid, HeadLevelAttention, RelationAwareSpatialAttention
from benchmarks import layers, timing
from benchmarks.__main__ import CASES, format_table, main
from benchmarks.rendering import rendering_contest
from benchmarks.timing import Case, Contest, Skipped, find_disagreement, measure, training_step
from tests.oracles.head import head
from tests.oracles.relation_aware import relation_aware_spatial

CPU = torch.device("cpu")


class Clock:
    """Stands in for `time`: time passes only where something says so."""

    now = 0.0

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


CLOCK = Clock()
SIZE = (6, 4)


@pytest.fixture(autouse=True)
def no_repeats(monkeypatch):
    monkeypatch.setattr(timing, "LEAST_SECONDS", 0.0)


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(timing, "time", CLOCK)


def relation_aware(**options):
    return RelationAwareSpatialAttention(16, size=SIZE, **options)


def three_levels(**options):
    return AttentionPyramid(16, "se", levels=3, **options)


def heads(**options):
    return HeadLevelAttention(16, size=SIZE, **options)


LITERAL = [
    pytest.param(relation_aware, layers.literal_relation_aware, id="rga_s"),
    pytest.param(three_levels, layers.level_by_level, id="pyramid"),
    pytest.param(heads, layers.literal_head, id="head"),
]
CONTESTS = [layers.relation_aware_contest, layers.pyramid_contest, layers.head_contest]
TINY = {"channels": 16, "size": SIZE, "batch": 2}


class Outputs(TorchDispatchMode):
    """Notes the name and the outputs' shapes of every operation."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.seen.append((func.overloadpacket.__name__, tuple(tensor.shape)))
        return out


def operations(work):
    with Outputs() as outputs:
        work()
    return outputs.seen


# The variants


@pytest.mark.parametrize(("build", "literal"), LITERAL)
def test_the_literal_variant_has_the_layers_outputs_and_gradients(build, literal):
    torch.manual_seed(0)
    layer = build(dtype=torch.float64).train()
    x, cotangent = torch.randn(2, 3, 16, *SIZE, dtype=torch.float64)
    x.requires_grad_()
    outputs = layer(x), literal(layer, x)
    torch.testing.assert_close(*outputs)
    gradients = [torch.autograd.grad(y, (x, *layer.parameters()), cotangent) for y in outputs]
    torch.testing.assert_close(*gradients)


def test_the_literal_formulas_are_the_papers():
    torch.manual_seed(1)
    x = torch.randn(2, 16, *SIZE, dtype=torch.float64)
    layer = relation_aware(dtype=torch.float64).train()
    oracle = relation_aware_spatial(x, dict(layer.named_parameters()), parts=1, training=True)
    torch.testing.assert_close(layers.literal_relation_aware(layer, x), oracle)
    layer = heads(dtype=torch.float64)
    torch.testing.assert_close(layers.literal_head(layer, x), head(x, dict(layer.named_parameters()), heads=4))


@pytest.mark.parametrize("build", CONTESTS)
def test_both_sides_of_a_contest_agree(build):
    contest = build(CPU, **TINY)
    ours, theirs = contest.ours(), contest.theirs()
    assert ours.shape == (2, 16, *SIZE)
    assert find_disagreement(ours, theirs) == ""
    assert find_disagreement(ours, 1.001 * theirs).startswith("the outputs differ by 1.0e-03")


@pytest.mark.parametrize("build", CONTESTS)
def test_both_sides_go_backward_in_train_mode(build):
    contest = build(CPU, **TINY)
    names = [[name for name, _ in operations(work)] for work in (contest.ours, contest.theirs)]
    assert all(any("backward" in name for name in side) for side in names)
    if build is layers.relation_aware_contest:
        # Only a batch norm in train mode counts its batches.
        assert all(("add_", ()) in operations(work) for work in (contest.ours, contest.theirs))


def test_theirs_has_the_affinity_in_memory_and_ours_has_not():
    positions = SIZE[0] * SIZE[1]
    contest = layers.relation_aware_contest(CPU, **TINY)
    assert any(shape.count(positions) > 1 for _, shape in operations(contest.theirs))
    assert not any(shape.count(positions) > 1 for _, shape in operations(contest.ours))
    head_formula = layers.head_contest(CPU, **TINY).theirs
    assert any(shape.count(positions) > 1 for _, shape in operations(head_formula))


def test_theirs_multiplies_the_map_once_a_level():
    x = torch.randn(2, 16, *SIZE)
    pyramid = three_levels()
    counts = [
        operations(partial(forward, x)).count(("mul", (2, 16, *SIZE)))
        for forward in (pyramid, partial(layers.level_by_level, pyramid))
    ]
    assert counts == [1, 3]


def test_timm_is_timed_once_and_what_differs_is_said(capsys):
    pytest.importorskip("timm")
    contest = layers.timm_contest(CPU, channels=64, size=SIZE, batch=2)
    assert not contest.compared
    assert "ours 3 levels of 1 x 4 + 2 x 2 + 4 x 1 hidden units, no bias" in contest.note
    assert "one of 8 (C/16 rounded to 8s), with bias" in contest.note
    (row,) = measure([Case("timm", "ours", "timm", lambda device: contest)], device=CPU, rounds=5, progress=False)
    assert row.ratio is not None
    assert row.note == contest.note


def test_without_timm_the_row_is_skipped_and_says_why(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    case = Case("timm", "ours", "timm", partial(layers.timm_contest, **TINY))
    (row,) = measure([case], device=CPU, rounds=5, progress=False)
    assert (row.ratio, row.ours_ms, row.theirs_ms, row.rounds, row.refused) == (None, None, None, 0, False)
    assert row.note == "skipped: timm cannot be imported, timm is not installed; pip install timm"


def test_the_rendering_row_draws_new_images_each_call_and_counts_them(monkeypatch, clock):
    pytest.importorskip("PIL")
    from reference_pipelines.data.rendering import market

    drawn = []

    def encode(spec, **options):
        drawn.append((spec, options))
        CLOCK.sleep(0.01)

    monkeypatch.setattr(market, "encode_image", encode)
    case = Case("rendering", "images", "", partial(rendering_contest, images=3, image_size=(128, 64)))
    (row,) = measure([case], device=CPU, rounds=5, progress=False)
    assert len({spec for spec, _ in drawn}) == len(drawn) == 3 * (3 + 5)
    assert drawn[0][1]["image_size"] == (128, 64)
    assert (row.ratio, row.theirs_ms) == (None, None)
    assert row.ours_ms == pytest.approx(10)  # of one image, not of a call
    assert row.note == "100 images a second; ms an image; target at least 150 a second"


# The measuring


def fake(name, *, ours=0.001, theirs=0.001, log=None, differ=False):
    """Return a case whose sides take so many seconds of the stand-in clock."""

    def side(who, seconds, value):
        def work():
            if log is not None:
                log.append((name, who))
            CLOCK.sleep(seconds)
            return torch.full((2,), value)

        return work

    contest = Contest(side("ours", ours, 1.0), side("theirs", theirs, 1.1 if differ else 1.0))
    return Case(name, f"what {name} is", f"other {name}", lambda device: contest)


def test_all_variants_take_turns_round_by_round(clock):
    log = []
    measure([fake("a", log=log), fake("b", log=log)], device=CPU, rounds=5, progress=False)
    forwards = [("a", "ours"), ("a", "theirs"), ("b", "ours"), ("b", "theirs")]
    backwards = [("a", "theirs"), ("a", "ours"), ("b", "theirs"), ("b", "ours")]
    assert log[-20:] == [*forwards, *backwards, *forwards, *backwards, *forwards]


def test_a_short_call_is_repeated(monkeypatch, clock):
    monkeypatch.setattr(timing, "LEAST_SECONDS", 0.02)
    log = []
    (row,) = measure([fake("a", ours=0.006, theirs=0.03, log=log)], device=CPU, rounds=5, progress=False)
    assert log.count(("a", "theirs")) == 3 + 5
    assert log.count(("a", "ours")) == 3 + 4 * 5
    assert row.ours_ms == pytest.approx(6)  # of one call, not of all


def test_the_ratio_is_their_time_by_ours(clock):
    (row,) = measure([fake("a", ours=0.004, theirs=0.02)], device=CPU, rounds=5, progress=False)
    assert row.ratio == pytest.approx(5)
    assert len(row.ratios) == row.rounds == 5


def test_the_ratio_is_the_median_of_the_rounds_own(clock):
    def side(seconds):
        left = iter([1.0] * 3 + seconds)  # a check, a warm-up and a trial come before the rounds
        return lambda: CLOCK.sleep(next(left))

    contest = Contest(side([1, 2, 4, 8, 16]), side([10, 4, 12, 80, 16]))
    (row,) = measure([Case("a", "", "", lambda device: contest)], device=CPU, rounds=5, progress=False)
    assert row.ratios == pytest.approx((10, 2, 3, 10, 1))
    assert (row.ratio, row.ours_ms, row.theirs_ms) == pytest.approx((3, 4000, 12000))


def test_outputs_that_differ_are_refused_and_not_timed(capsys, clock):
    log = []
    status = main(["--rounds", "5"], [fake("wrong", differ=True, log=log), fake("right")])
    assert status == 1
    assert log == [("wrong", "ours"), ("wrong", "theirs")]
    out = capsys.readouterr().out
    wrong = next(line for line in out.splitlines() if "what wrong is" in line)
    assert "refused: the outputs differ by 9.1e-02 of the largest value, allowed 1e-04" in wrong
    assert [cell.strip() for cell in wrong.split("|")[3:7]] == ["-", "-", "-", "0"]
    assert any("what right is" in line and "refused" not in line for line in out.splitlines())


@pytest.mark.parametrize("wrong", [torch.ones(3), torch.full((2,), torch.nan)], ids=["shape", "nan"])
def test_other_shapes_and_nan_are_no_agreement(wrong):
    assert find_disagreement(wrong, torch.ones(2)) != ""


def test_another_layer_must_agree_in_shape_only():
    assert find_disagreement(torch.zeros(2), torch.ones(2), values=False) == ""
    assert "shapes differ" in find_disagreement(torch.zeros(3), torch.ones(2), values=False)


def test_a_step_that_leaves_a_parameter_out_is_an_error():
    x, unused = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    with pytest.raises(RuntimeError, match="not have been used"):
        training_step(lambda x: 2 * x, x, [unused], torch.ones(2))()


# The command


def test_the_table_has_the_ratio_first_and_the_rows_of_the_json(tmp_path, capsys, clock):
    file = tmp_path / "rows.json"

    def absent(device):
        raise Skipped("no such thing here")

    cases = [fake("a", ours=0.001, theirs=0.002), Case("b", "what b is", "other b", absent)]
    assert main(["--rounds", "5", "--threads", "1", "--json", str(file)], cases) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["rows.json"]
    header, _rule, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("|")
    )
    assert header == ["what", "against", "ratio", "ours ms", "theirs ms", "rounds", "note"]
    written = json.loads(file.read_text())
    assert written.keys() == {"date", "device", "threads", "torch", "python", "rows"}
    assert written["threads"] == 1
    assert written["torch"] == torch.__version__
    assert written["device"]
    assert len(rows) == len(written["rows"]) == 2
    for cells, row in zip(rows, written["rows"], strict=True):
        figures = [row["ratio"], row["ours_ms"], row["theirs_ms"]]
        shown = ["-" if figure is None else f"{figure:.2f}" for figure in figures]
        assert cells == [row["what"], row["against"], *shown, str(row["rounds"]), row["note"]]
    assert written["rows"][1]["note"] == "skipped: no such thing here"


def test_only_keeps_the_named_rows_in_the_tables_order(capsys, clock):
    assert main(["--rounds", "5", "--only", "c", "a"], [fake("a"), fake("b"), fake("c")]) == 0
    out = capsys.readouterr().out
    assert out.index("what a is") < out.index("what c is")
    assert "what b is" not in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--only", "rga"],
            "error: benchmarks: --only must name rows of the table, got 'rga'; did you mean rga_s?\n",
        ),
        (
            ["--only", "xyz"],
            "error: benchmarks: --only must name rows of the table, got 'xyz'; choose from rga_s, pyramid, "
            "pyramid_timm, head_16x8, head_32x16, rendering\n",
        ),
        (["--rounds", "4"], "error: benchmarks: --rounds must be at least 5, got 4: pass more\n"),
        (["--threads", "0"], "error: benchmarks: --threads must be at least 1, got 0: pass more\n"),
        (
            ["--json", "no/such/file.json"],
            "error: benchmarks: --json must be a file in a folder that exists, got no/such/file.json: pass one\n",
        ),
    ],
)
def test_a_mistake_is_one_sentence_before_anything_is_measured(arguments, sentence, capsys):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", sentence)


def test_cuda_is_refused_where_there_is_none(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["--device", "cuda"]) == 2
    assert (
        capsys.readouterr().err == "error: benchmarks: --device cuda needs a CUDA device, got none: pass --device cpu\n"
    )


def test_an_empty_table_still_has_its_columns():
    assert format_table([]).startswith("| what | against | ratio |")


def test_the_rows_are_the_promised_ones():
    assert [case.what.partition(",")[2] for case in CASES[:1]] == [" 256 channels, 64x32, batch 4"]
    assert [case.name for case in CASES] == [
        "rga_s",
        "pyramid",
        "pyramid_timm",
        "head_16x8",
        "head_32x16",
        "rendering",
    ]
