"""What resizing means, in loops: each old position sees the mean of the new positions around it, by a triangle."""

import torch

from tests.oracles.relation_aware import EPS


def share(i, j, old, new):
    """How much of the old position i along an axis the new position j is."""
    step = new / old
    reach = max(step, 1.0)

    def height(place):
        return max(0.0, 1 - abs(place + 0.5 - (i + 0.5) * step) / reach)

    return height(j) / sum(height(place) for place in range(new))


def averaged(x, old):
    """A map (C, H', W') averaged to the old size."""
    channels, height, width = x.shape
    out = torch.zeros(channels, *old, dtype=torch.float64)
    for i in range(old[0]):
        for j in range(old[1]):
            for a in range(height):
                for b in range(width):
                    out[:, i, j] += share(i, a, old[0], height) * share(j, b, old[1], width) * x[:, a, b]
    return out


def resized(weight, old, new):
    """Weights over the positions of an old map, `old[0] * old[1]` numbers, for a map of another size."""
    out = torch.zeros(new[0] * new[1], dtype=torch.float64)
    for a in range(new[0]):
        for b in range(new[1]):
            for i in range(old[0]):
                for j in range(old[1]):
                    part = share(i, a, old[0], new[0]) * share(j, b, old[1], new[1])
                    out[a * new[1] + b] += part * weight[i * old[1] + j]
    return out


def spatial_gate(x, p, old, *, parts):
    """RGA-S in eval mode on maps of another size than its weights `p` are for: relations with averages.

    The row of a position has its theta with the averages of phi, its column the averages of theta with its phi.
    """
    n, c, h, w = x.shape
    strip, old_strip = h // parts, (old[0] // parts, old[1])
    gates = torch.zeros(n, 1, h, w, dtype=torch.float64)
    for image in range(n):
        for part in range(parts):
            nodes = x[image, :, part * strip : (part + 1) * strip].reshape(c, -1)
            embedded = _relu(_norm(p["embed.weight"][part] @ nodes, p, "embed.norm", part))
            d = len(embedded) // 3
            theta, phi, psi = embedded[:d], embedded[d : 2 * d], embedded[2 * d :]
            theta_seen = averaged(theta.reshape(d, strip, w), old_strip).reshape(d, -1)
            phi_seen = averaged(phi.reshape(d, strip, w), old_strip).reshape(d, -1)
            for place in range(strip * w):
                row = torch.stack([theta[:, place] @ phi_seen[:, q] for q in range(phi_seen.shape[1])])
                column = torch.stack([theta_seen[:, q] @ phi[:, place] for q in range(phi_seen.shape[1])])
                joint = p["joint.weight"][part] @ torch.cat([row, column])
                joint = _relu(_norm(joint[:, None], p, "joint.norm", part))[:, 0]
                features = torch.cat([psi[:, place].mean()[None], joint])
                hidden = _relu(_norm((p["hidden.weight"][part] @ features)[:, None], p, "hidden.norm", part))
                score = _norm(p["score.weight"][part] @ hidden, p, "score.norm", part)
                gates[image, 0, part * strip + place // w, place % w] = 1 / (1 + torch.exp(-score[0, 0]))
    return gates


def _norm(values, p, name, part):
    own = slice(part * len(values), (part + 1) * len(values))
    mean, variance, weight, bias = (
        p[f"{name}.{key}"][own][:, None] for key in ("running_mean", "running_var", "weight", "bias")
    )
    return (values - mean) / torch.sqrt(variance + EPS) * weight + bias


def _relu(values):
    return torch.where(values > 0, values, torch.zeros_like(values))
