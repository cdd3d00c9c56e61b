"""What one of several processes does in `test_processes.py`: it computes, trains, and saves what it got."""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from reference_pipelines.apnet import train as apnet
from reference_pipelines.data import read
from reference_pipelines.distributed.processes import ALONE, join_processes, share_sizes
from reference_pipelines.errors import UserError
from reference_pipelines.evaluation.extraction import extract_features
from reference_pipelines.mla import train as mla
from reference_pipelines.models import Embedding
from reference_pipelines.pipelines import PIPELINES
from tests.training.runs import configured

ROWS = 7
# Nine images are five and four for two processes; chunks must divide the batch.
# Small batches of extraction, so that both processes extract.
UNEVEN = {"sampler.ids": "3", "sampler.images": "3", "evaluation.batch_size": "16"}
EVEN = {**UNEVEN, "sampler.images": "4"}
CASES = {
    "apnet": ("apnet", {**UNEVEN}),
    "apnet in chunks": ("apnet", {**EVEN, "model.bn_chunks": "2"}),
    "apnet, rga": ("apnet", {"attention.layer": "rga_s", "model.bn_chunks": "2"}),
    "mla": ("mla", {**UNEVEN}),
    "mla in chunks": ("mla", {**EVEN, "model.bn_chunks": "2"}),
}


def in_double_precision(build):
    """Build networks in double precision, where only a mistake makes a difference that can be seen."""

    def wide(*arguments, **options):
        model = build(*arguments, **options).double()
        model.register_forward_pre_hook(lambda module, inputs: (inputs[0].double(),))
        return model

    return wide


def with_wide_memory(make):
    def wide(*arguments):
        clusters, memory, measured = make(*arguments)
        return clusters, memory.double(), measured

    return wide


def train_cases(root, out, cases, processes=ALONE):
    for module in (apnet, mla):
        module.build_model = in_double_precision(module.build_model)
    mla.make_pseudo_labels = with_wide_memory(mla.make_pseudo_labels)
    for name, (pipeline, changes) in cases.items():
        PIPELINES[pipeline].train(configured(pipeline, root, **changes), out / name, processes=processes)


class Pixels(nn.Module):
    """Features that tell every image from every other."""

    def forward(self, images):
        features = images[:, :, ::4, ::4].flatten(1)
        return Embedding(features, features, None)


def features_of(root, processes):
    options = {"batch_size": 4, "flip": True, "device": torch.device("cpu"), "title": "test", "processes": processes}
    return extract_features(Pixels(), read(root).train, configured("apnet", root).data, **options)


def said(function):
    try:
        return function()
    except UserError as error:
        return str(error)


def primitives(processes, root):
    sizes = share_sizes(ROWS, processes.count)
    table = torch.arange(ROWS * 3, dtype=torch.float64).reshape(ROWS, 3)
    own = processes.share(table).clone().requires_grad_()
    everything = processes.gather(own, sizes)
    (everything.square() * torch.arange(1.0, ROWS + 1)[:, None]).sum().backward()

    def fail():
        raise UserError(f"rank {processes.rank} complains")

    return {
        "gathered": everything.detach(),
        "gradient": own.grad,
        "collected": processes.collect(processes.share(table)),
        "collected where one has nothing": processes.collect(table if processes.rank else table.new_zeros(0, 0)),
        "features": features_of(root, processes),
        "once": processes.once(lambda: {"rank": processes.rank, "words": ["a"]}),
        "once, refused": said(lambda: processes.once(fail)),
        "together": processes.together(lambda: processes.rank * 10),
        "together, one refuses": said(lambda: processes.together(fail if processes.rank else lambda: 1)),
        "together, both refuse": said(lambda: processes.together(fail)),
        "joined": processes.join(table.numpy()[: processes.rank + 1]),
        "joined, where one has nothing": processes.join(np.ones((processes.rank, 2), dtype=bool)),
        "spread": processes.spread(np.arange(5, dtype=np.int32) * (processes.rank + 1)),
        "exchanged": processes.exchange(table + processes.rank),
        "told": processes.told({"rank": processes.rank}),
        "agree": (processes.agree("same"), processes.agree(processes.rank)),
    }


def main(root, out):
    torch.set_num_threads(1)
    with join_processes(lambda: "go on") as processes:
        torch.save(primitives(processes, root), out / f"{processes.rank}.pt")
        train_cases(root, out, CASES, processes)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
