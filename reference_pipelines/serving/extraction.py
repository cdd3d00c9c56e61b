"""The features of a whole list of images, from files to a store on the disk."""

import time
from pathlib import Path

from reference_pipelines.data.dataset import load_batches
from reference_pipelines.data.sampler import in_order
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
) -> FeatureStore:
    """Write the unit features of images into a folder, or go on where that was stopped.

    Images that do not decode are passed over and named in the store's `meta.passed_over`.

    Args:
        model: that computes them, what `load` returns.
        images: a data set's folder or CSV file, any folder with images in it, or what `list_images` has listed.
        out: a new or empty folder, or a store of the same features of the same images.
        part: of a data set; "images" takes a folder's files without looking for a data set. Of a listing all.
        layout: the data set's; found by content when None.
        workers: processes that decode; 0 decodes in this one.

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
    listing = (
        images
        if isinstance(images, Listing)
        else list_images(Path(images), part=part, layout=layout, split=model.split)
    )
    meta = Meta(
        model=model.identity.to_plain(),
        title=model.title,
        dim=model.dim,
        source=listing.source,
        images=len(listing),
        listing=listing.digest(),
    )
    with FeatureWriter(Path(out), meta, listing, _WHO) as writer:
        if not writer.meta.finished:
            _extract(model, listing, writer, workers)
    return FeatureStore(out, _WHO)


def _extract(model: Embedder, listing: Listing, writer: FeatureWriter, workers: int) -> None:
    start = writer.meta.done
    batches = [
        [draw._replace(image=draw.image + start) for draw in draws]
        for draws in in_order(len(listing) - start, model.batch_size)
    ]
    loaded = load_batches(listing.paths, model.transform, batches, workers=workers, lenient=True)
    committed = time.monotonic()
    with progress_bar(None, len(listing), writer.who, unit="image") as bar:
        bar.update(start)
        for batch in loaded:
            try:
                features = model.embed_batch(batch.images)
            except ValueError as error:
                raise UserError(f"{writer.who}: {str(error).removeprefix('embed: ')}") from None
            read = [index not in batch.unread for index in batch.indices.tolist()]
            writer.add(features[read].numpy(), sorted(batch.unread.items()))
            if time.monotonic() - committed >= SECONDS_BETWEEN_COMMITS:
                writer.commit()
                committed = time.monotonic()
            bar.update(len(batch.indices))
    if not writer.rows:
        _, path, reason = writer.passed_over[0]
        raise UserError(
            f"{writer.who}: some image of {listing.source} must decode, none of the {len(listing):,} does, the first "
            f"is {path} ({reason}); is it unpacked completely?"
        )
    writer.finish()
