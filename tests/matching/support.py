"""Simulated people: a person's vector, a camera's, and the image's own."""

import numpy as np


def population(rng, people, images=6, dim=16, cameras=4, noise=1.2):
    """Return features, ids and cameras of new people; the kinds of people and the cameras are always the same."""
    fixed = np.random.default_rng(99)
    kinds, places = 0.6 * fixed.normal(size=(6, dim)), 0.3 * fixed.normal(size=(cameras, dim))
    own = kinds[rng.integers(6, size=people)] + rng.normal(size=(people, dim))
    ids, taken_by = np.repeat(np.arange(1, people + 1), images), np.tile(np.arange(images) % cameras, people)
    features = own[ids - 1] + places[taken_by] + noise * rng.normal(size=(people * images, dim))
    return features, ids, taken_by + 1


def on_a_grid(rng, images=24, people=5):
    """Return features whose cosines are halves, so that ties abound and nothing is rounded, and ids from -1 on."""
    signs = rng.choice([-1.0, 1.0], size=(images, 4)) * 0.5
    return signs, rng.integers(-1, people + 1, size=images), rng.integers(1, 4, size=images)
