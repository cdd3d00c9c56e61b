"""Relation-aware attention: every position is weighed by how it relates to all others.

From "Relation-Aware Global Attention for Person Re-identification" (RGA, Zhang et al.); its spatial form is
the spatial attention of "Person Re-identification via Attention Pyramid" (APNet), Eq. 4.
"""

from typing import ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn

from attnreid.layers._checks import check_count, check_map, check_multiple, check_size, describe
from attnreid.layers._gate import GateLayer, SplitDim
from attnreid.registry import register_attention


def embed_relations(theta: Tensor, phi: Tensor, weight: Tensor) -> Tensor:
    """Return the linear embedding of every position's relations, `(N, parts, M, P)`, without the P x P
    affinity.

    theta and phi are `(N, parts, D, P)`. With `G[p, q] = theta_p . phi_q`, position p's relations are the row
    `G[p, :]` and then the column `G[:, p]`; weight `(parts, M, 2P)` embeds these 2P numbers. As it is linear,
    with weight = [W1 W2]: `W1 G^T + W2 G = (W1 phi^T) theta + (W2 theta^T) phi`, four thin products.
    """
    rows, columns = weight.chunk(2, dim=2)
    row_factor = torch.einsum("amq,nadq->namd", rows, phi)
    column_factor = torch.einsum("amq,nadq->namd", columns, theta)
    return row_factor @ theta + column_factor @ phi


@register_attention("rga_s")
class RelationAwareSpatialAttention(GateLayer):
    """Multiplies each position by a weight in (0, 1) computed from its affinities with all positions.

    RGA-S, APNet's Eq. 4, by the identity of `embed_relations`; theta, phi and psi are one joined 1x1 conv.
    Where texts differ, this follows RGA's released code: a BN after every conv, the unary term (the channel
    mean of psi) *before* the relations where Eq. 4 writes it last, row block before column block, a ReLU on
    the embedded relations, one ratio for all reductions. Widths never drop below 1 (a strip of fewer
    positions than the ratio would have none). Weights start as torch's convs do, uniform within
    1/sqrt(inputs), as the released code leaves them.

    Args:
        channels: the channels C of the map.
        size: the map's (height, width), which the relations' embedding is made for.
        reduction: by how much the channels, the relations and the joined features are narrowed.
        parts: split the height into this many equal strips with separate weights (and statistics).
        device: where the parameters are made.
        dtype: the parameters' type.

    Shape:
        Input and output `(N, C, H, W)`; gate `(N, 1, H, W)`, in (0, 1).

    Raises:
        TypeError: if an option is of the wrong type or the input is not floating point.
        ValueError: if an option is out of range, `parts` does not divide the height, or the input is not a
            non-empty map of C channels and this size.

    Example:
        >>> attention = RelationAwareSpatialAttention(64, size=(16, 8), parts=2)
        >>> attention.gate(torch.randn(2, 64, 16, 8)).shape
        torch.Size([2, 1, 16, 8])
    """

    name: ClassVar[str] = "rga_s"
    split_dim: ClassVar[SplitDim | None] = "height"

    def __init__(
        self,
        channels: int,
        *,
        size: tuple[int, int],
        reduction: int = 8,
        parts: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        who = "RelationAwareSpatialAttention"
        check_count(who, "channels", channels)
        height, width = self.size = check_size(who, size)
        check_count(who, "reduction", reduction)
        check_count(who, "parts", parts)
        check_multiple(who, f"the height, split into {parts} parts,", height, parts)
        self.channels = channels
        self.reduction = reduction
        self.parts = parts

        positions = height // parts * width
        nodes = max(1, channels // reduction)
        relations = max(1, positions // reduction)
        features = 1 + relations  # the unary term comes first
        hidden = max(1, features // reduction)

        # Every conv holds its parts' weights in groups, so that all strips are computed together.
        def conv(inputs: int, outputs: int, kind: type[nn.Conv1d] | type[nn.Conv2d]) -> nn.Module:
            return kind(parts * inputs, parts * outputs, 1, groups=parts, bias=False, device=device, dtype=dtype)

        self.embed = nn.Sequential(
            conv(channels, 3 * nodes, nn.Conv2d),  # theta, phi, psi
            nn.BatchNorm2d(parts * 3 * nodes, device=device, dtype=dtype),
            nn.ReLU(),
        )
        self.joint = nn.Parameter(torch.empty(parts, relations, 2 * positions, device=device, dtype=dtype))
        self.joint_norm = nn.Sequential(
            nn.BatchNorm1d(parts * relations, device=device, dtype=dtype),
            nn.ReLU(),
        )
        self.score = nn.Sequential(
            conv(features, hidden, nn.Conv1d),
            nn.BatchNorm1d(parts * hidden, device=device, dtype=dtype),
            nn.ReLU(),
            conv(hidden, 1, nn.Conv1d),
            nn.BatchNorm1d(parts, device=device, dtype=dtype),
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all convs as torch does by default and start the batch norms anew."""
        bound = self.joint.shape[2] ** -0.5
        nn.init.uniform_(self.joint, -bound, bound)
        for module in (*self.embed, *self.joint_norm, *self.score):
            if not isinstance(module, nn.ReLU):
                module.reset_parameters()

    def gate(self, x: Tensor) -> Tensor:
        """Return the weight of every position, `(N, 1, H, W)`."""
        check_map("RelationAwareSpatialAttention", x, self.channels, self.size)
        strips = rearrange(x, "n c (a h) w -> n (a c) h w", a=self.parts)
        theta, phi, psi = rearrange(self.embed(strips), "n (a three d) h w -> three n a d (h w)", three=3, a=self.parts)
        unary = psi.mean(dim=2, keepdim=True)
        relations = rearrange(embed_relations(theta, phi, self.joint), "n a m p -> n (a m) p")
        relations = rearrange(self.joint_norm(relations), "n (a m) p -> n a m p", a=self.parts)
        features = rearrange(torch.cat([unary, relations], dim=2), "n a m p -> n (a m) p")
        score: Tensor = self.score(features)
        return rearrange(score, "n a (h w) -> n 1 (a h) w", w=x.shape[3]).sigmoid()

    def extra_repr(self) -> str:
        """Return the channels, the size and the options that were changed."""
        return describe(self.channels, size=(self.size, None), reduction=(self.reduction, 8), parts=(self.parts, 1))
