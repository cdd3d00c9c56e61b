"""`extract`: the features of a whole set of images, kept on the disk."""

from reference_pipelines.commands.options import ExtractOptions
from reference_pipelines.data.names import printable
from reference_pipelines.distributed.processes import Processes, join_processes
from reference_pipelines.features.reading import FeatureStore
from reference_pipelines.machine import cores_of_a_process
from reference_pipelines.serving.embedder import load
from reference_pipelines.serving.extraction import extract
from reference_pipelines.serving.listing import list_images

_SHOWN = 10
_MOST_WORKERS = 8


def run(options: ExtractOptions) -> None:
    """Write the features of images into a folder.

    Raises:
        UserError: no model, no images, or a folder that holds something else.
        Stopped: by a signal; what is done stays.
    """
    with join_processes(lambda: f"the same command goes on with {options.out}", "extract") as processes:
        store = _extracted(options, processes)
        if processes.first:
            print(printable(_said(store)))


def _extracted(options: ExtractOptions, processes: Processes) -> FeatureStore:
    model = processes.together(
        lambda: load(
            options.model,
            device=options.device,
            flip=options.flip,
            batch_size=options.batch_size,
            local_rank=processes.local_rank,
            who="extract",
        )
    )
    listing = processes.once(
        lambda: list_images(options.images, part=options.part, layout=options.layout, split=model.split)
    )
    workers = min(cores_of_a_process(), _MOST_WORKERS) if options.workers is None else options.workers
    if processes.first:
        print(printable(f"{model.title}: features of {len(listing):,} images of {listing.source}"), flush=True)
    return extract(model, listing, options.out, workers=workers, processes=processes)


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
