"""`cluster`: clusters of a gallery without labels, as the training makes them."""

from reference_pipelines.commands.options import ClusterOptions, check_recall
from reference_pipelines.data.names import printable
from reference_pipelines.distributed.processes import join_processes
from reference_pipelines.errors import UserError
from reference_pipelines.features.reading import FeatureStore
from reference_pipelines.serving.clusters import Clusters, cluster


def run(options: ClusterOptions) -> None:
    """Cluster features, write each image's cluster and print what they are like.

    Raises:
        UserError: no features, options out of range, or a file that cannot be written.
    """
    if not 0 < options.eps < 1:
        raise UserError(f"cluster: --eps must be above 0 and below 1, got {options.eps:g}; MLA's is 0.4")
    if options.k2 > options.k1:
        raise UserError(f"cluster: --k2 must be at most --k1 ({options.k1}), got {options.k2}; lower it or raise --k1")
    check_recall("cluster", options.recall)
    with join_processes(lambda: "nothing is written yet; start it again", "cluster") as processes:
        store = processes.together(lambda: _opened(options))
        found = cluster(
            store,
            eps=options.eps,
            k1=options.k1,
            k2=options.k2,
            min_samples=options.min_samples,
            engine=options.engine,
            recall=options.recall,
            processes=processes,
        )
        processes.once(lambda: found.write(options.out))
        if processes.first:
            print(printable(_said(options, found)))


def _opened(options: ClusterOptions) -> FeatureStore:
    store = FeatureStore(options.features, "cluster")
    if options.out.is_dir() or not options.out.absolute().parent.is_dir():
        what = "is a folder" if options.out.is_dir() else "is in no folder that exists"
        raise UserError(f"cluster: --out must be a CSV file to write, {options.out} {what}; name a file")
    return store


def _said(options: ClusterOptions, found: Clusters) -> str:
    about, images = found.about, len(found.store)
    radius = f"eps {options.eps:g}, k1 {options.k1}, k2 {options.k2}, min_samples {options.min_samples}"
    lines = [
        f"{images:,} images, {about['clusters']:,} clusters, {about['noise']:.1%} noise, at {radius}",
        f"images a cluster: {about['smallest']:,} to {about['largest']:,}, median {about['median']:g}",
    ]
    if not about["clusters"]:
        advice = "raise --eps" if options.min_samples <= images else f"lower --min-samples below {images + 1}"
        lines[1:] = [f"no image has {options.min_samples} neighbours; {advice}"]
    if found.approximation is not None:
        lines.append(f"neighbours by {options.engine}: {found.approximation}")
    for name, key in (("person", "id_purity"), ("camera", "camera_purity")):
        if about[key] is not None:
            lines.append(f"purity by {name}: {about[key]:.3f}")
    if found.without_direction:
        lines.append(
            f"note: {found.without_direction:,} of the {images:,} features are all zeros, which have no direction: "
            "their clusters say nothing of the images"
        )
    return "\n".join([*lines, f"written to {options.out}"])
