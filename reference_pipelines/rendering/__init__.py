"""Rendered pedestrians: deterministic drawings of people, written in the Market-1501 layout.

They are the data set that comes with the library: real files, real decoder, real protocol, no download. A
person (`Identity`) keeps build, hair, clothes and what they carry; a camera (`Camera`) keeps its place, light
and colours; a pose (`Pose`) is one moment. Scores on these drawings say that a pipeline learns, not how it
would do on photographs.

>>> identity, camera = sample_identity(1), sample_camera(1)
>>> render_image(identity, camera, sample_pose(1, 1, 0)).shape
(128, 64, 3)
"""

from reference_pipelines.rendering.camera import Camera, sample_camera
from reference_pipelines.rendering.identity import Identity, sample_identity
from reference_pipelines.rendering.image import person_mask, render_image
from reference_pipelines.rendering.market import RenderSummary, render_market
from reference_pipelines.rendering.masks import mask_of_file
from reference_pipelines.rendering.plan import SIZES, ImageSpec, RenderSize, plan_images
from reference_pipelines.rendering.pose import Pose, sample_pose
from reference_pipelines.rendering.seeding import DOMAINS

__all__ = [
    "DOMAINS",
    "SIZES",
    "Camera",
    "Identity",
    "ImageSpec",
    "Pose",
    "RenderSize",
    "RenderSummary",
    "mask_of_file",
    "person_mask",
    "plan_images",
    "render_image",
    "render_market",
    "sample_camera",
    "sample_identity",
    "sample_pose",
]
