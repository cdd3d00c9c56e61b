"""Distances from queries to a gallery, made a block of queries at a time."""

from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from reference_pipelines.unit_vectors import unit_rows

Metric = Literal["cosine", "euclidean"]

_CANCELLED = 1e-6
_COLUMNS = 4096
_FEW = 16
_SQUARED = 1e150  # the squares of so large numbers, and sums of some thousand, are finite in double precision


class Distances(Protocol):
    """(Q, G) distances, made a block of queries at a time; never whole."""

    @property
    def shape(self) -> tuple[int, int]:
        """Q and G."""
        ...

    def rows(self, block: slice) -> Tensor:
        """Return the (b, G) distances of the block's queries, float32 or float64, on whatever device."""
        ...


def feature_distances(
    query: ArrayLike | Tensor,
    gallery: ArrayLike | Tensor,
    metric: Metric = "cosine",
    device: torch.device | str | None = None,
) -> Distances:
    """Return the distances of (Q, D) to (G, D) features, in float64 if one of them is and in float32 otherwise.

    Args:
        query: (Q, D) features; half precision is computed in float32.
        gallery: (G, D) features.
        metric: "cosine" is 1 - cos, 0 to 2, from one float32 product, which may tell equal features apart in the last
            bit, and 1 to a feature of length 0; "euclidean" is that of the features as given, which keeps near
            ties apart however long they are: it is as exact as float32 can say.
        device: where they are computed; None: where the query features are.

    Raises:
        ValueError: shapes that do not fit, features that are not finite, or an unknown metric.
    """
    if metric not in ("cosine", "euclidean"):
        raise ValueError(f'evaluate: metric must be "cosine" or "euclidean", got {metric!r}')
    first, second = _check_features(query, gallery, device)
    if metric == "cosine":
        return _Cosine(first, second)
    for name, features in (("query", first), ("gallery", second)):
        largest = float(torch.stack(torch.aminmax(features)).abs().max())
        if largest > _SQUARED:
            raise ValueError(
                f"evaluate: {name}_features must be within {_SQUARED:g} for Euclidean distances, whose squares "
                f"overflow beyond, got {largest:g}; scale them"
            )
    return _Euclidean(first, second)


class CheckedDistances:
    """Distances from elsewhere, each block of which is checked.

    Raises:
        ValueError: from `rows`, where they are not finite float32 or float64 of the shape that was promised.
    """

    def __init__(self, distances: Distances) -> None:
        self._distances = distances

    @property
    def shape(self) -> tuple[int, int]:
        """Q and G."""
        return self._distances.shape

    def rows(self, block: slice) -> Tensor:
        """Return the (b, G) distances of the block's queries."""
        rows = self._distances.rows(block).detach()
        shape = (block.stop - block.start, self.shape[1])
        if rows.shape != shape or rows.dtype not in (torch.float32, torch.float64):
            got = f"{tuple(rows.shape)} {str(rows.dtype).removeprefix('torch.')}"
            raise ValueError(f"evaluate: distances.rows must return {shape} float32 or float64 here, got {got}")
        if not _finite(rows):
            raise ValueError("evaluate: distances must be finite, got NaN or Inf; check what they were made of")
        return rows


def given_distances(distances: Distances | ArrayLike | Tensor) -> Distances:
    """Return distances that are checked, from an array or tensor too; whole numbers and half precision are widened.

    Raises:
        ValueError: they are not (Q, G) real numbers.
    """
    if not hasattr(distances, "rows"):
        distances = _Given(distances if isinstance(distances, Tensor) else np.asarray(distances))
    return CheckedDistances(distances)  # type: ignore[arg-type]


class _Given:
    """(Q, G) distances that are there already."""

    def __init__(self, whole: Any) -> None:
        kind = str(whole.dtype).removeprefix("torch.")
        if whole.ndim != 2 or not kind.startswith(("float", "bfloat", "int", "uint")):
            got = f"{tuple(whole.shape)} {kind}"
            raise ValueError(f"evaluate: distances must be (Q, G) real numbers, queries by gallery, got {got}")
        self._whole = whole
        self._wide = kind not in ("float32", "float64")

    @property
    def shape(self) -> tuple[int, int]:
        """Q and G."""
        return len(self._whole), self._whole.shape[1]

    def rows(self, block: slice) -> Tensor:
        """Return the (b, G) distances of the block's queries."""
        rows = self._whole[block]
        if isinstance(rows, Tensor):
            return rows.double() if self._wide else rows
        return torch.from_numpy(np.array(rows, dtype=np.float64 if self._wide else None, order="C"))


