"""People who are held out are not trained on, and the weights that are best on them are chosen without the test set."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from reference_pipelines.commands.cli import main
from reference_pipelines.data import read
from reference_pipelines.errors import UserError
from reference_pipelines.evaluation.evaluator import Evaluator
from reference_pipelines.ledger.recording import record
from reference_pipelines.pipelines import PIPELINES
from reference_pipelines.pipelines.opening import open_run
from reference_pipelines.training.held_out import hold_out
from tests.conftest import says
from tests.training.runs import configured


def test_people_are_on_one_side_only_and_every_query_has_a_match(images):
    data = read(images)
    rest, apart = hold_out(data, 3, seed=0)
    people, others = (set(part.ids.tolist()) for part in (rest.train, apart.gallery))
    assert (len(others), people & others, people | others) == (3, set(), set(data.train.ids.tolist()))
    assert len(rest.train) + len(apart.gallery) == len(data.train)
    assert set(apart.query.paths) <= set(apart.gallery.paths)
    views = list(zip(apart.query.ids.tolist(), apart.query.cameras.tolist(), strict=True))
    assert len(views) == len(set(views))
    assert set(views) == set(zip(apart.gallery.ids.tolist(), apart.gallery.cameras.tolist(), strict=True))
    assert apart.match_counts().min() > 0
    assert (rest.query, rest.gallery) == (data.query, data.gallery)
    assert hold_out(data, 0, seed=0) == (data, None)


def test_the_draw_is_the_seeds(images):
    data = read(images)
    drawn = [tuple(np.unique(hold_out(data, 3, seed)[1].gallery.ids)) for seed in (0, 0, *range(1, 6))]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1


def test_who_was_seen_by_one_camera_is_not_drawn_and_two_people_are_left(images):
    data = read(images)
    one = data.train.ids == data.train.ids[0]
    data = replace(data, train=data.train.where(~one | (data.train.cameras == data.train.cameras[0])))
    for seed in range(5):
        assert data.train.ids[0] not in hold_out(data, 6, seed)[1].gallery.ids
    with pytest.raises(UserError) as error:
        hold_out(data, 7, seed=0)
    assert says(str(error.value), "train: evaluation.held_out", "at most 6", "got 7", "lower it")


def test_a_run_keeps_the_weights_that_were_best_on_them(images, tmp_path):
    config = configured("apnet", images, **{"evaluation.held_out": "3"})
    result = PIPELINES["apnet"].train(config, tmp_path / "run")
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    scores = [entry["held_out_mAP"] for entry in log]
    best = int(np.argmax(scores))
    assert result["best"]["held_out"].items() >= {"epoch": best, "mAP": scores[best]}.items()
    # The weights give the score that they were chosen by.
    weights = tmp_path / "run" / "held_out.safetensors"
    opened = open_run(weights)
    data = hold_out(read(images), 3, config.seed)[1]
    again = Evaluator(data, opened.config.data, opened.config.evaluation, torch.device("cpu"))(opened.model)
    assert again.mAP == pytest.approx(scores[best])
    assert opened.result["data"]["fingerprint"] == read(images).fingerprint()
    assert main(["evaluate", str(weights)]) == 0
    (numbers,) = (tmp_path / "run" / "evaluations").glob("*.json")
    assert record(tmp_path / "ledger", "slice", numbers, cell={"scale": "test"}).selection == "held_out"
