"""Long runs: what they hold at the end is what they held soon after the beginning.

SOAK=200 epochs, five times as many cycles of attaching and fifty times as many calls of `embed`.
"""

import contextlib
import ctypes
import gc
import json
import os
import threading
from pathlib import Path

import pytest
import torch
from scipy.stats import theilslopes
from torchvision.models import resnet18

import reference_pipelines
from attnreid import attach_apnet, attach_mla, attachments
from reference_pipelines.training.record import Record
from tests.training.runs import trained

EPOCHS = int(os.environ.get("SOAK", "200"))
CYCLES, CALLS = 5 * EPOCHS, 50 * EPOCHS
SETTLED = 4  # a quarter of the samples, in which allocators and caches fill
KIB = 1024
pytestmark = [pytest.mark.soak, pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")]


def resident():
    """Return the bytes of this process that no file backs, without what is free already."""
    gc.collect()
    with contextlib.suppress(AttributeError):  # glibc's alone
        ctypes.CDLL(None).malloc_trim(0)
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) * KIB


def counted():
    """Return open files, processes below this one, and threads."""
    children = 0
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            children += len((task / "children").read_text().split())
    return {"open files": len(os.listdir("/proc/self/fd")), "processes": children, "threads": threading.active_count()}


class Growth:
    """Samples of a figure over a long run, and its slope: Theil and Sen's with a 95 % interval."""

    def __init__(self, record_property, what, figure, times, unit=1, name=""):
        self.record, self.what, self.figure, self.times, self.unit = record_property, what, figure, times, unit
        self.values, self.places, self.name = [], [], name

    def add(self, place, value):
        self.places.append(place)
        self.values.append(value)

    def interval(self):
        """Return the slope's lower and upper end, in bytes or pieces each time, and note all of it."""
        start = len(self.values) // SETTLED
        values, places = self.values[start:], self.places[start:]
        slope, _, low, high = theilslopes(values, places, alpha=0.95)
        first, last, *growth = (value / self.unit for value in (values[0], values[-1], slope, low, high))
        said = f"{growth[0]:+.3g} [{growth[1]:+.3g}, {growth[2]:+.3g}] {self.name}".rstrip()
        row = (self.what, f"{self.times:,}", self.figure, f"{first:,.6g}", f"{last:,.6g}", said)
        self.record("soak", json.dumps(row))
        return low, high

    def is_flat(self, bound):
        """Return whether it may be that nothing grows, or that it grows by less than `bound` each time."""
        low, high = self.interval()
        return low <= 0 or high < bound


@pytest.mark.parametrize("workers", [0, 2])
def test_epochs_of_the_unsupervised_pipeline(images, tmp_path, monkeypatch, record_property, workers):
    what = f"epochs of mla, {workers} workers"
    memory = Growth(record_property, what, "memory, KiB", EPOCHS, KIB, "KiB")
    pieces = {name: Growth(record_property, what, name, EPOCHS) for name in ("open files", "processes", "threads")}
    end_epoch = Record.end_epoch

    def sampled(record, *arguments, **options):
        end_epoch(record, *arguments, **options)
        epoch = record.description.epoch
        memory.add(epoch, resident())
        for name, number in counted().items():
            pieces[name].add(epoch, number)

    monkeypatch.setattr(Record, "end_epoch", sampled)
    out = tmp_path / "run"
    changes = {"optimizer.epochs": str(EPOCHS), "optimizer.milestones": "[]", "data.workers": str(workers)}
    trained("mla", images, out, **changes)
    lines = (out / "log.jsonl").read_text().splitlines()[1:]  # the first is of the start, which has no losses
    written = Growth(record_property, what, "log, bytes a line", EPOCHS, 1, "B")
    for epoch, line in enumerate(lines, 1):
        written.add(epoch, len(line))
    assert len(lines) == EPOCHS
    assert memory.is_flat(16 * KIB)
    for growth in pieces.values():
        growth.interval()
        settled = growth.values[len(growth.values) // SETTLED :]
        assert max(settled) == min(settled), growth.figure
    assert written.is_flat(0.2)
    assert max(map(len, lines)) < 2 * min(map(len, lines))
    assert len(list((out / "checkpoints").iterdir())) <= 2


def test_attaching_and_removing(record_property):
    model = resnet18().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = torch.zeros(1, 3, 64, 32)
    tensors = Growth(record_property, "attach, forward, remove", "tensors", CYCLES)
    memory = Growth(record_property, "attach, forward, remove", "memory, KiB", CYCLES, KIB, "KiB")
    for cycle in range(CYCLES):
        attachment = attach_apnet(model, input_size=(64, 32)) if cycle % 2 else attach_mla(model, input_size=(64, 32))
        with torch.no_grad():
            model(images)
        attachment.remove()
        if cycle % 10 == 0:
            memory.add(cycle, resident())
            tensors.add(cycle, sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects()))
    assert not attachments(model)
    settled = tensors.values[1:]
    tensors.interval()
    assert max(settled) == min(settled)
    assert memory.is_flat(KIB)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_calls_of_embed(trained_run, images, record_property):
    model = reference_pipelines.load(trained_run, device="cpu")
    image = sorted((images / "query").glob("*.jpg"))[0]
    memory = Growth(record_property, "embed of a file", "memory, KiB", CALLS, KIB, "KiB")
    files = Growth(record_property, "embed of a file", "open files", CALLS)
    expected = model.embed(image)
    for call in range(CALLS):
        features = model.embed(image)
        if call % 100 == 0:
            assert torch.equal(features, expected)
            memory.add(call, resident())
            files.add(call, counted()["open files"])
    files.interval()
    assert max(files.values) == min(files.values)
    assert memory.is_flat(KIB)
