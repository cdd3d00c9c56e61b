"""The examples in the library's docstrings run, and what is public is documented in one way."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

import attnreid
import attnreid.layers
from attnreid import registry

MODULES = [found.name for found in pkgutil.walk_packages(attnreid.__path__, "attnreid.") if "__" not in found.name]
PUBLIC = [name for name in attnreid.__all__ if not hasattr(getattr(attnreid, name), "__dataclass_fields__")]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name, monkeypatch):
    monkeypatch.setattr(registry, "_builders", dict(registry._builders))  # an example registers a name
    assert doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS).failed == 0


@pytest.mark.parametrize("name", PUBLIC)
def test_everything_public_has_an_example(name):
    assert ">>> " in (inspect.getdoc(getattr(attnreid, name)) or ""), f"{name} has no example"


@pytest.mark.parametrize("name", attnreid.layers.__all__)
def test_every_layer_documents_the_same_things(name):
    text = inspect.getdoc(getattr(attnreid.layers, name))
    for heading in ("Args:", "Shape:", "Raises:", "Example:"):
        assert f"\n{heading}\n" in text, f"{name} has no {heading}"
