"""Batches: in order, the same on any number of workers, and what goes wrong on the way is one sentence."""

import contextlib
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from reference_pipelines.config.sections import AugmentConfig
from reference_pipelines.data import read
from reference_pipelines.data.dataset import Draw, load_batches
from reference_pipelines.data.decoding import load_image
from reference_pipelines.data.sampler import in_order
from reference_pipelines.data.transforms import evaluation_transform, train_transform
from reference_pipelines.data.workers import AHEAD, map_in_order
from reference_pipelines.errors import UserError
from tests.conftest import says, write_image

WORKERS = [0, 1, 3]


@pytest.mark.parametrize("workers", WORKERS)
def test_every_image_comes_once_in_order(market, workers):
    paths, transform = read(market).train.paths, evaluation_transform((32, 16))
    batches = list(load_batches(paths, transform, in_order(len(paths), 8), workers=workers))
    assert [len(batch.images) for batch in batches] == [8, 8, 8, 8, 4]
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(36))
    images = torch.cat([batch.images for batch in batches])
    assert images.dtype == torch.float32
    for image, path in zip(images, paths, strict=True):
        assert torch.equal(image, transform(load_image(path)))


def test_images_have_the_channels_last(market):
    paths = read(market).train.paths
    (batch,) = load_batches(paths, evaluation_transform((32, 16)), [[Draw(0, 0), Draw(1, 0)]], workers=0)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_training_batches_are_the_same_on_any_number_of_workers(market):
    paths = list(read(market).train.paths)
    write_image(paths[2], 5, size=(50, 20))
    transform = train_transform((48, 24), AugmentConfig(pad=4, enlarge=0.5))
    # More batches than there are places for, of several lengths, kept until the end.
    draws = [
        [Draw(i % 18, 100 * i + size) for i in range(start, start + size)] for start, size in enumerate([6, 4] * 8)
    ]
    here, *others = ([*load_batches(paths, transform, draws, workers=workers)] for workers in WORKERS)
    for there in others:
        for mine, theirs in zip(here, there, strict=True):
            assert torch.equal(mine.images, theirs.images)
            assert torch.equal(mine.indices, theirs.indices)
    other = [[Draw(draw.image, draw.seed + 1) for draw in batch] for batch in draws]
    for changed, mine in zip(load_batches(paths, transform, other, workers=0), here, strict=True):
        assert not torch.equal(changed.images, mine.images)


def test_an_images_augmentation_is_its_seeds_alone(market):
    paths, transform = read(market).train.paths, train_transform((48, 24), AugmentConfig(pad=4, enlarge=0.5))
    draws = [Draw(i, 7 * i) for i in range(12)]
    (together,) = load_batches(paths, transform, [draws], workers=0)
    alone = [next(load_batches(paths, transform, [[draw]], workers=0)).images[0] for draw in reversed(draws)]
    assert torch.equal(together.images, torch.stack(alone[::-1]))


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_leaves_the_random_states_alone(market, workers):
    paths = read(market).train.paths
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    list(load_batches(paths, train_transform((32, 16), AugmentConfig()), [[Draw(0, 1)]], workers=workers))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]