class _Cosine:
    """1 - cos of (Q, D) and (G, D) features."""

    def __init__(self, query: Tensor, gallery: Tensor) -> None:
        self._query = unit_rows(query)
        self._opposite = unit_rows(gallery).neg_()

    @property
    def shape(self) -> tuple[int, int]:
        """Q and G."""
        return len(self._query), len(self._opposite)

    def rows(self, block: slice) -> Tensor:
        """Return the (b, G) distances of the block's queries."""
        return (self._query[block] @ self._opposite.T).add_(1)


class _Euclidean:
    """The Euclidean distance of (Q, D) to (G, D) features of one dtype."""

    def __init__(self, query: Tensor, gallery: Tensor) -> None:
        self._query = query
        self._gallery = gallery
        self._lengths = torch.cat([part.double().square().sum(dim=1) for part in gallery.split(_COLUMNS)])

    @property
    def shape(self) -> tuple[int, int]:
        """Q and G."""
        return len(self._query), len(self._gallery)

    def rows(self, block: slice) -> Tensor:
        """Return the (b, G) distances of the block's queries."""
        query = self._query[block].double()
        if self._query.dtype == torch.float64:
            return _by_differences(query, self._gallery)
        distances = torch.empty(len(query), len(self._gallery), dtype=torch.float32, device=query.device)
        parts = (each.split(_COLUMNS) for each in (self._gallery, self._lengths))
        for gallery, lengths, part in zip(*parts, distances.split(_COLUMNS, dim=1), strict=True):
            part.copy_(_by_product(query, gallery.double(), lengths))
        return distances


def _by_product(query: Tensor, gallery: Tensor, lengths: Tensor) -> Tensor:
    """Return the (b, c) distances of what was float32, now float64; `lengths` (c,) are the gallery's, squared.

    The matrix product leaves an error of 1e-14 or so of the squared lengths. The pairs that are too near for that
    to be below float32's own rounding are computed by their differences.
    """
    both = query.square().sum(dim=1)[:, None] + lengths
    squared = torch.addmm(both, query, gallery.T, alpha=-2)
    rows, columns = (squared <= both.mul_(_CANCELLED)).nonzero(as_tuple=True)
    if len(rows) > _FEW * len(query):
        return _by_differences(query, gallery)
    squared[rows, columns] = (query[rows] - gallery[columns]).square_().sum(dim=1)
    return squared.sqrt_()


def _by_differences(query: Tensor, gallery: Tensor) -> Tensor:
    """Return the (b, c) distances, without the matrix product that loses near ties of long vectors."""
    return torch.cdist(query, gallery, compute_mode="donot_use_mm_for_euclid_dist")


def _check_features(
    query: ArrayLike | Tensor, gallery: ArrayLike | Tensor, device: torch.device | str | None
) -> tuple[Tensor, Tensor]:
    """Return both features as float32 or float64 tensors on one device."""
    first, second = torch.as_tensor(query).detach(), torch.as_tensor(gallery).detach()
    for name, features in (("query", first), ("gallery", second)):
        if features.ndim != 2 or not features.numel():
            got = tuple(features.shape)
            raise ValueError(f"evaluate: {name}_features must be (n, D) with n > 0 and D > 0, got {got}")
        if not _finite(features):
            row = int((~torch.isfinite(features)).any(dim=1).nonzero()[0, 0])
            raise ValueError(
                f"evaluate: {name}_features must be finite, got NaN or Inf in row {row}; has training diverged?"
            )
    if first.shape[1] != second.shape[1]:
        widths = f"{first.shape[1]} and {second.shape[1]}"
        raise ValueError(f"evaluate: query and gallery features must have the same width, got {widths}")
    double = torch.float64 in (first.dtype, second.dtype)
    kind = torch.float64 if double else torch.float32
    place = first.device if device is None else torch.device(device)
    return first.to(place, kind), second.to(place, kind)


def _finite(values: Tensor) -> bool:
    """Tell whether no value is NaN or Inf, without a mask of all of them."""
    return bool(torch.isfinite(torch.stack(torch.aminmax(values))).all())
