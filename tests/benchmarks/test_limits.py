"""The second table: what a layer must do at least, by hand, and the machine's own rates."""

from dataclasses import replace

import pytest
import torch

from attnreid import list_attention
from benchmarks.cases import Job
from benchmarks.hardware import COPY, MATMUL, make_rates
from benchmarks.limits import INPUTS, KINDS, LimitRow, Rates, compare, explain, find_rates, list_limits, stage_sizes
from benchmarks.measuring import Figures, Row, measure
from benchmarks.operators import costliest_operators
from benchmarks.table import format_limits
from tests.benchmarks.support import CPU, problem
from tests.conftest import says

BY_NAME = {kind.name: kind for kind in KINDS}


def limits_of(*names, **options):
    return list_limits(CPU, torch.float32, kinds=[BY_NAME[name] for name in names], **options)


def test_every_registered_layer_has_its_lines_and_the_pyramid_too():
    assert set(BY_NAME) == {*list_attention(), "pyramid"} - {"doctest_identity"}


def test_the_sizes_are_resnet50s_with_a_last_stride_of_1():
    assert stage_sizes(256, 128) == ((64, 32), (32, 16), (16, 8), (16, 8))
    assert stage_sizes(384, 192) == ((96, 48), (48, 24), (24, 12), (24, 12))
    lines = [(limit.mode, limit.job.problem.shape) for limit in limits_of("se")]
    assert lines[3] == ("forward", (2048, 16, 8))
    assert lines[7] == ("forward", (2048, 24, 12))
    assert lines[8:] == [("forward+backward", shape) for _, shape in lines[:4]]
    assert len(INPUTS) == 2


def test_the_least_bytes_by_hand():
    built_for = problem((32, 8, 4), batch=3)
    one_map = 4 * 3 * 32 * 8 * 4
    parameters = 4 * 2 * (32 * 2)  # two layers of 32 to 2
    assert BY_NAME["se"].count_bytes(built_for, "forward") == 3 * one_map + parameters  # read twice, written once
    assert BY_NAME["se"].count_bytes(built_for, "forward+backward") == 7 * one_map + 3 * parameters
    conv = 4 * (9 * 32 * 32 + 32)
    assert BY_NAME["pixel"].count_bytes(built_for, "forward") == 2 * one_map + conv
    half = problem((32, 8, 4), batch=3, dtype=torch.bfloat16)
    assert BY_NAME["pixel"].count_bytes(half, "forward") == (2 * one_map + conv) // 2


def test_the_bound_is_the_longer_of_operations_and_bytes():
    rates = Rates(multiply_adds=1e9, bytes=1e8)
    assert rates.bound(2 * 10**6, 10**5) == (2.0, "operations")
    assert rates.bound(2 * 10**6, 10**6) == (10.0, "bytes")


def test_the_rates_are_of_a_product_and_of_a_copy_read_and_written():
    cases = {case.name: case for case in make_rates(CPU)}
    small = {MATMUL: (1, 64, 64), COPY: (2, 32, 16)}
    jobs = [Job(cases[name], problem(shape, batch=1)) for name, shape in small.items()]
    rows = measure(jobs, rounds=1, progress=False)
    assert [row.ours.multiply_adds for row in rows] == [64**3, 0]
    assert all(row.ok for row in rows)
    figures = {MATMUL: Figures(2.0, 64**3), COPY: Figures(4.0, 0)}
    rates = find_rates([Row(name, "", "", "", ours=each) for name, each in figures.items()], jobs)
    assert rates.multiply_adds == pytest.approx(64**3 / 0.002)
    assert rates.bytes == pytest.approx(2 * 4 * 2 * 32 * 16 / 0.004)


@pytest.mark.parametrize("name", BY_NAME)
def test_every_line_is_measured_at_a_tiny_shape(name):
    limits = limits_of(name, shapes=[(16, 8, 4)], batch=2)
    rows = measure([limit.job for limit in limits], rounds=1, progress=False)
    compared = compare(limits, rows, Rates(1e9, 1e9))
    assert [row.mode for row in compared] == ["forward", "forward+backward"]
    for row in compared:
        assert row.note == ""
        assert row.multiply_adds > 0
        assert row.times_bound == pytest.approx(row.ms / row.bound_ms)
    assert compared[1].multiply_adds > 2 * compared[0].multiply_adds


def test_a_layer_that_does_not_suit_a_shape_says_so_and_the_gaps_are_named():
    limits = limits_of("head", "se", shapes=[(18, 8, 4)], batch=2)
    rows = measure([limit.job for limit in limits], rounds=1, progress=False)
    text = format_limits(compare(limits, rows, Rates(1e9, 1e9)), Rates(1e9, 1e9))
    assert says(text, "failed: ValueError: HeadLevelAttention: channels ", "multiple of 4, got 18")
    assert "largest gaps, forward: se 2x18x8x4 (" in text
    assert "matrix product 1 GMAC/s, copy 1 GB/s" in text


def test_a_layer_above_its_limit_says_which_operators_take_the_most():
    limits = limits_of("split", shapes=[(64, 16, 8)], batch=2)
    one = LimitRow("split", "2x64x16x8", "forward", 1, 1, times_bound=1.3)
    rows = [one, replace(one, mode="forward+backward", times_bound=1.7)]
    within, above = explain(limits, rows)
    assert (within.note, within.is_above, above.is_above) == ("", False, True)
    found = dict(each.rsplit(" ", 1) for each in above.note.split(", "))
    shares = [int(share.removesuffix("%")) for share in found.values()]
    assert len(found) == 3
    assert shares == sorted(shares, reverse=True)
    assert 0 < sum(shares) <= 102
    text = format_limits([within, above], Rates(1e9, 1e9))
    assert "above 1.3 times the bound, forward: 0 of 1" in text
    assert "above 1.6 times the bound, forward+backward: 1 of 1" in text


def test_the_operator_that_does_the_work_is_named():
    matrix = torch.ones(500, 500)
    assert costliest_operators(lambda: matrix @ matrix, CPU).startswith("mm ")
