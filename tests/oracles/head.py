"""MLA's Fig. 2 with loops: for each image and head, every logit q.k + q.(gate * pos), softmax, times v."""

import math

import torch


def head(x, p, *, heads, gate=None, scale=1.0):
    n, c, h, w = x.shape
    d = c // heads
    factor = 1 / math.sqrt(d) if scale is None else scale
    wq, wk, wv = (p["qkv.weight"][part * c : (part + 1) * c, :, 0, 0] for part in range(3))
    places = [(i, j) for i in range(h) for j in range(w)]
    out = []
    for image in range(n):
        columns = []
        for i, j in places:
            pieces = []
            for head in range(heads):
                own = slice(head * d, (head + 1) * d)
                q = (wq @ x[image, :, i, j])[own]
                logits, values = [], []
                for a, b in places:
                    pos = p["position_height"][own, a, 0] + p["position_width"][own, 0, b]
                    if gate is not None:
                        weight = gate[image, :, a, b]
                        pos = pos * (weight[own] if weight.numel() > 1 else weight)
                    k = (wk @ x[image, :, a, b])[own]
                    logits.append(factor * (q @ k) + factor * (q @ pos))
                    values.append((wv @ x[image, :, a, b])[own])
                shares = torch.stack(logits).exp()
                shares = shares / shares.sum()
                pieces.append(sum(share * value for share, value in zip(shares, values, strict=True)))
            columns.append(torch.cat(pieces))
        out.append(torch.stack(columns, dim=1).reshape(c, h, w))
    return torch.stack(out)
