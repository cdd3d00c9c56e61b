"""Relation-aware attention: every node of the map is weighed by how it relates to all others.

From "Relation-Aware Global Attention for Person Re-identification" (RGA, Zhang et al.). Its spatial form, whose
nodes are the positions, is the spatial attention of "Person Re-identification via Attention Pyramid" (APNet),
Eq. 4; in its channel form the nodes are the channels. What the two share is in the base class.
"""

from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from attnreid._tracing import rearrange
from attnreid.layers._checks import (
    check_count,
    check_dtype,
    check_factory,
    check_map,
    check_multiple,
    check_size,
    check_statistics,
    describe,
)
from attnreid.layers._folding import Foldable, NormedLinear, like
from attnreid.layers._resizing import Size, copy_with, plain_parameter, resize_over_positions
from attnreid.layers.gate import Gate, SplitDim
from attnreid.registry import register_attention

REDUCTION = 8


def embed_relations(theta_phi: Tensor, weight: Tensor) -> Tensor:
    """Return the linear embedding of every node's relations, `(N, parts, M, P)`, without the P x P affinity.

    theta_phi is `(N, parts, 2D, P)`, theta above phi. With `G[p, q] = theta_p . phi_q`, node p's relations are
    the row `G[p, :]` and then the column `G[:, p]`; weight `(parts, M, 2P)` embeds these 2P numbers. As it is
    linear, with weight = [W1 W2]: `W1 G^T + W2 G = [W1 phi^T, W2 theta^T] [theta; phi]`, thin products only.
    """
    theta, phi = theta_phi.chunk(2, dim=2)
    rows, columns = weight.chunk(2, dim=2)
    factors = [torch.einsum("nadp,amp->nadm", phi, rows), torch.einsum("nadp,amp->nadm", theta, columns)]
    return torch.cat(factors, dim=2).transpose(2, 3) @ theta_phi


