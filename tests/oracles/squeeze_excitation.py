"""APNet's Eq. 5 with loops, part by part: average, W1, ReLU, W2, sigmoid."""

import torch


def squeeze_excitation_gate(x, p):
    n, c, h, w = x.shape
    parts, hidden, width = p["reduce"].shape
    rows = []
    for image in range(n):
        gates = []
        for part in range(parts):
            means = [x[image, part * width + channel].sum() / (h * w) for channel in range(width)]
            units = []
            for unit in range(hidden):
                total = sum(p["reduce"][part, unit, channel] * means[channel] for channel in range(width))
                units.append(total if total > 0 else total * 0)
            for channel in range(width):
                total = sum(p["expand"][part, channel, unit] * units[unit] for unit in range(hidden))
                gates.append(1 / (1 + torch.exp(-total)))
        rows.append(torch.stack(gates))
    return torch.stack(rows).reshape(n, c, 1, 1)


def squeeze_excitation(x, p):
    return x * squeeze_excitation_gate(x, p)
