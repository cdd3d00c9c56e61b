"""One of two processes that train a backbone with attention together: `test_distributed.py` starts both.

It stops with an error at the first backbone that does not train as one process on the joined batch would.
"""

import copy
import datetime
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from attnreid.backbones import attachments
from tests.backbones.backbones import BACKBONES, Backbone

PROCESSES, IMAGES, STEPS = 2, 4, 2


def loss_of(output: Tensor) -> Tensor:
    weights = torch.linspace(-1, 1, output.shape[1], dtype=output.dtype)
    return (output.tanh() * weights).mean()


def backward(model: nn.Module, images: Tensor) -> None:
    model.zero_grad()
    loss_of(model(images)).backward()


def train_together(backbone: Backbone, rank: int) -> None:
    model = backbone.build(seed=rank).double().eval()  # in eval mode, an image does not know its batch
    backbone.attach(model)
    alone = copy.deepcopy(model)
    together = DistributedDataParallel(model)
    if rank == 1:
        alone.load_state_dict(model.state_dict())
    for start, now in zip(alone.state_dict().values(), model.state_dict().values(), strict=True):
        assert torch.equal(start, now), "what the first process has is what both start from"
    optimizers = [torch.optim.SGD(one.parameters(), lr=1e-3) for one in (together, alone)]
    own = {id(parameter) for handle in attachments(model) for parameter in handle.parameters()}
    learnt = {name: 0 for name, parameter in model.named_parameters() if id(parameter) in own}
    for number in range(STEPS):
        images = backbone.images(PROCESSES * IMAGES, seed=number).double()
        backward(together, images.chunk(PROCESSES)[rank])
        backward(alone, images)
        for (name, parameter), theirs in zip(model.named_parameters(), alone.parameters(), strict=True):
            scale = theirs.grad.abs().max().item()
            torch.testing.assert_close(parameter.grad, theirs.grad, rtol=0, atol=1e-9 * scale + 1e-15, msg=name)
            if name in learnt:
                learnt[name] += bool(scale)
        for optimizer in optimizers:
            optimizer.step()
    sites = {name.partition(".attention.")[0] for name, count in learnt.items() if count == STEPS}
    assert sites == {site.name for handle in attachments(model) for site in handle.sites}, "each site has learnt"
    for name, parameter in model.named_parameters():
        first = parameter.detach().clone()
        dist.broadcast(first, 0)
        assert torch.equal(parameter, first), f"{name} differs between the processes"


def main(rank: int, store: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    # A file to meet at: no port could be taken.
    dist.init_process_group("gloo", f"file://{store}", datetime.timedelta(seconds=60), rank=rank, world_size=PROCESSES)
    for name in names:
        print(f"{name}: ", end="", flush=True)
        train_together(BACKBONES[name], rank)
        print("as one", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
