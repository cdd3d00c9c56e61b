"""RGA (APNet's Eq. 4) as written: the whole affinity, its rows and columns stacked, part by part."""

import torch

EPS = 1e-5


def _norm(values, p, name, part, width, training):
    """Batch norm of (N, width, P) with one part's share of the norm called `name`."""
    own = slice(part * width, (part + 1) * width)
    if training:
        mean = values.mean(dim=(0, 2))
        variance = ((values - mean[None, :, None]) ** 2).mean(dim=(0, 2))
    else:
        mean, variance = p[name + ".running_mean"][own], p[name + ".running_var"][own]
    scaled = (values - mean[None, :, None]) / torch.sqrt(variance[None, :, None] + EPS)
    return scaled * p[name + ".weight"][own][None, :, None] + p[name + ".bias"][own][None, :, None]


def _conv(values, weight):
    return torch.stack([weight @ image for image in values])


def _relu(values):
    return torch.where(values > 0, values, torch.zeros_like(values))


def _node_gates(nodes, p, part, training):
    """The gates (N, P) of the nodes (N, F, P) of one part."""
    positions = nodes.shape[2]
    d = p["embed.weight"].shape[1] // 3
    embedded = _relu(_norm(_conv(nodes, p["embed.weight"][part]), p, "embed.norm", part, 3 * d, training))
    theta, phi, psi = embedded[:, :d], embedded[:, d : 2 * d], embedded[:, 2 * d :]

    stacked = []
    for image in range(len(nodes)):
        affinity = torch.stack(
            [torch.stack([theta[image, :, a] @ phi[image, :, b] for b in range(positions)]) for a in range(positions)]
        )
        stacked.append(torch.stack([torch.cat([affinity[a, :], affinity[:, a]]) for a in range(positions)], dim=1))
    m = p["joint.weight"].shape[1]
    joint = _relu(_norm(_conv(torch.stack(stacked), p["joint.weight"][part]), p, "joint.norm", part, m, training))

    features = torch.cat([psi.sum(dim=1, keepdim=True) / d, joint], dim=1)
    s = p["hidden.weight"].shape[1]
    hidden = _relu(_norm(_conv(features, p["hidden.weight"][part]), p, "hidden.norm", part, s, training))
    score = _norm(_conv(hidden, p["score.weight"][part]), p, "score.norm", part, 1, training)
    return 1 / (1 + torch.exp(-score[:, 0]))


def relation_aware_spatial_gate(x, p, *, parts, training):
    n, c, h, w = x.shape
    strip = h // parts
    gates = []
    for part in range(parts):
        nodes = x[:, :, part * strip : (part + 1) * strip].reshape(n, c, strip * w)
        gates.append(_node_gates(nodes, p, part, training).reshape(n, 1, strip, w))
    return torch.cat(gates, dim=2)


def relation_aware_spatial(x, p, *, parts, training):
    return x * relation_aware_spatial_gate(x, p, parts=parts, training=training)


def relation_aware_channel_gate(x, p, *, parts, training):
    n, c, h, w = x.shape
    own = c // parts
    gates = []
    for part in range(parts):
        nodes = x[:, part * own : (part + 1) * own].reshape(n, own, h * w).transpose(1, 2)
        gates.append(_node_gates(nodes, p, part, training).reshape(n, own, 1, 1))
    return torch.cat(gates, dim=1)


def relation_aware_channel(x, p, *, parts, training):
    return x * relation_aware_channel_gate(x, p, parts=parts, training=training)
