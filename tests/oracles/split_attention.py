"""Split attention as APNet's released code has it: sum the parts of the map, pool, two maps, softmax over parts."""

import torch

EPS = 1e-5


def _norm(values, p, name, training):
    """Batch norm of (N, C, P) by the norm called `name`, which may have no shift."""
    if training:
        mean = values.mean(dim=(0, 2))
        variance = ((values - mean[None, :, None]) ** 2).mean(dim=(0, 2))
    else:
        mean, variance = p[name + ".running_mean"], p[name + ".running_var"]
    scaled = (values - mean[None, :, None]) / torch.sqrt(variance[None, :, None] + EPS) * p[name + ".weight"][:, None]
    return scaled + p[name + ".bias"][:, None] if name + ".bias" in p else scaled


def split_attention_gate(x, p, *, parts, training):
    n, c, h, w = x.shape
    pieces = [x[:, part * c // parts : (part + 1) * c // parts] for part in range(parts)]
    total = pieces[0]
    for piece in pieces[1:]:
        total = total + piece
    pooled = total.reshape(n, c // parts, h * w).sum(dim=2) / (h * w)
    hidden = torch.stack([p["reduce.0.weight"] @ vector + p["reduce.0.bias"] for vector in pooled])
    hidden = _norm(hidden[:, :, None], p, "reduce.1", training)[:, :, 0]
    hidden = torch.where(hidden > 0, hidden, torch.zeros_like(hidden))
    scores = torch.stack([p["expand.weight"] @ vector + p["expand.bias"] for vector in hidden])
    if parts == 1:
        return (1 / (1 + torch.exp(-scores))).reshape(n, c, 1, 1)
    shares = torch.exp(scores.reshape(n, parts, c // parts))
    return (shares / shares.sum(dim=1, keepdim=True)).reshape(n, c, 1, 1)


def split_attention(x, p, *, parts, training):
    gated = x * split_attention_gate(x, p, parts=parts, training=training)
    if "norm.weight" not in p:
        return gated
    return _norm(gated.flatten(2), p, "norm", training).view_as(x)
