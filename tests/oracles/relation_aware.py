"""RGA-S (APNet's Eq. 4) as written: the whole affinity, its rows and columns stacked, strip by strip."""

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


def relation_aware_spatial_gate(x, p, *, parts, training):
    n, c, h, w = x.shape
    strip = h // parts
    gates = []
    for part in range(parts):
        nodes = x[:, :, part * strip : (part + 1) * strip].reshape(n, c, strip * w)
        positions = strip * w

        d = p["embed.0.weight"].shape[0] // (3 * parts)
        embedding = p["embed.0.weight"][part * 3 * d : (part + 1) * 3 * d, :, 0, 0]
        embedded = _relu(_norm(_conv(nodes, embedding), p, "embed.1", part, 3 * d, training))
        theta, phi, psi = embedded[:, :d], embedded[:, d : 2 * d], embedded[:, 2 * d :]

        stacked = []
        for image in range(n):
            affinity = torch.stack(
                [
                    torch.stack([theta[image, :, a] @ phi[image, :, b] for b in range(positions)])
                    for a in range(positions)
                ]
            )
            stacked.append(torch.stack([torch.cat([affinity[a, :], affinity[:, a]]) for a in range(positions)], dim=1))
        m = p["joint"].shape[1]
        joint = _relu(_norm(_conv(torch.stack(stacked), p["joint"][part]), p, "joint_norm.0", part, m, training))

        features = torch.cat([psi.sum(dim=1, keepdim=True) / d, joint], dim=1)
        s = p["score.0.weight"].shape[0] // parts
        first = p["score.0.weight"][part * s : (part + 1) * s, :, 0]
        hidden = _relu(_norm(_conv(features, first), p, "score.1", part, s, training))
        second = p["score.3.weight"][part : part + 1, :, 0]
        score = _norm(_conv(hidden, second), p, "score.4", part, 1, training)
        gates.append((1 / (1 + torch.exp(-score))).reshape(n, 1, strip, w))
    return torch.cat(gates, dim=2)


def relation_aware_spatial(x, p, *, parts, training):
    return x * relation_aware_spatial_gate(x, p, parts=parts, training=training)
