"""The rows are what they say: equal outputs, turn by turn, their time by ours; what goes wrong stays in its row."""

import subprocess
import sys

import pytest
import torch

from benchmarks import cases, timing
from benchmarks.agreement import TOLERANCES, find_disagreement
from benchmarks.cases import Case, Peer, Skipped, Target, Variant
from benchmarks.measuring import measure
from benchmarks.work import inference, layer_step, training_step
from tests.benchmarks.support import CLOCK, CPU, SHAPE, fake, job, problem, variant
from tests.conftest import says


def run(*cases, rounds=5):
    return measure([job(case) for case in cases], rounds=rounds, resident=False, progress=False)


def two_peers(first, second, **options):
    peers = (Peer("first", "the first", first), Peer("second", "the second", second))
    return Case("a", "what a is", variant("ours", seconds=0.002, **options), peers, (SHAPE,), 2)


def test_all_variants_take_turns_round_by_round(clock):
    log = []
    run(fake("a", log=log, counted=False, memory=False), fake("b", log=log, counted=False, memory=False))
    forwards = [("a", "ours"), ("a", "theirs"), ("b", "ours"), ("b", "theirs")]
    backwards = [("a", "theirs"), ("a", "ours"), ("b", "theirs"), ("b", "ours")]
    assert log[-20:] == [*forwards, *backwards, *forwards, *backwards, *forwards]


def test_several_peers_share_ours_and_are_a_row_each(clock):
    log = []
    case = two_peers(variant("first", seconds=0.004, log=log), variant("second", seconds=0.001, log=log), log=log)
    first, second = run(case)
    assert (first.against, second.against) == ("the first", "the second")
    assert (first.ratio, second.ratio) == pytest.approx((2, 0.5))
    assert first.ours == second.ours
    assert log.count("ours") == log.count("first") == log.count("second")


def test_a_short_call_is_repeated(monkeypatch, clock):
    monkeypatch.setattr(timing, "LEAST_SECONDS", 0.02)
    log = []
    (row,) = run(fake("a", ours=0.006, theirs=0.03, log=log, counted=False, memory=False))
    assert log.count(("a", "theirs")) == 3 + 5
    assert log.count(("a", "ours")) == 3 + 4 * 5
    assert row.ours.ms == pytest.approx(6)  # of one call, not of all


def test_the_ratio_is_their_time_by_ours(clock):
    (row,) = run(fake("a", ours=0.004, theirs=0.02))
    assert row.ratio == pytest.approx(5)
    assert len(row.ratios) == row.rounds == 5


def test_the_ratio_is_the_median_of_the_rounds_own(clock):
    def side(seconds):
        left = iter([1.0] * 3 + seconds)  # a check, a warm-up and a trial come before the rounds
        return lambda problem: Variant(lambda: CLOCK.sleep(next(left)))

    case = Case(
        "a",
        "",
        side([1, 2, 4, 8, 16]),
        (Peer("peer", "", side([10, 4, 12, 80, 16])),),
        (SHAPE,),
        2,
        counted=False,
        memory=False,
    )
    (row,) = run(case)
    assert row.ratios == pytest.approx((10, 2, 3, 10, 1))
    assert (row.ratio, row.ours.ms, row.theirs.ms) == pytest.approx((3, 4000, 12000))


def test_items_make_a_rate(clock):
    case = Case(
        "a",
        "",
        variant("ours", seconds=0.1, items=4, unit="images"),
        (),
        (SHAPE,),
        2,
        least_per_second=50,
    )
    (row,) = run(case)
    assert row.ours.ms == pytest.approx(25)  # of one image, not of a call
    assert row.per_second == pytest.approx(40)
    assert row.notes == ("images a second: 40; ms: of one of them",)
    assert row.met is False


def product(width, **options):
    """Return the builder of a variant that multiplies two square matrices."""

    def build(problem):
        weight = torch.ones(width, width)

        def work():
            CLOCK.sleep(0.001)
            return (weight @ weight)[:1, :1]

        return Variant(work, **options)

    return build


def test_figures_of_memory_and_operations_are_both_sides_own(clock):
    peer = Peer("peer", "", product(1024, agrees=False), Target(memory_ratio=3.9))
    (row,) = run(Case("a", "", product(512), (peer,), (SHAPE,), 2, allows=True))
    assert (row.ours.multiply_adds, row.theirs.multiply_adds) == (512**3, 1024**3)
    assert row.allowed_ratio == 8
    assert row.ours.peak == pytest.approx(4 * 512**2, rel=0.01)
    assert row.memory_ratio == pytest.approx(4, rel=0.01)
    assert row.met is True


def test_what_must_be_left_behind_is_no_extra_memory(clock):
    left = 4 * 512**2 - 1000
    peer = Peer("peer", "", product(1024, agrees=False, left=4 * 1024**2 - 3000))
    (row,) = run(Case("a", "", product(512, left=left), (peer,), (SHAPE,), 2))
    assert row.ours.left == left
    assert row.memory_ratio == pytest.approx(3, rel=0.5)


def test_a_layers_step_leaves_its_output_and_gradients_behind():
    layer = torch.nn.Conv2d(16, 16, 1)
    variant = layer_step(layer, list(layer.parameters()), problem())
    assert variant.left == 4 * (2 * 2 * 16 * 8 * 4 + 16 * 16 + 16)
    assert variant.work().shape == (2, *SHAPE)


