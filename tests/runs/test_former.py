"""What the state.json of a run of before says of the epoch whose weights are asked for."""

import hashlib
import json

import pytest

from reference_pipelines.runs.former import describe_former

LOG = [
    {"epoch": 0, "mAP": 0.1, "rank1": 0.2},
    {"epoch": 1, "mAP": 0.4, "rank1": 0.5},
    {"epoch": 2, "mAP": None},
    {"epoch": 3, "mAP": 0.3, "rank1": 0.6},
    {"epoch": 4, "mAP": None},
]


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "checkpoints" / "epoch-0004"
    place.mkdir(parents=True)
    weights = place / "model.safetensors"
    weights.write_bytes(b"the last ones")
    known = {
        **dict.fromkeys(("fingerprint", "weights_digest", "code"), "0" * 16),
        **{key: {} for key in ("versions", "start", "measured")},
        **{"pipeline": "apnet", "processes": 1, "resumed": [], "seconds": 2.5, "train_seconds": 2.0},
        "config": {"title": "APNet", "model": {"weights": "none"}},
    }
    digests = {"model.safetensors": hashlib.sha256(weights.read_bytes()).hexdigest()}
    state = {"format": 2, **known, "epoch": 4, "best": {"epoch": 1}, "log": LOG, "digests": digests}
    (place / "state.json").write_text(json.dumps(state))
    return tmp_path


@pytest.mark.parametrize(("of_best", "epoch", "scored"), [(False, 4, LOG[3]), (True, 1, LOG[1])])
def test_the_scores_are_the_newest_up_to_the_epoch(folder, of_best, epoch, scored):
    best = folder / "best.safetensors"
    weights = best if of_best else folder / "checkpoints" / "epoch-0004" / "model.safetensors"
    described = describe_former(folder, weights, best)
    assert (described.epoch, described.scored) == (epoch, scored)


def test_what_was_not_kept_then_is_told_as_unknown(folder):
    described = describe_former(folder, folder / "model.safetensors", folder / "best.safetensors")
    assert (described.title, described.weights, described.hardware) == ("APNet", "none", "unknown hardware")
    assert (described.data, described.recipe, described.command, described.remarks) == (None, None, None, [])


def test_a_folder_without_one_is_not_described(tmp_path):
    assert describe_former(tmp_path, tmp_path / "model.safetensors", tmp_path / "best.safetensors") is None
