"""Images that the small runs are trained on."""

import pytest

from reference_pipelines.data.rendering import render_market


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("rendered") / "images"
    counts = {"train_ids": 8, "test_ids": 4, "cameras": 3, "images_per_camera": 3, "distractors": 2, "junk": 1}
    render_market(root, **counts, image_size=(64, 32), workers=1, progress=False)
    return root
