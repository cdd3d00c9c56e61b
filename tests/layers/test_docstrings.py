"""The examples in the docstrings of the layers, the pyramid and the registry run."""

import doctest
import importlib

import pytest

import attnreid.layers
from attnreid import registry

MODULES = sorted(
    {getattr(attnreid.layers, name).__module__ for name in attnreid.layers.__all__}
    | {"attnreid.pyramid", "attnreid.registry"}
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name, monkeypatch):
    monkeypatch.setattr(registry, "_builders", dict(registry._builders))  # an example registers a name
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted >= 2
    assert result.failed == 0


def test_every_layer_documents_the_same_things():
    for name in attnreid.layers.__all__:
        text = getattr(attnreid.layers, name).__doc__
        for heading in ("Args:", "Shape:", "Raises:", "Example:"):
            assert f"    {heading}\n" in text, f"{name} has no {heading}"
