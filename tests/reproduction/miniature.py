"""Experiments in miniature."""

import sys

import pytest

from reference_pipelines.commands.cli import main
from reference_pipelines.reproduction.catalogue import Recipe, Row, Scale
from reference_pipelines.reproduction.jobs import Failure

FEW = {"train_ids": 8, "test_ids": 4, "cameras": 3, "images_per_camera": 3, "distractors": 2, "junk": 1}
QUICK = {"data.image_size": [32, 16], "optimizer.epochs": 1, "optimizer.milestones": [], "sampler.ids": 4}
CLUSTERED = {"clustering.k1": 6, "clustering.k2": 2, "clustering.min_samples": 2, "iterations": 2}
SCALE = Scale(
    "mini",
    "miniatures",
    {
        "apnet_c": Recipe("apnet", "demo", QUICK, minutes=0.1, megabytes=30),
        "mla": Recipe("mla", "demo", {**QUICK, **CLUSTERED}),
    },
    images={
        "Market-1501": {**FEW, "domain": "mall", "seed": 0},
        "DukeMTMC-reID": {**FEW, "domain": "plaza", "seed": 2},
        "source": {**FEW, "domain": "plaza", "seed": 1},
    },
    source=Recipe("apnet", "demo", {**QUICK, "attention.preset": "none"}),
    held_out=2,
)
PLAIN = Row("APNet_0", "apnet", "apnet_c", {"attention.preset": "none"})
PYRAMID = Row("APNet-C_2", "apnet", "apnet_c")
BASELINE = Row("baseline", "mla", "mla", {"attention.preset": "none"})


def run_here(commands):
    """Return a stand-in for `run_jobs` that runs jobs in this process, which has imported everything."""

    def run(jobs, *, keep_going):
        assert keep_going
        failures = []
        for job in jobs:
            commands.append(job.command)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "argv", ["attnreid-pipelines", *job.command])
                if main(job.command) != 0:
                    failures.append(Failure(job, "it failed", 1.0))
        return failures

    return run
