"""MLA's Fig. 2 with loops: for each image and head, every logit q.k + q.(gate * pos), softmax, times v."""

import math

import torch


def head_weights(x, p, *, heads, gate=None, scale=1.0):
    n, c, h, w = x.shape
    d = c // heads
    factor = 1 / math.sqrt(d) if scale is None else scale
    wq, wk = (p["qkv.weight"][part * c : (part + 1) * c, :, 0, 0] for part in range(2))
    places = [(i, j) for i in range(h) for j in range(w)]
    images = []
    for image in range(n):
        rows = []
        for head in range(heads):
            own = slice(head * d, (head + 1) * d)
            for i, j in places:
                q = (wq @ x[image, :, i, j])[own]
                logits = []
                for a, b in places:
                    pos = p["position_height"][own, a, 0] + p["position_width"][own, 0, b]
                    if gate is not None:
                        weight = gate[image, :, a, b]
                        pos = pos * (weight[own] if weight.numel() > 1 else weight)
                    k = (wk @ x[image, :, a, b])[own]
                    logits.append(factor * (q @ k) + factor * (q @ pos))
                shares = torch.stack(logits).exp()
                rows.append(shares / shares.sum())
        images.append(torch.stack(rows).view(heads, h * w, h * w))
    return torch.stack(images)


def head(x, p, *, heads, gate=None, scale=1.0):
    n, c, h, w = x.shape
    d = c // heads
    weights = head_weights(x, p, heads=heads, gate=gate, scale=scale)
    wv = p["qkv.weight"][2 * c :, :, 0, 0]
    out = []
    for image in range(n):
        values = [wv @ x[image, :, i, j] for i in range(h) for j in range(w)]
        columns = []
        for place in range(h * w):
            pieces = []
            for head in range(heads):
                shares = zip(weights[image, head, place], values, strict=True)
                pieces.append(sum(share * value[head * d : (head + 1) * d] for share, value in shares))
            columns.append(torch.cat(pieces))
        out.append(torch.stack(columns, dim=1).reshape(c, h, w))
    return torch.stack(out)
