"""Several data sets as one: their training images together, ids and cameras kept apart, and one of them to test on."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from reference_pipelines.data.records import ImageList, ReidData


def join(trained: Sequence[ReidData], tested: ReidData | None = None) -> ReidData:
    """Return one data set of several.

    Args:
        trained: whose training images are taken, one at least.
        tested: whose query and gallery are taken; those of the first of `trained` that has both when None.
    """
    members = [*trained, *([] if tested is None else [tested])]
    if len(members) == 1:
        return members[0]
    bases = _Bases()
    numbered = [bases.renumber(member) for member in members]
    training, testing = numbered[: len(trained)], numbered[len(trained) :] or numbered
    test = next((each for each in testing if each.tested), testing[0])
    names: dict[int, str] = {}
    for member, renumbered in zip(members, numbered, strict=True):
        names |= {number: f"{member.name}: {name}" for number, name in renumbered.id_names.items()}
    titles = " + ".join(each.name for each in trained)
    notes = [f"{each.name}: {note}" for each in members for note in each.notes]
    return replace(
        members[0],
        train=_together([each.train for each in training]),
        left_out=sum(each.left_out for each in training),
        query=test.query,
        gallery=test.gallery,
        junk=test.junk,
        rendered=all(each.rendered for each in members),
        cameras_known=test.cameras_known,
        id_names=names,
        title=titles if tested is None else f"{titles}, tested on {tested.name}",
        notes=tuple(notes),
        members=tuple(trained),
        tested_on=tested,
    )


class _Bases:
    """What is added to each data set's numbers, so that they are nobody else's; one that comes again has its own again.

    So people who are trained on and tested on stay the same people.
    """

    def __init__(self) -> None:
        self._id = self._camera = 0
        self._done: dict[Path, ReidData] = {}

    def renumber(self, data: ReidData) -> ReidData:
        """Return a data set with numbers of its own."""
        place = data.root.resolve()
        if place not in self._done:
            self._done[place] = self._renumbered(data)
        return self._done[place]

    def _renumbered(self, data: ReidData) -> ReidData:
        moved = replace(
            data, train=self._moved(data.train), query=self._moved(data.query), gallery=self._moved(data.gallery)
        )
        shift = self._id
        everything = [part for part in (data.train, data.query, data.gallery) if len(part)]
        self._id += max((int(part.ids.max(initial=0)) for part in everything), default=0)
        self._camera += max((int(part.cameras.max()) for part in everything), default=0) + 1
        people = {int(person) for part in everything for person in part.people()}
        return replace(moved, id_names={person + shift: data.id_name(person) for person in people})

    def _moved(self, part: ImageList) -> ImageList:
        ids = np.where(part.ids > 0, part.ids + self._id, part.ids)
        return replace(part, ids=ids, cameras=part.cameras + self._camera)


def _together(parts: Sequence[ImageList]) -> ImageList:
    tracklets = None
    if any(part.tracklets is not None for part in parts):
        tracklets, base = [], 0
        for part in parts:
            own = np.arange(len(part)) if part.tracklets is None else part.tracklets
            tracklets.append(own + base)
            base += int(own.max(initial=-1)) + 1
    return ImageList(
        tuple(path for part in parts for path in part.paths),
        np.concatenate([part.ids for part in parts]),
        np.concatenate([part.cameras for part in parts]),
        None if tracklets is None else np.concatenate(tracklets),
    )
