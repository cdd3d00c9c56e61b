"""What one of several processes does in the tests of batch statistics: it computes, and saves what it got."""

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from reference_pipelines.distributed.batch_statistics import set_batch_statistics, share_running_statistics
from reference_pipelines.errors import UserError

IMAGES, OUTPUTS = 8, 6


class BatchNormAct2d(nn.BatchNorm2d):
    """What timm's class of this name does, whose import would take each process seconds."""

    def __init__(self, channels):
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.ReLU(inplace=True)

    def forward(self, x):
        return self.act(self.drop(super().forward(x)))


def network():
    torch.manual_seed(3)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1), BatchNormAct2d(4)]
    layers += [nn.Flatten(), nn.Linear(4 * 2 * 2, OUTPUTS)]
    model = nn.Sequential(*layers, nn.BatchNorm1d(OUTPUTS)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.rand_like(parameter))
    return model


def batch():
    generator = torch.Generator().manual_seed(4)
    images = torch.randn(IMAGES, 3, 4, 4, generator=generator, dtype=torch.float64)
    # The second half differs in mean and spread, so that statistics of other images are other statistics.
    images[IMAGES // 2 :] = 3 * images[IMAGES // 2 :] + 1
    return images, torch.randn(IMAGES, OUTPUTS, generator=generator, dtype=torch.float64)


def step(model, images, weights):
    """Return the outputs and the gradient of the images after a forward and backward pass over a share."""
    images = images.clone().requires_grad_()
    outputs = model(images)
    (outputs * weights).sum().backward()
    return outputs.detach(), images.grad


def run(rank, folder, shares):
    """Take a step on this process's share for every case, and save what came of it."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    images, weights = batch()
    saved = {}
    for name, (chunks, first) in shares.items():
        own = slice(0, first) if rank == 0 else slice(first, IMAGES)
        model = set_batch_statistics(network(), chunks)
        outputs, of_images = step(model, images[own], weights[own])
        for parameter in model.parameters():
            distributed.all_reduce(parameter.grad)
        share_running_statistics(model)
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        saved[name] = (outputs, of_images, gradients, model.state_dict())
    saved["ddp"] = wrapped(images, weights, rank)
    try:
        set_batch_statistics(network(), 3)
    except UserError as error:
        saved["refusal"] = str(error)
    torch.save(saved, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def wrapped(images, weights, rank):
    model = DistributedDataParallel(set_batch_statistics(network(), 1))
    own = slice(0, IMAGES // 2) if rank == 0 else slice(IMAGES // 2, IMAGES)
    step(model, images[own], weights[own])
    return {name: 2 * parameter.grad for name, parameter in model.module.named_parameters()}
