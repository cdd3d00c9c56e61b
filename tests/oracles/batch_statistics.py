"""A data-parallel step, one copy of the network a device, and a batch norm's formula, a channel at a time."""

import copy

import torch


def data_parallel_step(model, images, devices, loss):
    """Return outputs, gradients by name and the state that is left of one step on `devices` devices.

    Each device runs a copy on its part of the batch, the loss is that of all outputs, the gradients are added, and
    the first device's buffers are the ones that stay.
    """
    parts = images.chunk(devices)
    copies = [copy.deepcopy(model) for _ in parts]
    outputs = torch.cat([one(part) for one, part in zip(copies, parts, strict=True)])
    loss(outputs).backward()
    gradients = {}
    for one in copies:
        for name, parameter in one.named_parameters():
            if parameter.grad is not None:
                gradients[name] = gradients.get(name, 0) + parameter.grad
    return outputs, gradients, copies[0].state_dict()


def batch_norm(x, weight, bias, eps):
    """Return the batch (N, C, L) normalised, and each channel's mean and unbiased variance."""
    normed, means, variances = torch.empty_like(x), [], []
    for channel in range(x.shape[1]):
        values = x[:, channel]
        mean = values.sum() / values.numel()
        squares = ((values - mean) ** 2).sum()
        normed[:, channel] = (values - mean) / (squares / values.numel() + eps) ** 0.5 * weight[channel] + bias[channel]
        means.append(mean)
        variances.append(squares / (values.numel() - 1))
    return normed, torch.stack(means), torch.stack(variances)
