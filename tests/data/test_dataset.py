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
from reference_pipelines.data import dataset, read
from reference_pipelines.data.dataset import Draw, load_batches
from reference_pipelines.data.decoding import load_image
from reference_pipelines.data.sampler import in_order
from reference_pipelines.data.transforms import evaluation_transform, train_transform
from reference_pipelines.data.workers import AHEAD, Workers, map_in_order
from reference_pipelines.errors import UserError
from tests.conftest import says, write_image

WORKERS = [0, 1, 3]


@pytest.fixture(autouse=True)
def no_idle_workers():
    """End the workers that a test's last pass has left for the next one."""
    yield
    if dataset._idle is not None:
        dataset._idle.workers.end()
        dataset._idle = None
    assert not multiprocessing.active_children()


def workers_now():
    return {child.pid for child in multiprocessing.active_children()}


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


def one_pass(paths, size=(32, 16), batch=8, workers=2):
    batches = list(load_batches(paths, evaluation_transform(size), in_order(len(paths), batch), workers=workers))
    for image, path in zip(torch.cat([each.images for each in batches]), paths, strict=True):
        assert torch.equal(image, evaluation_transform(size)(load_image(path)))
    return workers_now()


def test_workers_go_from_pass_to_pass_until_they_do_not_fit(market):
    train, gallery = read(market).train.paths, read(market).gallery.paths
    first = one_pass(train)
    assert len(first) == 2
    assert one_pass(gallery, size=(16, 16)) == one_pass(train, batch=3) == first
    larger = one_pass(train, batch=9)
    assert len(larger) == 2
    assert not larger & first
    more = one_pass(train, workers=3)
    assert len(more) == 3
    assert not more & larger


def test_passes_at_the_same_time_have_workers_each_and_leave_one_set(market):
    paths, transform = read(market).train.paths, evaluation_transform((32, 16))
    wanted = [batch.images for batch in load_batches(paths, transform, in_order(36, 4), workers=0)]
    passes = [load_batches(paths, transform, in_order(36, 4), workers=2) for _ in range(2)]
    for images, one, other in zip(wanted, *passes, strict=True):
        assert torch.equal(one.images, images)
        assert torch.equal(other.images, images)
    assert len(workers_now()) == 2


def test_a_forked_process_leaves_its_parents_workers_alone(market):
    paths = read(market).train.paths
    mine = one_pass(paths)
    child = os.fork()
    if child == 0:
        found = dataset._idle is None and len(one_pass(paths) - mine) == 2
        os._exit(0 if found else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert one_pass(paths) == mine


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts in /proc")
def test_nothing_is_left_over_from_fifty_passes(market):
    def held():
        with open("/proc/self/statm", encoding="utf-8") as sizes:
            return len(os.listdir("/proc/self/fd")), int(sizes.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    paths = read(market).train.paths[:6]
    for _ in range(5):
        mine = one_pass(paths, batch=2)
    descriptors, memory = held()
    for _ in range(50):
        assert one_pass(paths, batch=2) == mine
    assert held()[0] == descriptors
    assert held()[1] < memory + 2**23


@pytest.mark.slow
@pytest.mark.skipif("forkserver" not in multiprocessing.get_all_start_methods(), reason="there is no forkserver")
def test_by_forkserver_torch_is_imported_once_for_all_passes(market):
    """The default of Python 3.14, where each worker would import torch anew."""
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("forkserver", force=True)
    try:
        paths = read(market).train.paths
        first = one_pass(paths)
        assert one_pass(paths) == first
        (seconds,) = map_in_order(eval, ["__import__('torch') and __import__('time').process_time()"], workers=1)
        assert seconds < 1.5  # torch takes longer
    finally:
        dataset._idle.workers.end()
        dataset._idle = None
        multiprocessing.forkserver._forkserver._stop()
        multiprocessing.set_start_method(before, force=True)


def test_workers_that_cannot_start_are_one_sentence(monkeypatch):
    def refuse(*_, **__):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("multiprocessing.Process.start", refuse)
    with pytest.raises(UserError) as caught:
        list(map_in_order(str, [1], workers=64))
    assert says(str(caught.value), "data: 64 worker processes", "(Too many open files)", "--data.workers")


@pytest.mark.parametrize("error", [OSError(11, "no more processes"), KeyboardInterrupt()])
def test_what_stops_the_second_worker_from_starting_ends_the_first(monkeypatch, error):
    start, started = multiprocessing.Process.start, []

    def stopped(process):
        if started:
            raise error
        start(process)
        started.append(process)

    monkeypatch.setattr("multiprocessing.Process.start", stopped)
    with pytest.raises(UserError if isinstance(error, OSError) else KeyboardInterrupt):
        Workers(abs, 3)
    assert len(started) == 1
    assert not started[0].is_alive()


def test_a_worker_is_deaf_to_ctrl_c_from_its_first_moment():
    begun_with, ignored = "__import__('signal').pthread_sigmask(0, [])", "__import__('signal').getsignal(2)"
    assert list(map_in_order(eval, [begun_with, ignored], workers=1)) == [{signal.SIGINT}, signal.SIG_IGN]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


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
    with pytest.raises(ValueError, match="invalid literal") as caught:
        list(map_in_order(int, ["1", "no number"], workers=1))
    assert "in a worker process:\nTraceback" in caught.value.__notes__[0]


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
import itertools, signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
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


@pytest.mark.slow
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