class _RelationAware(Gate, Foldable):
    """RGA on nodes `(N, parts, features, nodes)`; a subclass says what is a node, and spreads their scores."""

    size: Size

    def __init__(
        self,
        channels: int,
        size: Size,
        reduction: int,
        parts: int,
        made_for: Size | None,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        who = type(self).__name__
        check_count(who, "channels", channels)
        check_factory(who, device, dtype)
        check_count(who, "reduction", reduction)
        check_count(who, "parts", parts)
        super().__init__(channels, size=check_size(who, size))
        self.reduction = reduction
        self.parts = parts
        self.made_for = self.size if made_for is None else check_size(who, made_for)
        features, nodes = self._nodes(self.size)
        narrowed, related = self._nodes(self.made_for)
        width = max(1, narrowed // reduction)
        relations = max(1, related // reduction)
        hidden = max(1, (1 + relations) // reduction)

        def linear(inputs: int, outputs: int, relu: bool = True) -> NormedLinear:
            return NormedLinear(inputs, outputs, parts=parts, relu=relu, device=device, dtype=dtype)

        self.embed = linear(features, 3 * width)  # theta, phi, psi: they share their input
        self.joint = linear(2 * nodes, relations)
        self.hidden = linear(1 + relations, hidden)  # the unary term comes first
        self.score = linear(hidden, 1, relu=False)

    def _nodes(self, size: Size) -> tuple[int, int]:
        """Return how many features a node has, and how many nodes a part, of a map of this size."""
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Draw all weights as torch's convs do and start the batch norms anew."""
        for linear in self._linears():
            linear.reset_parameters()

    def node_scores(self, nodes: Tensor) -> Tensor:
        """Return every node's gate in (0, 1), `(N, parts, 1, P)`, from nodes `(N, parts, features, P)`."""
        norms = [linear.norm for linear in self._linears() if linear.norm is not None]
        check_statistics(type(self).__name__, nodes.shape[0] * nodes.shape[3], norms)
        embedded = self.embed.finish(self._embed(nodes))
        width = embedded.shape[2] // 3
        # Not by slices: with torch 2.7, those of a batch of any size do not export.
        theta_phi, psi = embedded.narrow(2, 0, 2 * width), embedded.narrow(2, 2 * width, width)
        relations = self.joint.finish(embed_relations(theta_phi, self.joint.weight))
        # The weights of the unary term and of the relations apart, which saves joining the two.
        weight = self.hidden.weight
        of_unary, of_relations = weight[:, :, :1], weight[:, :, 1:]
        hidden = self.hidden.finish(of_relations @ relations + of_unary * psi.mean(dim=2, keepdim=True))
        return self.score.finish(self.score.weight @ hidden).sigmoid()

    def _linears(self) -> tuple[NormedLinear, ...]:
        return self.embed, self.joint, self.hidden, self.score

    def _embed(self, nodes: Tensor) -> Tensor:
        """Return theta, phi and psi of all nodes, `(N, parts, 3D, P)`, before their batch norm."""
        raise NotImplementedError

    def _resized(self, size: Size, linear: NormedLinear, old: Size, new: Size) -> Self:
        """Return a copy for another size, for which one layer's inputs go from parts of the old size to the new."""
        weight = plain_parameter(type(self).__name__, linear, "weight")
        resized = copy_with(self, (weight, like(weight, resize_over_positions(weight, old, new))))
        resized.size = size
        return resized

    def fold_(self) -> None:
        """Take all batch norms into the weights before them."""
        for linear in self._linears():
            linear.fold_(type(self).__name__)
        self.folded = True

    def extra_repr(self) -> str:
        """Return the channels, the size and the options that were changed."""
        return describe(
            self.channels,
            size=(self.size, None),
            reduction=(self.reduction, REDUCTION),
            parts=(self.parts, 1),
            made_for=(self.made_for, self.size),
        )


@register_attention("rga_s")
class RelationAwareSpatialAttention(_RelationAware):
    """Multiplies each position by a weight in (0, 1) computed from its affinities with all positions.

    RGA-S, APNet's Eq. 4, by the identity of `embed_relations`; theta, phi and psi are one joined linear map.
    Where texts differ, this follows RGA's released code: a BN after every linear map, the unary term (the
    channel mean of psi) *before* the relations where Eq. 4 writes it last, row block before column block, a
    ReLU on the embedded relations, one ratio for all reductions. Widths never drop below 1 (a strip of fewer
    positions than the ratio would have none). Weights start as torch's convs do, uniform within
    1/sqrt(inputs), as the released code leaves them.

    Args:
        channels: the channels C of the map.
        size: the map's (height, width), which the relations' embedding is made for.
        reduction: by how much the channels, the relations and the joined features are narrowed.
        parts: split the height into this many equal strips with separate weights (and statistics).
        made_for: the map's (height, width) that the hidden widths are made for, where that is another: `resize`
            keeps them.
        device: where the parameters are made.
        dtype: the parameters' type.

    Shape:
        Input and output `(N, C, H, W)`; gate `(N, 1, H, W)`, in (0, 1).

    Raises:
        TypeError: if an option is of the wrong type or the input is not floating point.
        ValueError: if an option is out of range, `parts` does not divide the height, or the input is not a
            map of C channels and this size, or has one position in all in train mode.

    Example:
        >>> attention = RelationAwareSpatialAttention(64, size=(16, 8), parts=2)
        >>> attention.gate(torch.randn(2, 64, 16, 8)).shape
        torch.Size([2, 1, 16, 8])
    """

    split_dim: ClassVar[SplitDim | None] = "height"

    def __init__(
        self,
        channels: int,
        *,
        size: tuple[int, int],
        reduction: int = REDUCTION,
        parts: int = 1,
        made_for: tuple[int, int] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(channels, size, reduction, parts, made_for, device, dtype)

    def _nodes(self, size: Size) -> tuple[int, int]:
        height, width = self._strip(size)
        return self.channels, height * width

    def _strip(self, size: Size) -> Size:
        """Return the size of a part of a map of this size."""
        height, width = size
        check_multiple(type(self).__name__, f"the height, split into {self.parts} parts,", height, self.parts)
        return height // self.parts, width

    def gate(self, x: Tensor) -> Tensor:
        """Return the weight of every position, `(N, 1, H, W)`."""
        x = check_map("RelationAwareSpatialAttention", x, self.channels, self.size)
        nodes = rearrange(x, "n c (parts h) w -> n parts c (h w)", parts=self.parts)
        return rearrange(self.node_scores(nodes), "n parts 1 (h w) -> n 1 (parts h) w", w=x.shape[3])

    def _embed(self, nodes: Tensor) -> Tensor:
        # A conv reads the map where it lies. Of all parts in one grouped conv, a conv for each part and one
        # batched product, the grouped conv was measured fastest on two CPU threads.
        weight = self.embed.weight
        nodes = rearrange(check_dtype(type(self).__name__, nodes, weight), "n parts f p -> n (parts f) p")
        embedded = F.conv1d(nodes, rearrange(weight, "parts d f -> (parts d) f 1"), groups=self.parts)
        return rearrange(embedded, "n (parts d) p -> n parts d p", parts=self.parts)

    def resize(self, size: Size) -> Self:
        """Return a copy for maps of another size, whose positions relate to averages over the old size's.

        What is embedded of a position's relations is `sum_q w_q theta_p.phi_q` (and phi_p.theta_q), over the positions
        q of its part. The copy has `w D` for w, where D averages a part of the new size to the old one (bilinearly,
        antialiased where that is smaller): w interpolated, and scaled by about old over new positions. So

            sum_q' (w D)_q' theta_p.phi_q'  =  sum_q w_q theta_p.(D phi)_q

        for every map: a position is related to as many others as before, each an average of those that are there. As
        D averages, a map that is constant over each part has the embedding of the old size before the batch norm, and
        so the very gate, in train and in eval mode (up to rounding, 1e-5 in float32; the running variances differ,
        being unbiased by how many values there were). No other map has a gate that is exactly preserved, and resizing
        back does not give the weights back.

        The hidden widths stay as they were made (`made_for`). `joint.weight` is a new parameter, for an optimiser,
        trained or frozen as the old one. A folded layer is resized as one that is folded afterwards.

        Raises:
            ValueError: `parts` does not divide the height, or the weight has parametrizations.
        """
        size = check_size(type(self).__name__, size)
        return self._resized(size, self.joint, self._strip(self.size), self._strip(size))


@register_attention("rga_c")
class RelationAwareChannelAttention(_RelationAware):
    """Multiplies each channel by a weight in (0, 1) computed from its affinities with all channels.

    RGA-C, the channel attention of RGA (not in APNet): RGA-S with the channels as nodes and their H*W values
    as features, by the identity of `embed_relations`, without the C x C affinity. Choices as for
    `RelationAwareSpatialAttention`, after RGA's released code: the features, the relations and the joined
    features are all narrowed by one ratio.

    Args:
        channels: the channels C of the map, a multiple of `parts`.
        size: the map's (height, width), which the features' embedding is made for.
        reduction: by how much the positions, the relations and the joined features are narrowed.
        parts: split the channels into this many equal parts with separate weights (and statistics).
        made_for: the map's (height, width) that the hidden widths are made for, where that is another: `resize`
            keeps them.
        device: where the parameters are made.
        dtype: the parameters' type.

    Shape:
        Input and output `(N, C, H, W)`; gate `(N, C, 1, 1)`, in (0, 1).

    Raises:
        TypeError: if an option is of the wrong type or the input is not floating point.
        ValueError: if an option is out of range, `parts` does not divide the channels, or the input is not a
            map of C channels and this size, or has one channel in all in train mode.

    Example:
        >>> attention = RelationAwareChannelAttention(64, size=(16, 8))
        >>> attention.gate(torch.randn(2, 64, 16, 8)).shape
        torch.Size([2, 64, 1, 1])
    """

    split_dim: ClassVar[SplitDim | None] = "channels"

    def __init__(
        self,
        channels: int,
        *,
        size: tuple[int, int],
        reduction: int = REDUCTION,
        parts: int = 1,
        made_for: tuple[int, int] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(channels, size, reduction, parts, made_for, device, dtype)

    def _nodes(self, size: Size) -> tuple[int, int]:
        check_multiple(type(self).__name__, f"channels, split into {self.parts} parts,", self.channels, self.parts)
        return size[0] * size[1], self.channels // self.parts

    def gate(self, x: Tensor) -> Tensor:
        """Return the weight of every channel, `(N, C, 1, 1)`."""
        x = check_map("RelationAwareChannelAttention", x, self.channels, self.size)
        nodes = rearrange(x, "n (parts c) h w -> n parts (h w) c", parts=self.parts)
        return rearrange(self.node_scores(nodes), "n parts 1 c -> n (parts c) 1 1")

    def _embed(self, nodes: Tensor) -> Tensor:
        # The nodes are the map transposed, which a conv would copy. Not weight @ nodes: its backward holds a
        # gradient of the weight for every image.
        weight = self.embed.weight
        return torch.einsum("adf,nafp->nadp", weight, check_dtype(type(self).__name__, nodes, weight))

    def resize(self, size: Size) -> Self:
        """Return a copy for maps of another size, which sees of each what this layer sees of it at the old size.

        A channel's features are embedded by `sum_q w_q x_q` over the positions. The copy has `w D` for w, where D
        averages the map to the old size (bilinearly, antialiased where that is smaller): w interpolated, and scaled
        by about old over new positions. As `(w D) x = w (D x)`, the gate of every map, in train and in eval mode and
        with all statistics, is this layer's gate of the map resized to the old size, up to rounding (1e-5 in float32);
        of a map that is constant over the positions, it is the old gate. Resizing back does not give the weights back.

        The hidden widths stay as they were made (`made_for`). `embed.weight` is a new parameter, for an optimiser,
        trained or frozen as the old one. A folded layer is resized as one that is folded afterwards.

        Raises:
            ValueError: the weight has parametrizations.
        """
        size = check_size(type(self).__name__, size)
        return self._resized(size, self.embed, self.size, size)
