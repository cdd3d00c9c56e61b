"""Safe files: a model with its attention, plain weights, and the networks that APNet's and RGA's authors released."""

from attnreid.checkpoints.loading import Difference, load_checkpoint, read_description
from attnreid.checkpoints.released import ReleasedNetwork, read_released
from attnreid.checkpoints.released_backbone import attach_released
from attnreid.checkpoints.saving import save_checkpoint
from attnreid.checkpoints.weights import Weights, read_weights

__all__ = [
    "Difference",
    "ReleasedNetwork",
    "Weights",
    "attach_released",
    "load_checkpoint",
    "read_description",
    "read_released",
    "read_weights",
    "save_checkpoint",
]
