"""MLA's Eq. 4-6 with loops: x + v_D(norm(softmax(k_D(q(x))))), softmax over positions, norm over slots."""

import torch


def domain_map(x, p):
    n, _, h, w = x.shape
    query, key = p["query"][:, :, 0, 0], p["key"][:, :, 0, 0]
    images = []
    for image in range(n):
        logits = torch.stack([key @ (query @ x[image, :, i, j]) for i in range(h) for j in range(w)])  # (P, slots)
        raised = logits.exp()
        over_positions = raised / raised.sum(dim=0)
        twice = torch.stack([row / row.sum() for row in over_positions])
        images.append(twice.T.reshape(-1, h, w))
    return torch.stack(images)


def domain(x, p):
    n, c, h, w = x.shape
    value = p["value"][:, :, 0, 0]
    attention = domain_map(x, p)
    recalled = [
        torch.stack([value @ attention[image, :, i, j] for i in range(h) for j in range(w)], dim=1).reshape(c, h, w)
        for image in range(n)
    ]
    return x + torch.stack(recalled)
