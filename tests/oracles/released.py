"""The released networks, literally, on their own state dicts: eval mode, plain functions, no module.

Each returns the pooled feature and the feature after the last batch norm.
"""

import torch
import torch.nn.functional as F

EPS = 1e-5
BLOCKS = (3, 4, 6, 3)


def norm(x, p, name):
    shape = (1, -1) + (1,) * (x.ndim - 2)
    mean, variance = p[name + ".running_mean"].view(shape), p[name + ".running_var"].view(shape)
    return (x - mean) / torch.sqrt(variance + EPS) * p[name + ".weight"].view(shape) + p[name + ".bias"].view(shape)


def bottleneck(x, p, name, stride):
    y = F.relu(norm(F.conv2d(x, p[name + ".conv1.weight"]), p, name + ".bn1"))
    y = F.relu(norm(F.conv2d(y, p[name + ".conv2.weight"], stride=stride, padding=1), p, name + ".bn2"))
    y = norm(F.conv2d(y, p[name + ".conv3.weight"]), p, name + ".bn3")
    if name + ".downsample.0.weight" in p:
        x = norm(F.conv2d(x, p[name + ".downsample.0.weight"], stride=stride), p, name + ".downsample.1")
    return F.relu(y + x)


def stage(x, p, name, blocks, stride):
    for block in range(blocks):
        x = bottleneck(x, p, f"{name}.{block}", stride if block == 0 else 1)
    return x


# APNet's Baseline


def apnet(images, p, level):
    x = norm(F.conv2d(images, p["base_1.0.weight"], stride=2, padding=3), p, "base_1.1")
    x = F.max_pool2d(x, 3, stride=2, padding=1)  # and no ReLU before it
    x = apnet_attention(x, p, 1, level)
    for i, stride in ((2, 1), (3, 2), (4, 2), (5, 1)):
        x = stage(x, p, f"base_{i}.0", BLOCKS[i - 2], stride)
        x = apnet_attention(x, p, i, level)
    pooled = x.mean(dim=(2, 3))
    return pooled, norm(pooled, p, "bottleneck")


def apnet_attention(x, p, i, level):
    if level >= 2:
        x = norm(apnet_split(x, p, f"att_s{i}", level), p, f"BN{i}.bottleneck2")
    if level >= 1:
        means = x.mean(dim=(2, 3))
        hidden = F.relu(means @ p[f"att{i}.fc.0.weight"].T)
        gate = 1 / (1 + torch.exp(-(hidden @ p[f"att{i}.fc.2.weight"].T)))
        x = x * gate[:, :, None, None]
    return x


def apnet_split(x, p, name, radix):
    n, channels = x.shape[:2]
    width = channels // radix
    parts = [x[:, r * width : (r + 1) * width] for r in range(radix)]
    gap = sum(parts).mean(dim=(2, 3), keepdim=True)
    gap = F.conv2d(gap, p[name + ".fc1.weight"], p[name + ".fc1.bias"])
    gap = F.relu(norm(gap, p, name + ".bn1"))
    weights = F.conv2d(gap, p[name + ".fc2.weight"], p[name + ".fc2.bias"]).view(n, radix, width)
    weights = torch.exp(weights) / torch.exp(weights).sum(dim=1, keepdim=True)
    flat = weights.reshape(n, channels)
    gated = [part * flat[:, r * width : (r + 1) * width, None, None] for r, part in enumerate(parts)]
    return torch.cat(gated, dim=1)


# RGA's model


def rga(images, p, kinds):
    b = {key.removeprefix("backbone."): value for key, value in p.items() if key.startswith("backbone.")}
    x = F.relu(norm(F.conv2d(images, b["conv1.weight"], stride=2, padding=3), b, "bn1"))
    x = F.max_pool2d(x, 3, stride=2, padding=1)
    for i, stride in ((1, 1), (2, 2), (3, 2), (4, 1)):
        x = stage(x, b, f"layer{i}", BLOCKS[i - 1], stride)
        if "spatial" in kinds:
            x = x * rga_spatial_gate(x, b, f"rga_att{i}")
        if "channel" in kinds:
            x = x * rga_channel_gate(x, b, f"rga_att{i}")
    pooled = x.mean(dim=(2, 3))
    return pooled, norm(pooled, p, "feat_bn")


def rga_spatial_gate(x, p, name):
    n, _, height, width = x.shape
    positions = height * width
    g = embed(x, p, f"{name}.gx_spatial").mean(dim=1, keepdim=True)
    theta = embed(x, p, f"{name}.theta_spatial").reshape(n, -1, positions)
    phi = embed(x, p, f"{name}.phi_spatial").reshape(n, -1, positions)
    affinity = theta.transpose(1, 2) @ phi  # [a, b]: theta of position a with phi of position b
    relations = torch.empty(n, 2 * positions, positions, dtype=x.dtype)
    for a in range(positions):
        relations[:, :positions, a] = affinity[:, a, :]
        relations[:, positions:, a] = affinity[:, :, a]
    relations = embed(relations.reshape(n, 2 * positions, height, width), p, f"{name}.gg_spatial")
    return score(torch.cat([g, relations], dim=1), p, f"{name}.W_spatial")


def rga_channel_gate(x, p, name):
    n, channels, height, width = x.shape
    nodes = x.reshape(n, channels, height * width).transpose(1, 2)[:, :, :, None]  # (N, P, C, 1)
    g = embed(nodes, p, f"{name}.gx_channel").mean(dim=1, keepdim=True)
    theta = embed(nodes, p, f"{name}.theta_channel")[:, :, :, 0]
    phi = embed(nodes, p, f"{name}.phi_channel")[:, :, :, 0]
    affinity = theta.transpose(1, 2) @ phi
    relations = torch.empty(n, 2 * channels, channels, dtype=x.dtype)
    for a in range(channels):
        relations[:, :channels, a] = affinity[:, a, :]
        relations[:, channels:, a] = affinity[:, :, a]
    relations = embed(relations[:, :, :, None], p, f"{name}.gg_channel")
    return score(torch.cat([g, relations], dim=1), p, f"{name}.W_channel").transpose(1, 2)


def embed(x, p, name):
    return F.relu(norm(F.conv2d(x, p[name + ".0.weight"]), p, name + ".1"))


def score(x, p, name):
    y = norm(F.conv2d(embed(x, p, name), p[name + ".3.weight"]), p, name + ".4")
    return 1 / (1 + torch.exp(-y))
