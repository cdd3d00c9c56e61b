"""CUHK03's single-gallery-shot protocol (Li et al., CVPR 2014): a gallery of one random image a person."""

import numpy as np

from reference_pipelines.retrieval.ranking import Labels, SamePerson

_DISTRACTOR = 0


class SingleShot:
    """Draws galleries of one image a person and ranks each query's match in them.

    The gallery is drawn anew for each query and repetition from what counts for it; distractors (id 0) are no one
    person, so all of them stay. The draws depend on the seed, the repetition and the query alone.

    Args:
        labels: who is on each image.
        repeats: galleries a query.
        seed: of the draws.
    """

    def __init__(self, labels: Labels, repeats: int, seed: int) -> None:
        self.labels = labels
        self.repeats = repeats
        self.seed = seed
        ids = labels.gallery_ids[labels.by_id]
        one_person = (ids[1:] == ids[:-1]) & ((ids[1:] != _DISTRACTOR) | np.isin(_DISTRACTOR, labels.query_ids))
        self._starts = np.flatnonzero(np.concatenate([[True] * (len(ids) > 0), ~one_person]))
        self._sizes = np.diff(self._starts, append=len(ids))
        self._ids = ids[self._starts]

    def ranks(self, block: slice, rows: np.ndarray, same: SamePerson) -> np.ndarray:
        """Return (v, repeats) 0-based ranks of the drawn match, for the v queries of a block that have a match."""
        drawn = []
        for row, query in enumerate(range(block.start, block.stop)):
            own = slice(same.starts[row], same.starts[row + 1])
            matches = same.columns[own][~same.dropped[own]]
            if len(matches):
                drawn.append(self._ranks(query, rows[row], matches))
        return np.array(drawn, dtype=np.int64).reshape(-1, self.repeats)

    def _ranks(self, query: int, distances: np.ndarray, matches: np.ndarray) -> np.ndarray:
        """Return the (repeats,) ranks of one query's match, drawn from `matches`."""
        draws = np.random.default_rng((self.seed, query)).random((self.repeats, len(self._starts)))
        person = np.searchsorted(self._ids, self.labels.query_ids[query])
        images = self.labels.by_id[self._starts + (draws * self._sizes).astype(np.int64)]
        match = matches[(draws[:, person] * len(matches)).astype(np.int64)][:, None]
        before = (distances[images] < distances[match]) | ((distances[images] == distances[match]) & (images < match))
        before[:, person] = False
        return before.sum(axis=1)
