"""Training identities that are held out, so that an epoch can be chosen without a look at the test set."""

from dataclasses import replace

from reference_pipelines.data import ReidData
from reference_pipelines.data.splitting import draw, seen_twice, take_out
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
    people, able = data.train.people(), seen_twice(data.train)
    most = min(len(able), len(people) - 2)
    if count > most:
        raise UserError(
            f"train: evaluation.held_out must be at most {max(most, 0)}, people in train who were seen by two cameras, "
            f"with two others left to train on, got {count}; lower it"
        )
    train, query, gallery = take_out(data.train, draw(able, count, seed))
    return replace(data, train=train), replace(data, query=query, gallery=gallery)
