"""`extract`: the features of a whole set of images, kept on the disk."""

from reference_pipelines.commands.options import ExtractOptions
from reference_pipelines.data.names import printable
from reference_pipelines.errors import Stopped
from reference_pipelines.features.reading import FeatureStore
from reference_pipelines.machine import available_cores
from reference_pipelines.serving.embedder import load
from reference_pipelines.serving.extraction import extract
from reference_pipelines.serving.listing import list_images

_SHOWN = 10
_MOST_WORKERS = 8


def run(options: ExtractOptions) -> None:
    """Write the features of images into a folder.

    Raises:
        UserError: no model, no images, or a folder that holds something else.
        Stopped: by Ctrl-C.
    """
    model = load(options.model, device=options.device, flip=options.flip, batch_size=options.batch_size, who="extract")
    listing = list_images(options.images, part=options.part, layout=options.layout, split=model.split)
    workers = min(available_cores(), _MOST_WORKERS) if options.workers is None else options.workers
    print(printable(f"{model.title}: features of {len(listing):,} images of {listing.source}"), flush=True)
    try:
        store = extract(model, listing, options.out, workers=workers)
    except KeyboardInterrupt:
        raise Stopped(f"extract: interrupted; the same command goes on with {options.out}", 130) from None
    print(printable(_said(store)))


def _said(store: FeatureStore) -> str:
    known = [name for name, there in (("ids", store.ids), ("cameras", store.cameras)) if there is not None]
    rows, dim = store.features.shape
    said = f"{rows:,} features of {dim:,} numbers, with {' and '.join(['paths', *known])}, in {store.folder}"
    passed_over = store.meta.passed_over
    if not passed_over:
        return said
    lines = [f"  {path} ({reason})" for _, path, reason in passed_over[:_SHOWN]]
    if len(passed_over) > _SHOWN:
        lines.append(f"  and {len(passed_over) - _SHOWN:,} more: see passed_over in its meta.json")
    images = "1 image does" if len(passed_over) == 1 else f"{len(passed_over):,} images do"
    return "\n".join([said, f"{images} not decode and left no feature:", *lines])
