"""Directions of vectors of any length, against fractions."""

from fractions import Fraction
from math import isqrt

import pytest
import torch
from torch.nn import functional

from reference_pipelines.unit_vectors import unit_rows


def exact(row):
    """Return a row divided by its length, each number rounded once from fractions."""
    numbers = [Fraction(value) for value in row]
    scale = max(map(abs, numbers))
    numbers = [number / scale for number in numbers]
    square = sum(number * number for number in numbers)
    length = Fraction(isqrt(square.numerator * square.denominator * 10**60), square.denominator * 10**30)
    return [float(number / length) for number in numbers]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("length", [1e-38, 1e-20, 5e-13, 1.1e-12, 1.0, 1e19, 1e37])
def test_the_direction_is_kept_whatever_the_length(length, dtype):
    rows = torch.randn(5, 7, dtype=dtype, generator=torch.Generator().manual_seed(0)) * length
    expected = torch.tensor([exact(row) for row in rows.tolist()], dtype=dtype)
    torch.testing.assert_close(unit_rows(rows), expected, rtol=1e-5, atol=1e-6 if dtype == torch.float32 else 1e-12)


def test_usual_vectors_are_normalised_as_torch_does_bit_for_bit_beside_odd_ones():
    rows = torch.randn(6, 33, generator=torch.Generator().manual_seed(1))
    rows[2] *= 1e-20
    rows[4] = 0
    before = rows.clone()
    found = unit_rows(rows)
    usual = [0, 1, 3, 5]
    assert torch.equal(found[usual], functional.normalize(rows, dim=1)[usual])
    assert torch.equal(found[4], torch.zeros(33))
    assert found[2].norm() == pytest.approx(1)
    assert torch.equal(rows, before)
    assert unit_rows(rows[:0]).shape == (0, 33)
    assert unit_rows(rows[:, :0]).shape == (6, 0)
