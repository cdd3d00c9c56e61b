"""Training identities that are held out, so that an epoch can be chosen without a look at the test set."""

from dataclasses import replace

import numpy as np

from reference_pipelines.data import ReidData
from reference_pipelines.errors import UserError


def hold_out(data: ReidData, count: int, seed: int) -> tuple[ReidData, ReidData | None]:
    """Return a data set without some of its training people, and these as one to be scored on.

    Their first image from each camera is a query; all of their images are the gallery, of which the protocol drops what
    the query's own camera took. They are drawn among those who were seen by two cameras, since nobody else has a match.

    Args:
        data: the images.
        count: how many people; 0 holds out nobody.
        seed: of the draw.

    Raises:
        UserError: there are not so many people, or fewer than two would be left.
    """
    if not count:
        return data, None
    train = data.train
    views = np.unique(np.stack([train.ids, train.cameras]), axis=1)[0]
    people, cameras = np.unique(views, return_counts=True)
    able = people[cameras > 1]
    most = min(len(able), len(people) - 2)
    if count > most:
        raise UserError(
            f"train: evaluation.held_out must be at most {max(most, 0)}, people in train who were seen by two cameras, "
            f"with two others left to train on, got {count}; lower it"
        )
    chosen = np.isin(train.ids, np.random.default_rng(seed).permutation(able)[:count])
    gallery = train.where(chosen)
    _, first = np.unique(np.stack([gallery.ids, gallery.cameras]), axis=1, return_index=True)
    query = gallery.where(np.isin(np.arange(len(gallery)), first))
    return replace(data, train=train.where(~chosen)), replace(data, query=query, gallery=gallery)
