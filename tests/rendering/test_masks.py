"""Where the person is in a rendered image."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from reference_pipelines.rendering import (
    mask_of_file,
    person_mask,
    plan_images,
    render_image,
    render_market,
    sample_camera,
    sample_identity,
    sample_pose,
)
from reference_pipelines.rendering.market import cast_of
from reference_pipelines.rendering.plan import RenderSize

SIZE = {"image_size": (128, 64)}


def free(person, camera=1):
    return replace(sample_pose(person, camera, 0), occluder="none", bystander=False, companion=None)


def test_the_mask_is_where_the_image_changes_when_the_person_comes():
    inside, outside = [], []
    for person in range(1, 7):
        # Without shadow, blur and noise a pixel changes where the person is and nowhere else.
        camera = replace(sample_camera(person), shadow=0.0, blur=0.0, resolution=1.0, noise=0.0)
        identity, pose = sample_identity(person), free(person)
        nobody = render_image(None, camera, replace(pose, scale=pose.scale * _tall(identity)), **SIZE).astype(int)
        changed = np.abs(render_image(identity, camera, pose, **SIZE) - nobody).sum(axis=2)
        mask = person_mask(identity, camera, pose, **SIZE)
        assert mask.dtype == np.float32
        assert (mask.min(), mask.max()) == (0, 1)
        assert 0.05 < mask.mean() < 0.6
        inside.append(np.median(changed[mask == 1]))
        far = (mask == 0) & (np.arange(128)[:, None] < 70)  # above the contact shadow
        outside.append(np.median(changed[far]))
    assert min(inside) > 20
    assert max(outside) <= 6


def _tall(identity):
    return identity.build.height * (0.88 if identity.carried.umbrella == "open" else 1.0)


def test_nobody_covers_nothing():
    assert not person_mask(None, sample_camera(1), free(1), **SIZE).any()


@pytest.mark.parametrize("occluder", ["pole", "barrier", "bench", "bush", "person"])
def test_what_stands_in_front_hides_the_person(occluder):
    identity, camera = sample_identity(3), sample_camera(1)
    pose = replace(free(3), occluder_size=0.9, occluder_x=0.5, companion=5)
    seen = person_mask(identity, camera, pose, **SIZE)
    hidden = person_mask(identity, camera, replace(pose, occluder=occluder), **SIZE)
    assert (hidden <= seen).all()
    assert hidden.sum() < 0.97 * seen.sum()
    assert hidden.sum() > 0


def test_one_who_walks_behind_is_not_the_person():
    identity, camera, pose = sample_identity(3), sample_camera(1), replace(free(3), companion=5)
    alone, accompanied = (person_mask(identity, camera, replace(pose, bystander=is_), **SIZE) for is_ in (False, True))
    np.testing.assert_array_equal(alone, accompanied)


def test_every_file_of_a_rendered_folder_has_its_mask(images):
    told = json.loads((images / "rendered.json").read_text())["parameters"]
    size = RenderSize(**{name: told[name] for name in RenderSize.__dataclass_fields__})
    specs = plan_images(size, domain=told["domain"], seed=told["seed"])
    assert len(specs) == len(list(images.rglob("*.jpg")))
    empty = 0
    for spec in specs:
        mask = mask_of_file(images / spec.folder / spec.name)
        assert mask.shape == Image.open(images / spec.folder / spec.name).size[::-1]
        cast = cast_of(spec, domain=told["domain"], seed=told["seed"])
        np.testing.assert_array_equal(mask, person_mask(*cast, image_size=mask.shape))
        empty += not mask.any()
    assert empty == sum(spec.empty for spec in specs)
    one, other, *_ = [spec for spec in specs if spec.folder == "query"]
    assert not np.array_equal(*(mask_of_file(images / "query" / spec.name) for spec in (one, other)))


def test_other_files_have_none(images, tmp_path):
    name = next((images / "query").glob("*.jpg")).name
    (tmp_path / "query").mkdir()
    copied = tmp_path / "query" / name
    copied.write_bytes((images / "query" / name).read_bytes())
    assert mask_of_file(copied) is None
    assert mask_of_file(images / "query" / "0001_c9s9_000000_00.jpg") is None
    assert mask_of_file(images / "nothing") is None


def test_drawings_of_another_version_have_none(tmp_path):
    counts = {"train_ids": 1, "test_ids": 1, "cameras": 2, "images_per_camera": 1, "distractors": 0, "junk": 0}
    root = tmp_path / "rendered"
    render_market(root, **counts, image_size=(32, 16), workers=0, progress=False)
    manifest = json.loads((root / "rendered.json").read_text())
    manifest["parameters"]["drawing_version"] += 1
    (root / "rendered.json").write_text(json.dumps(manifest))
    assert mask_of_file(next((root / "query").glob("*.jpg"))) is None
