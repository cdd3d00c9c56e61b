"""The features of a whole list of images, from files to a store on the disk."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from reference_pipelines.data.dataset import Batch, load_batches
from reference_pipelines.data.sampler import in_order
from reference_pipelines.distributed.processes import ALONE, Processes
from reference_pipelines.errors import UserError
from reference_pipelines.features.files import Meta
from reference_pipelines.features.reading import FeatureStore
from reference_pipelines.features.writing import FeatureWriter, Listing
from reference_pipelines.progress import progress_bar
from reference_pipelines.serving.embedder import Embedder, require_embedder
from reference_pipelines.serving.listing import Which, list_images

_WHO = "extract"

SECONDS_BETWEEN_COMMITS = 5.0
"""What a process that is killed loses at most; one that is interrupted loses nothing."""


def extract(
    model: Embedder,
    images: Listing | str | Path,
    out: str | Path,
    *,
    part: Which = "all",
    layout: str | None = None,
    workers: int = 0,
    processes: Processes = ALONE,
) -> FeatureStore:
    """Write the unit features of images into a folder, or go on where that was stopped.

    Images that do not decode are passed over and named in the store's `meta.passed_over`. Several processes take the
    batches in turns, and the first writes them in order: the store is that of one process, and any number of them may
    go on with it.

    Args:
        model: that computes them, what `load` returns.
        images: a data set's folder or CSV file, any folder with images in it, or what `list_images` has listed.
        out: a new or empty folder, or a store of the same features of the same images.
        part: of a data set; "images" takes a folder's files without looking for a data set. Of a listing all.
        layout: the data set's; found by content when None.
        workers: processes that decode; 0 decodes in this one.
        processes: who share the work. All see the images and the folder, and get the store.

    Raises:
        TypeError: `model` is no Embedder.
        UserError: there are no such images, the folder holds something else or cannot be written, no image decodes, or
            the features are not finite. What was done stays, and the same call goes on.

    Example:
        model = reference_pipelines.load("runs/apnet")
        store = reference_pipelines.extract(model, "photos", "features/photos", workers=2)
        print(len(store), store.features.shape, store.paths[0])
    """
    require_embedder(model, _WHO)
    listing = processes.once(
        lambda: (
            images
            if isinstance(images, Listing)
            else list_images(Path(images), part=part, layout=layout, split=model.split)
        )
    )
    with ExitStack() as stack:
        writer: FeatureWriter | None = None

        def begin() -> Meta:
            nonlocal writer
            writer = stack.enter_context(_writer(model, listing, Path(out)))
            return writer.meta

        begun = processes.once(begin)
        if not begun.finished:
            _extract(model, listing, begun.done, writer, workers, processes)
    return processes.together(lambda: FeatureStore(out, _WHO))


def _writer(model: Embedder, listing: Listing, out: Path) -> FeatureWriter:
    meta = Meta(
        model=model.identity.to_plain(),
        title=model.title,
        dim=model.dim,
        source=listing.source,
        images=len(listing),
        listing=listing.digest(),
    )
    return FeatureWriter(out, meta, listing, _WHO)


def _extract(
    model: Embedder, listing: Listing, done: int, writer: FeatureWriter | None, workers: int, processes: Processes
) -> None:
    """Extract what is not done; the first process has the writer."""
    batches = [
        [draw._replace(image=draw.image + done) for draw in draws]
        for draws in in_order(len(listing) - done, model.batch_size)
    ]
    own = batches[processes.rank :: processes.count]
    loaded = iter(load_batches(listing.paths, model.transform, own, workers=workers, lenient=True))
    committed = time.monotonic()
    with progress_bar(None, len(listing), _WHO, unit="image", shown=processes.first) as bar:
        bar.update(done)
        for _ in range(0, len(batches), processes.count):
            features, unread = processes.together(lambda: _features_of(model, listing.paths, next(loaded, None)))
            collected = processes.collect(features)
            passed_over = sorted(chain.from_iterable(processes.told(unread)))
            bar.update(len(collected) + len(passed_over))

            def write() -> None:
                nonlocal committed
                assert writer is not None
                writer.add(collected.numpy(), passed_over)  # noqa: B023  (called at once)
                if time.monotonic() - committed >= SECONDS_BETWEEN_COMMITS:
                    writer.commit()
                    committed = time.monotonic()

            processes.once(write)
    next(loaded, None)  # at its end, so that the workers are kept for the next list
    processes.once(lambda: _finish(writer, listing))


def _features_of(model: Embedder, paths: Sequence[Path], batch: Batch | None) -> tuple[Tensor, list[tuple[int, str]]]:
    """Return the features of what decodes in a batch, and place and reason of what does not; nothing of no batch."""
    if batch is None:
        return torch.zeros(0, model.dim), []
    try:
        features = model.embed_batch(batch.images)
    except ValueError as error:
        first = paths[int(batch.indices[0])]
        raise UserError(f"{_WHO}: {str(error).removeprefix('embed: ')} (the batch from {first} on)") from None
    return features[[index not in batch.unread for index in batch.indices.tolist()]], [*batch.unread.items()]


def _finish(writer: FeatureWriter | None, listing: Listing) -> None:
    assert writer is not None
    if not writer.rows:
        _, path, reason = writer.passed_over[0]
        raise UserError(
            f"{writer.who}: some image of {listing.source} must decode, none of the {len(listing):,} does, the first "
            f"is {path} ({reason}); is it unpacked completely?"
        )
    writer.finish()
