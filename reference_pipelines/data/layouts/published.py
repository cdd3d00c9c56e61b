"""How many images, people and cameras the public data sets have, as their authors published it."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from reference_pipelines.data.records import PARTS, ReidData


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What a whole data set has.

    Args:
        title: the data set's name and version.
        train: images to train on.
        train_ids: people among them.
        query: queries.
        query_ids: people among them.
        gallery: images to search in, distractors (id 0) among them, without junk.
        gallery_ids: people in the gallery, those without a query among them.
        cameras: cameras in all parts together.
        junk: images of id -1; None where the publication names none.
    """

    title: str
    train: int
    train_ids: int
    query: int
    query_ids: int
    gallery: int
    gallery_ids: int
    cameras: int
    junk: int | None = None


def _msmt17(title: str, train: int) -> Counts:
    return Counts(
        title=title,
        train=train,
        train_ids=1041,
        query=11_659,
        query_ids=3060,
        gallery=82_161,
        gallery_ids=3060,
        cameras=15,
    )


_ALTERED = ", altered"
_ALL_TRAIN, _LIST_TRAIN = 32_621, 30_248

PUBLISHED: Mapping[str, Counts] = MappingProxyType(
    {
        "market1501": Counts(
            title="Market-1501",
            train=12_936,
            train_ids=751,
            query=3368,
            query_ids=750,
            gallery=15_913,
            gallery_ids=750,
            cameras=6,
            junk=3819,
        ),
        "dukemtmc": Counts(
            title="DukeMTMC-reID",
            train=16_522,
            train_ids=702,
            query=2228,
            query_ids=702,
            gallery=17_661,
            gallery_ids=1110,
            cameras=8,
        ),
        "occluded_duke": Counts(
            title="Occluded-Duke",
            train=15_618,
            train_ids=702,
            query=2210,
            query_ids=519,
            gallery=17_661,
            gallery_ids=1110,
            cameras=8,
        ),
        "cuhk03_np_detected": Counts(
            title="CUHK03-NP, detected",
            train=7365,
            train_ids=767,
            query=1400,
            query_ids=700,
            gallery=5332,
            gallery_ids=700,
            cameras=2,
        ),
        "cuhk03_np_labeled": Counts(
            title="CUHK03-NP, labeled",
            train=7368,
            train_ids=767,
            query=1400,
            query_ids=700,
            gallery=5328,
            gallery_ids=700,
            cameras=2,
        ),
        "msmt17_v1": _msmt17("MSMT17 v1", _ALL_TRAIN),
        "msmt17_v2": _msmt17("MSMT17 v2", _ALL_TRAIN),
        "msmt17_v1_list_train": _msmt17("MSMT17 v1, list_train alone", _LIST_TRAIN),
        "msmt17_v2_list_train": _msmt17("MSMT17 v2, list_train alone", _LIST_TRAIN),
        "msmt17_repacked": _msmt17("MSMT17, repacked, version unknown", _ALL_TRAIN),
        "personx": Counts(
            title="PersonX, 6 cameras",
            train=9840,
            train_ids=410,
            query=5136,
            query_ids=856,
            gallery=30_816,
            gallery_ids=856,
            cameras=6,
        ),
    }
)
"""By layout. Layouts that are missing here are the user's own data, of which nothing is published."""


def differences(data: ReidData, whole: Counts) -> tuple[str, ...]:
    """Return which numbers of images, people, cameras and junk are not those of the whole data set."""
    cameras = len(np.unique(np.concatenate([data.part(name).cameras for name in PARTS])))
    pairs = [("cameras", cameras, whole.cameras)]
    for name in PARTS:
        images = data.part(name)
        pairs.append((f"{name} images", len(images), getattr(whole, name)))
        pairs.append((f"{name} ids", len(images.people()), getattr(whole, f"{name}_ids")))
    if whole.junk is not None:
        pairs.append(("junk images", data.junk, whole.junk))
    return tuple(f"{what}: {found:,} of {expected:,}" for what, found, expected in pairs if found != expected)


def title_of(data: ReidData, whole: Counts | None) -> str:
    """Return how tables call a data set: a public one by its name only if its counts are the whole one's.

    Any other set in the same layout is "Market-1501 layout": the names of files do not say whose images they are.

    Args:
        data: as read.
        whole: the published counts, or those that were rendered; None where there are none.
    """
    if whole is None:
        return data.title
    name, comma, version = (data.title if data.rendered else whole.title).partition(",")
    if not differences(data, whole):
        return f"{name}{comma}{version}"
    if data.rendered:
        return f"{data.title.removesuffix(_ALTERED)}{_ALTERED}"
    return f"{name} layout{comma}{version}"
