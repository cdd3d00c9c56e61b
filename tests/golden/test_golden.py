"""No number changes unnoticed: what layers and runs compute is what it was when it was last looked at."""

import pytest

from reference_pipelines.pipelines import PIPELINES
from tests.golden import layers, runs, values


def assert_kept(kind, name, found, tolerance):
    kept = values.read(kind)
    assert name in kept, f"{name} has no golden values{values.ADVICE}"
    lines = values.differences(found, kept[name], tolerance)
    assert not lines, "\n".join([f"{name} computes other numbers than it did{values.ADVICE}", *lines])


@pytest.mark.parametrize("name", layers.LAYERS)
def test_every_registered_layer_computes_what_it_did(name):
    assert_kept("layers", name, layers.measured(name), layers.tolerance)


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_a_tiny_run_comes_to_what_it_did(pipeline, tmp_path):
    assert_kept("runs", pipeline, runs.measured(pipeline, tmp_path / "golden"), runs.tolerance)


def test_nothing_is_kept_of_what_is_gone():
    assert values.read("layers").keys() == set(layers.LAYERS)
    assert values.read("runs").keys() == set(PIPELINES)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"loss": 2.0, "moved": [4.0, 1.0, 1.0]}, []),
        ({"loss": 2.1, "moved": [4.0, 1.0, 1.0]}, ["loss"]),
        ({"loss": float("nan"), "moved": [4.0, 1.0, 1.0]}, ["loss"]),
        ({"loss": 2.0, "moved": [4.0, 1.0, 1.5]}, ["moved"]),
        ({"loss": 2.0}, ["moved"]),
        ({"loss": 2.0, "moved": [4.0, 1.0, 1.0], "more": 1}, ["more"]),
    ],
    ids=["the same", "off", "nan", "one of a sketch", "gone", "new"],
)
def test_what_differs_is_named(found, said):
    kept = {"loss": 2.0, "moved": [4.0, 1.0, 1.0]}
    assert [line.partition(":")[0] for line in values.differences(found, kept, lambda key, kept: 0.01)] == said
