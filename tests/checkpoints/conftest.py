"""The observer of tests/backbones, for `a failure leaves the model as it was`."""

from tests.backbones.conftest import observe

__all__ = ["observe"]
