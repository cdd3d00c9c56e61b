"""The images of a run, read and looked through before anything is computed."""

from reference_pipelines.config.sections import DataConfig
from reference_pipelines.data import ReidData, read
from reference_pipelines.data.decoding import find_corrupt, without_corrupt
from reference_pipelines.data.joining import join
from reference_pipelines.data.records import PARTS
from reference_pipelines.distributed.processes import Processes
from reference_pipelines.errors import UserError

_WORTH_WORKERS = 2000  # images that this process decodes in about the time that workers take to start


def read_images(wanted: DataConfig, processes: Processes) -> tuple[ReidData, int]:
    """Return the images, and how many were left out because they do not decode.

    Raises:
        UserError: they cannot be read, or there is none to train on.
    """
    trained, tested = processes.together(lambda: _read_all(wanted))
    if not wanted.skip_corrupt:
        return join(trained, tested), 0

    def decoded(data: ReidData) -> ReidData:
        return processes.once(lambda: without_corrupt(data, workers=wanted.workers))

    kept = [decoded(data) for data in trained], None if tested is None else decoded(tested)
    whole = join(*kept)
    return whole, sum(len(join(trained, tested).part(part)) - len(whole.part(part)) for part in PARTS)


def read_wanted(wanted: DataConfig) -> ReidData:
    """Return the images that a config names, those that do not decode among them.

    Raises:
        UserError: they cannot be read, or there is none to train on.
    """
    return join(*_read_all(wanted))


def _read_all(wanted: DataConfig) -> tuple[list[ReidData], ReidData | None]:
    trained = [
        read(wanted.root, wanted.layout, wanted.split),
        *(read(root, None, wanted.split) for root in wanted.also),
    ]
    roots = [data.require("train", "train").root.resolve() for data in trained]
    again = [str(root) for root in dict.fromkeys(roots) if roots.count(root) > 1]
    if again:
        raise UserError(
            f"data: each set may be trained on once, {again[0]} is named twice; leave it out of --data.also"
        )
    if wanted.test is None:
        return trained, None
    return trained, read(wanted.test, None, wanted.split).require("train", "query", "gallery")


def check_the_same(root: str, fingerprint: str, before: str | None, processes: Processes) -> None:
    """Refuse other images than those of the other processes, or of the checkpoint.

    Args:
        root: where they lie.
        fingerprint: of the images.
        before: of the checkpoint's; None for a new run.
        processes: who trains together.

    Raises:
        UserError: they are others.
    """
    if not processes.agree(fingerprint):
        raise UserError(
            f"data: {root} must hold the same images for every process, and it does not; "
            "copy them to every machine alike, or share the folder"
        )
    if before not in (None, fingerprint):
        raise UserError(
            f"resume: the images in {root} must be those that the run was trained on (fingerprint {before}), "
            f"they are others (fingerprint {fingerprint}); give the right folder with --data.root, or train anew"
        )


def check_that_all_decode(data: ReidData, workers: int, processes: Processes) -> None:
    """Decode every training image once, before an epoch is spent on the others.

    Raises:
        UserError: one does not.
    """
    paths = list(dict.fromkeys(data.train.paths))

    def decode() -> None:
        corrupt = find_corrupt(processes.share(paths), workers=workers if len(paths) > _WORTH_WORKERS else 0)
        if corrupt:
            path, reason = corrupt[0]
            also = f" and {len(corrupt) - 1} more" if len(corrupt) > 1 else ""
            raise UserError(
                f"data: cannot read the image {path} ({reason}){also}, of the {len(paths):,} of train; replace or "
                "remove what does not decode (data verify names all), or train without it: --data.skip_corrupt true"
            )

    processes.together(decode)
