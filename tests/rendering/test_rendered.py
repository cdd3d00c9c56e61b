"""The rendered pedestrians: layout, counts, determinism, refusals."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reference_pipelines.data import read
from reference_pipelines.data.verification import verify
from reference_pipelines.rendering import (
    SIZES,
    Pose,
    RenderSize,
    market,
    plan_images,
    render_image,
    render_market,
    sample_camera,
    sample_identity,
    sample_pose,
    samples,
)
from reference_pipelines.rendering.plan import split_ids

NAME = re.compile(r"^(-1|\d{4})_c(\d)s(\d)_(\d{6})_(\d{2})\.jpg$")
FOLDERS = ("bounding_box_train", "query", "bounding_box_test")
SMALL = RenderSize(train_ids=4, test_ids=5, cameras=3, images_per_camera=2, distractors=3, junk=2)


def render(root, **options):
    return render_market(root, **{"size": SMALL, "image_size": (64, 32), "progress": False, **options})


def files(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(Path(root).rglob("*")) if path.is_file()}


def names(root, folder):
    return [NAME.match(path.name) for path in sorted((Path(root) / folder).iterdir())]


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "plaza"
    return root, render(root)


def test_layout_names_and_counts(rendered):
    root, summary = rendered
    assert sorted(path.name for path in root.iterdir()) == sorted([*FOLDERS, "rendered.json"])
    assert all(match for folder in FOLDERS for match in names(root, folder))
    labels = Counter(match[1] for match in names(root, "bounding_box_test"))
    assert labels.pop("-1") == summary.junk == 2
    assert labels.pop("0000") == summary.distractors == 3
    assert labels.total() == summary.gallery_images
    assert len(names(root, "query")) == summary.query_images
    assert len(names(root, "bounding_box_train")) == summary.train_images
    unique = [match[0] for folder in FOLDERS for match in names(root, folder)]
    assert len(unique) == len(set(unique))


def test_train_and_test_identities_are_disjoint_and_complete(rendered):
    root, summary = rendered
    train = {match[1] for match in names(root, "bounding_box_train")}
    query = {match[1] for match in names(root, "query")}
    gallery = {match[1] for match in names(root, "bounding_box_test")} - {"-1", "0000"}
    assert len(train) == summary.train_ids == 4
    assert len(query) == summary.test_ids == 5
    assert query == gallery
    assert not train & query


def test_every_query_has_a_cross_camera_match_and_is_alone_under_its_camera(rendered):
    root, _ = rendered
    gallery = {(match[1], match[2]) for match in names(root, "bounding_box_test")}
    queries = [(match[1], match[2]) for match in names(root, "query")]
    assert len(queries) == len(set(queries))
    for person, camera in queries:
        assert any(other == person and seen != camera for other, seen in gallery)


def test_images_have_the_asked_size(rendered):
    root, _ = rendered
    for path in root.rglob("*.jpg"):
        with Image.open(path) as image:
            assert (image.size, image.mode, image.format) == ((32, 64), "RGB", "JPEG")


def test_the_real_reader_reads_it(rendered):
    root, summary = rendered
    data = read(root)
    assert len(data.train) == summary.train_images
    assert len(data.query) == summary.query_images


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_bytes_do_not_depend_on_the_run_or_the_workers(rendered, tmp_path, monkeypatch, workers):
    root, summary = rendered
    monkeypatch.setattr(market, "_CHUNK", 7)  # enough pieces for every worker to have some
    again = render(tmp_path / "again", workers=workers)
    assert files(root) == files(tmp_path / "again")
    assert (summary.content, summary.fingerprint) == (again.content, again.fingerprint)


def test_the_content_is_the_same_in_a_process_that_hashes_otherwise(rendered, tmp_path):
    _, summary = rendered
    code = (
        "import sys; from reference_pipelines.rendering import RenderSize, render_market\n"
        f"print(render_market(sys.argv[1], size={SMALL!r}, image_size=(64, 32), progress=False).content)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    command = [sys.executable, "-c", code, str(tmp_path / "data")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == summary.content


@pytest.mark.parametrize("change", [{"seed": 1}, {"domain": "mall"}, {"occluded": True}])
def test_another_seed_domain_or_variant_gives_other_images(rendered, tmp_path, change):
    _, summary = rendered
    assert render(tmp_path / "other", **change).content != summary.content


def test_the_digest_of_the_content_changes_with_one_byte(rendered):
    root, summary = rendered
    digests = [(name, "0") for name in files(root)]
    assert market._content(digests) == market._content(digests[::-1])
    assert market._content(digests) != market._content([(digests[0][0], "1"), *digests[1:]])
    assert re.fullmatch(r"[0-9a-f]{64}", summary.content)


def test_one_fingerprint_is_named_by_rendering_reading_and_verifying(rendered):
    root, summary = rendered
    assert summary.fingerprint == read(root).fingerprint() == verify(root).fingerprint
    assert str(summary).endswith(f" cameras, fingerprint {summary.fingerprint}")
    assert "fingerprint" not in json.loads((root / "rendered.json").read_text())


def test_a_folder_whose_manifest_is_of_an_earlier_version_is_reused(tmp_path):
    summary = render(tmp_path)
    path = tmp_path / "rendered.json"
    path.write_text(path.read_text().replace('"content"', '"fingerprint"'))
    assert render(tmp_path) == replace(summary, reused=True)


def test_a_complete_folder_is_reused_and_not_touched(rendered):
    root, summary = rendered
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert render(root) == replace(summary, reused=True)
    assert before == {path: path.stat().st_mtime_ns for path in root.rglob("*")}


def test_a_folder_with_other_parameters_is_refused_by_their_names(rendered):
    root, _ = rendered
    with pytest.raises(FileExistsError, match=r"'seed': 5.*got .*'seed': 0"):
        render(root, seed=5)


def test_a_damaged_folder_is_refused(tmp_path):
    render(tmp_path / "data")
    next((tmp_path / "data" / "query").iterdir()).unlink()
    with pytest.raises(FileExistsError, match=f"{re.escape(str(tmp_path))}.*added or lost"):
        render(tmp_path / "data")


def test_a_foreign_folder_is_refused_and_kept(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match=f"render_market: .*empty.*rendered.*, got {re.escape(str(tmp_path))} "):
        render(tmp_path)
    assert files(tmp_path) == {"thesis.txt": b"years of work"}
    (tmp_path / "rendered.json").write_text(json.dumps(["not", "a", "manifest"]))
    with pytest.raises(FileExistsError, match=f"render_market: .*empty.*rendered.*, got {re.escape(str(tmp_path))} "):
        render(tmp_path)


def test_an_empty_folder_is_filled(tmp_path):
    assert render(tmp_path).root == tmp_path
    assert (tmp_path / "query").is_dir()


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"writable .*space, got 'No space left on device'"):
        render(tmp_path / "data")
    assert not list(tmp_path.iterdir())


def test_a_root_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=f"render_market: {re.escape(str(tmp_path / 'file' / 'data'))} .*writable"):
        render(tmp_path / "file" / "data")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"domain": "plasa"}, r"domain .* got 'plasa'; .*plaza"),
        ({"size": "markt"}, r"size .* got 'markt'; .*market"),
        ({"seed": -1}, "seed .*>= 0, got -1"),
        ({"cameras": 1}, "cameras .*whole number from 2 to 99, got 1"),
        ({"train_ids": 0}, "train_ids .*whole number from 1 to 9998, got 0"),
        ({"test_ids": 9996}, "test_ids .*whole number from 1 to 9995, got 9996"),
        ({"images_per_camera": 0}, "images_per_camera .*whole number .*1, got 0"),
        ({"junk": -1}, "junk .*whole number .*0, got -1"),
        ({"distractors": 1.5}, r"distractors .*whole number .*0, got 1\.5"),
        ({"image_size": (8, 4)}, r"image_size .*\(height, width\) .*got \(8, 4\)"),
        ({"image_size": (64, 32, 3)}, r"image_size .*\(height, width\) .*got \(64, 32, 3\)"),
        ({"workers": -1}, "workers .*>= 0, got -1"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        render(tmp_path / "data", **options)
    assert not list(tmp_path.iterdir())


def test_totals_that_cannot_be_met_are_refused():
    with pytest.raises(ValueError, match="query_images .*from 10 to 15, got 16"):
        replace(SMALL, query_images=16)
    with pytest.raises(ValueError, match="gallery_images .*12, got 11"):
        replace(SMALL, query_images=12, gallery_images=11)


def test_the_market_size_has_the_published_counts():
    plan = plan_images(SIZES["market"])
    count = Counter(spec.folder for spec in plan)
    assert count == {"bounding_box_train": 12_936, "query": 3_368, "bounding_box_test": 19_732}
    assert sum(spec.name.startswith("-1_") for spec in plan) == 3_819
    assert sum(spec.name.startswith("0000_") for spec in plan) == 2_798
    assert len({spec.name[:4] for spec in plan if spec.folder == "bounding_box_train"}) == 751
    assert len({spec.name[:4] for spec in plan if spec.folder == "query"}) == 750
    assert {spec.camera for spec in plan} == {1, 2, 3, 4, 5, 6}
    assert len({spec.name for spec in plan}) == len(plan)
    assert all(NAME.match(spec.name) for spec in plan)


def test_overriding_a_count_drops_the_exact_totals(tmp_path):
    summary = render(tmp_path / "data", size="market", train_ids=2, test_ids=2, distractors=0, junk=1, cameras=2)
    assert (summary.train_ids, summary.test_ids, summary.query_images, summary.junk) == (2, 2, 4, 1)


def test_every_query_of_the_occluded_variant_is_occluded():
    plan = plan_images(SMALL, occluded=True)
    assert all(spec.occluded == (spec.folder == "query") for spec in plan)
    pose = sample_pose(1, 1, 0, occluded=True)
    assert pose.occluder != "none"
    assert pose.occluder_size >= 0.5


def test_the_occluded_variant_changes_the_queries_alone(rendered, tmp_path):
    root, summary = rendered
    hidden = render(tmp_path / "hidden", occluded=True)
    assert hidden.query_images == summary.query_images
    plain, occluded = files(root), files(tmp_path / "hidden")
    assert plain.keys() == occluded.keys()
    changed = {name for name in plain if plain[name] != occluded[name]}
    assert changed == {name for name in plain if name.startswith("query/")} | {"rendered.json"}


def clear(camera):
    """The camera with a perfect lens and sensor."""
    return replace(camera, noise=0.0, blur=0.0, resolution=1.0, fade=0.0)


@pytest.mark.parametrize("domain", ["plaza", "mall"])
def test_something_hides_a_part_of_the_person_in_occluded_queries(domain):
    shares = []
    for spec in plan_images(replace(SMALL, test_ids=30), domain=domain, occluded=True):
        if not spec.occluded:
            continue
        camera = clear(sample_camera(spec.camera, domain=domain))
        person = sample_identity(spec.person, domain=domain)
        pose = sample_pose(spec.person, spec.camera, spec.index, domain=domain, occluded=True)
        free = replace(pose, occluder="none")
        size = {"image_size": (64, 32)}
        alone = render_image(person, camera, free, **size).astype(int)
        # The background behind the person: the scale of an empty image does not know the person's height.
        nobody = render_image(None, camera, replace(free, scale=free.scale * person.build.height), **size)
        seen = np.abs(alone - nobody).sum(2) > 60
        covered = np.abs(render_image(person, camera, pose, **size) - alone).sum(2) > 24
        shares.append((covered & seen).sum() / seen.sum())
    assert len(shares) > 60
    assert min(shares) > 0.02
    assert np.quantile(shares, 0.1) > 0.1
    assert 0.2 < np.mean(shares) < 0.5


@pytest.mark.parametrize("size", [(128, 64), (256, 128), (384, 192), (384, 128), (160, 64), (67, 41), (16, 8)])
def test_any_image_size_shows_the_same_moment(size):
    camera, pose = clear(sample_camera(3)), sample_pose(4, 3, 1)
    image = render_image(sample_identity(4), camera, pose, image_size=size)
    assert image.shape == (*size, 3)
    if size[0] == 2 * size[1] and size != (16, 8):
        small = Image.fromarray(image).resize((64, 128), Image.Resampling.BOX)
        expected = render_image(sample_identity(4), camera, pose, image_size=(128, 64)).astype(int)
        assert np.abs(np.asarray(small) - expected).mean() < 4


def test_a_large_image_is_drawn_and_not_enlarged():
    camera, pose = clear(sample_camera(3)), sample_pose(4, 3, 1)

    def drawn(size):
        return render_image(sample_identity(4), camera, pose, image_size=size)

    def sharpest(image):
        return np.quantile(np.abs(np.diff(image.astype(int), axis=1)), 0.995)

    enlarged = np.asarray(Image.fromarray(drawn((128, 64))).resize((192, 384), Image.Resampling.BICUBIC))
    assert sharpest(drawn((384, 192))) > 1.5 * sharpest(enlarged)


def test_people_cameras_and_poses_are_functions_of_their_arguments():
    assert sample_identity(3) == sample_identity(3)
    assert sample_camera(3) == sample_camera(3)
    assert sample_pose(3, 1, 0) == sample_pose(3, 1, 0)
    for other in (sample_identity(4), sample_identity(3, seed=1), sample_identity(3, domain="mall")):
        assert other != sample_identity(3)
    assert len({sample_camera(number).gains for number in range(6)}) == 6
    assert split_ids(SMALL, domain="plaza", seed=0) != split_ids(SMALL, domain="plaza", seed=1)


def test_people_are_seen_from_all_sides_and_differ_in_detail():
    facings = [sample_pose(person, 1, 0).facing for person in range(200)]
    assert np.all(np.histogram(facings, 8, (0, 2 * np.pi))[0] > 8)
    people = [sample_identity(number) for number in range(300)]
    for trait in (
        {person.carried.bag for person in people},
        {person.upper.pattern for person in people},
        {person.lower.kind for person in people},
        {person.head.style for person in people},
    ):
        assert len(trait) >= 4


def test_a_drawing_is_pure_and_shows_the_person_where_the_pose_says():
    camera, pose = sample_camera(1), Pose()
    person = render_image(sample_identity(1), camera, pose)
    np.testing.assert_array_equal(person, render_image(sample_identity(1), camera, pose))
    empty = render_image(None, camera, pose)
    assert person.shape == empty.shape == (128, 64, 3)
    assert person.dtype == np.uint8
    changed = np.abs(person.astype(int) - empty).sum(2) > 40
    rows, columns = np.nonzero(changed)
    assert rows.min() < 20
    assert rows.max() > 110
    assert abs(columns.mean() - 32) < 8


def test_every_occluder_and_every_facing_can_be_drawn():
    camera = sample_camera(2, domain="mall")
    plain = render_image(sample_identity(1), camera, Pose())
    for occluder in ("pole", "bench", "barrier", "bush", "person"):
        pose = Pose(occluder=occluder, occluder_size=0.6, companion=9, occluder_x=0.6)
        assert not np.array_equal(plain, render_image(sample_identity(1), camera, pose))
    for number in range(40):
        pose = Pose(facing=number * 0.4, phase=number, raised=number % 3 - 1)
        image = render_image(sample_identity(number), camera, pose, image_size=(48, 24))
        assert image.std() > 5


def test_no_global_random_state_is_used(tmp_path):
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    render(tmp_path / "data")
    np.testing.assert_array_equal(before, np.random.get_state()[1])


def test_two_processes_that_render_the_same_folder_agree(rendered, tmp_path, monkeypatch):
    _, summary = rendered
    rename = Path.rename

    def late(source, target):
        monkeypatch.setattr(Path, "rename", rename)
        render(target)  # the other process finishes first
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", late)
    found = render(tmp_path / "data")
    assert (found.fingerprint, found.reused) == (summary.fingerprint, True)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_the_pictures_in_the_documentation_are_of_these_drawings():
    folder = Path(__file__).parents[2] / "docs" / "images"
    page = (folder.parent / "rendered.md").read_text(encoding="utf-8")
    sheets = samples.sample_sheets()
    assert {path.stem for path in folder.glob("rendered*")} == set(sheets)
    assert sum(path.stat().st_size for path in folder.glob("rendered*")) < 600_000
    assert f"DRAWING_VERSION` {market.DRAWING_VERSION}" in page
    for name, sheet in sheets.items():
        assert f"(images/{name}.jpg)" in page
        with Image.open(folder / f"{name}.jpg") as stored:
            assert stored.size == sheet.size
            difference = np.abs(np.asarray(stored, dtype=int) - np.asarray(sheet, dtype=int)).mean()
        # JPEG's loss is about 4; another drawing of the same people differs by more than 15.
        assert difference < 7, f"raise DRAWING_VERSION and make {name} again"


def test_the_pictures_are_written_where_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "sample_sheets", lambda: {"rendered_one": Image.new("RGB", (8, 16))})
    assert samples.write_samples(tmp_path / "new" / "images") == [tmp_path / "new" / "images" / "rendered_one.jpg"]
    with Image.open(tmp_path / "new" / "images" / "rendered_one.jpg") as image:
        assert image.size == (8, 16)
