"""Safe files: a model with its attention, and the networks that APNet's and RGA's authors released."""

from attnreid.checkpoints.released import ReleasedCheckpoint, read_released
from attnreid.checkpoints.released_backbone import attach_released
from attnreid.checkpoints.saving import Difference, load_checkpoint, save_checkpoint

__all__ = [
    "Difference",
    "ReleasedCheckpoint",
    "attach_released",
    "load_checkpoint",
    "read_released",
    "save_checkpoint",
]