@pytest.mark.slow
def test_large_blocks_come_back_without_being_paged_in_anew():
    source = (
        "import resource, torch\n"
        "from benchmarks.timing import keep_memory\n"
        "kept = keep_memory()\n"
        "def fill():\n"
        "    torch.empty(2**26, dtype=torch.uint8).fill_(1)\n"
        "fill()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(8):\n"
        "    fill()\n"
        "print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)"
    )
    run = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    kept, faults = run.stdout.split()
    if kept == "False":
        pytest.skip("the C library has no mallopt")
    assert int(faults) <= 0.75 * 8 * 16_384  # without it: all 16,384 pages at every call


def test_what_the_profiler_cannot_see_is_left_to_the_fresh_processes(clock):
    (row,) = run(fake("a", counted=False, profiled=False))
    assert (row.ours.peak, row.memory_ratio) == (None, None)


def test_what_is_not_asked_for_is_not_measured(clock):
    (row,) = run(fake("a", counted=False, memory=False))
    assert (row.ours.multiply_adds, row.ours.peak, row.ours.resident) == (None, None, None)


# What goes wrong


def test_outputs_that_differ_are_refused_and_not_timed(clock):
    log = []
    wrong, right = run(fake("wrong", differ=True, log=log), fake("right"))
    assert log == [("wrong", "ours"), ("wrong", "theirs")]
    (note,) = wrong.notes
    assert says(note, "refused: ", "differ by 9.1e-02", "allowed 1e-04")
    assert (wrong.ok, wrong.ratio, wrong.ours, wrong.theirs, wrong.rounds) == (False, None, None, None, 0)
    assert right.ok
    assert right.ratio is not None


def test_one_wrong_peer_leaves_the_other_its_row(clock):
    wrong, right = run(two_peers(variant("first", value=2.0), variant("second")))
    assert wrong.ratio is None
    assert not wrong.ok
    assert right.ratio is not None


def test_a_peer_that_is_not_there_is_skipped_with_its_reason(clock):
    def absent(problem):
        raise Skipped("no such thing here")

    (row,) = run(fake("a", peer=absent, target=Target(2.0)))
    assert row.notes == ("skipped: no such thing here",)
    assert (row.ratio, row.target, row.met, row.ok) == (None, 2.0, None, True)


def test_a_row_whose_sides_both_need_what_is_not_there_says_so_once(clock):
    def absent(problem):
        raise Skipped("no such thing here")

    case = Case("a", "", absent, (Peer("peer", "other", absent),), (SHAPE,), 2)
    (row,) = run(case)
    assert row.notes == ("skipped: no such thing here",)
    assert row.ok


def test_a_peer_that_fails_says_so_and_the_run_goes_on(clock):
    def fails(problem):
        def work():
            raise RuntimeError('"softmax" not implemented\nfor BFloat16')

        return Variant(work)

    failed, other = run(fake("a", peer=fails), fake("b"))
    assert failed.notes == ('failed: RuntimeError: "softmax" not implemented',)
    assert failed.ok
    assert other.ratio is not None


def test_ours_failing_is_no_success(clock):
    def fails(problem):
        raise ValueError("Layer: channels must be a multiple of 3, got 16")

    case = Case("a", "", fails, (Peer("peer", "other", variant("theirs")),), (SHAPE,), 2)
    (row,) = run(case)
    assert row.notes == ("ours failed: ValueError: Layer: channels must be a multiple of 3, got 16",)
    assert not row.ok


def test_another_layer_must_agree_in_shape_only(clock):
    (row,) = run(fake("a", peer=variant("theirs", value=7.0, agrees=False)))
    assert row.ratio is not None
    assert find_disagreement(torch.zeros(2), torch.ones(2), values=False) == ""
    assert "shapes differ" in find_disagreement(torch.zeros(3), torch.ones(2), values=False)


def test_what_a_peer_leaves_out_is_added_before_comparing(clock):
    (row,) = run(fake("a", peer=variant("theirs", value=0.5, as_ours=lambda y: y + 0.5)))
    assert row.ok
    assert row.ratio is not None


@pytest.mark.parametrize("wrong", [torch.ones(3), torch.full((2,), torch.nan)], ids=["shape", "nan"])
def test_other_shapes_and_nan_are_no_agreement(wrong):
    assert find_disagreement(wrong, torch.ones(2)) != ""


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_the_tolerance_is_the_dtypes(dtype):
    ones = torch.ones(2, dtype=dtype)
    allowed = TOLERANCES[dtype]
    assert find_disagreement((ones.double() + 0.4 * allowed).to(dtype), ones) == ""
    assert find_disagreement((ones.double() + 2 * allowed).to(dtype), ones) != ""


def test_a_step_that_leaves_a_parameter_out_is_an_error():
    x, unused = torch.ones(2), torch.ones(2, requires_grad=True)
    with pytest.raises(RuntimeError, match="not have been used"):
        training_step(lambda x: 2 * x, x, [unused], torch.ones(2))()


def test_inference_has_no_gradients():
    weight = torch.ones(2, requires_grad=True)
    assert not inference(lambda x: weight * x, torch.ones(2))().requires_grad


def test_every_call_gives_the_same_maps():
    torch.manual_seed(5)
    first = problem().make_maps(2)
    cases._make_map.cache_clear()
    torch.manual_seed(6)
    torch.testing.assert_close(first, problem().make_maps(2), rtol=0, atol=0)
    training_step(lambda x: 2 * x, first[0], [], first[1])()
    assert not first[0].requires_grad
    assert not torch.equal(*first)
    assert problem(dtype=torch.float64).make_maps(1)[0].dtype == torch.float64
    assert problem().make_maps(1)[0].device == CPU