def test_no_batch_is_no_batch(market):
    assert list(load_batches(read(market).train.paths, evaluation_transform((32, 16)), [], workers=2)) == []


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_a_corrupt_image_is_named_in_one_sentence(market, workers, content):
    paths = read(market).train.paths
    whole = paths[3].read_bytes()
    paths[3].write_bytes(whole[: len(whole) // 3] if content is None else content)
    loader = load_batches(paths, evaluation_transform((32, 16)), in_order(len(paths), 8), workers=workers)
    with pytest.raises(UserError, match=f"cannot read .*{paths[3].name}") as caught:
        list(loader)
    assert "\n" not in str(caught.value)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_before_the_corrupt_image_still_come(market, workers):
    paths = read(market).train.paths
    paths[35].write_bytes(b"")
    loader = load_batches(paths, evaluation_transform((32, 16)), in_order(len(paths), 8), workers=workers)
    assert [len(next(loader).images) for _ in range(4)] == [8] * 4
    with pytest.raises(UserError, match="\\.jpg .*empty"):
        next(loader)


def test_a_killed_worker_is_one_sentence_and_no_hang(market):
    paths = read(market).train.paths
    loader = load_batches(paths, evaluation_transform((32, 16)), in_order(36, 1) * 50, workers=2)
    next(loader)
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        list(loader)
    assert time.monotonic() - start < 20
    assert says(str(caught.value), "data: ", "2 worker processes", "killed or ran out of memory", "--data.workers")
    assert not multiprocessing.active_children()


def test_workers_that_cannot_start_are_one_sentence(market, monkeypatch):
    def refuse(*_, **__):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("reference_pipelines.data.workers.ProcessPoolExecutor.submit", refuse)
    with pytest.raises(UserError) as caught:
        list(map_in_order(str, [1], workers=64))
    assert says(str(caught.value), "data: 64 worker processes", "(Too many open files)", "--data.workers")


def test_leaving_early_ends_the_workers(market):
    paths = read(market).train.paths
    loader = load_batches(paths, evaluation_transform((32, 16)), in_order(36, 2) * 9, workers=2)
    next(loader)
    assert len(multiprocessing.active_children()) == 2
    loader.close()
    assert not multiprocessing.active_children()


def test_items_are_taken_only_as_far_ahead_as_promised():
    taken = []

    def items():
        for number in range(40):
            taken.append(number)
            yield number

    for position, result in enumerate(map_in_order(abs, items(), workers=2)):
        assert result == position
        assert len(taken) <= position + 2 * AHEAD
    assert len(taken) == 40


def test_results_come_in_order_though_later_ones_are_done_first():
    commands = ["sleep 0.3; echo first", "echo second", "echo third"]
    assert list(map_in_order(subprocess.getoutput, commands, workers=2)) == ["first", "second", "third"]


def test_an_error_of_the_function_comes_out_as_it_is():
    with pytest.raises(ValueError, match="invalid literal"):
        list(map_in_order(int, ["1", "no number"], workers=1))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts in /proc")
def test_kept_batches_hold_no_file_descriptor(market):
    paths = read(market).train.paths
    loader = load_batches(paths, evaluation_transform((32, 16)), in_order(36, 2), workers=2)
    kept = [next(loader)]
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(15):
        kept.append(next(loader))
        assert len(os.listdir("/proc/self/fd")) <= before
    loader.close()


def test_a_worker_has_one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert list(map_in_order(eval, ["__import__('torch').get_num_threads()"], workers=1)) == [1]
    finally:
        torch.set_num_threads(threads)


INTERRUPTED = """
import itertools
from reference_pipelines.data.workers import map_in_order
results = map_in_order(abs, itertools.count(), workers=2)
try:
    for result in results:
        if result == 100:  # both workers have begun
            print("working", flush=True)
except KeyboardInterrupt:
    results.close()
    print("stopped", flush=True)
"""


def test_ctrl_c_stops_the_workers_without_a_traceback():
    run = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert run.stdout.readline() == "working\n"
        os.killpg(run.pid, signal.SIGINT)  # as a terminal does it: to the run and its workers
        assert run.communicate(timeout=120) == ("stopped\n", "")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)


ORPHANS = """
import multiprocessing, os, signal, time
from reference_pipelines.data.workers import map_in_order
results = map_in_order(abs, range(10**6), workers=2)
next(results)
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_do_not_outlive_a_killed_run():
    done = subprocess.run([sys.executable, "-c", ORPHANS], stdout=subprocess.PIPE, text=True, check=False, timeout=120)
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 2
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and any(alive(pid) for pid in pids):
        time.sleep(0.05)
    assert not any(alive(pid) for pid in pids)


def alive(pid):
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
