"""What each command takes; imports nothing that takes time, so that help and a mistyped word are answered at once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from attnreid.command_line import typed
from reference_pipelines.config.clustering import Engine
from reference_pipelines.config.sections import Device
from reference_pipelines.errors import UserError
from reference_pipelines.ledger.entry import Selection


@dataclass(frozen=True)
class DemoOptions:
    """Both papers, small.

    Args:
        out: folder of the runs and the report.
    """

    out: Path = Path("runs/demo")


@dataclass(frozen=True)
class EvaluateOptions:
    """A trained network, and what may differ from its own evaluation.

    Args:
        checkpoint: run folder, or a weights file in it.
        data: folder or CSV file of the data set to test on; the run's own when left out, which must still have the
            same images.
        layout: name of its layout; found by content when left out.
        flip: add the features of each image's mirror, or --no-flip; as trained if left out.
        rerank: re-rank by k-reciprocal encoding.
        camera_pairs: print mAP by the query's and the match's camera too.
        open_set: add how well a threshold tells people apart: FNMR at false-match rates, TPIR at false-positive rates,
            and how a stored calibration holds here.
        single_shot: add CUHK03's CMC with one gallery image a person, drawn so often; published code draws 10 or 100.
        top_k: add what the K nearest images of each query alone say: CMC, and bounds of mAP.
        engine: that finds these; exact, or an index of faiss, whose scores are estimates.
        recall: the part of these that an index is to find.
        workers: processes that decode images; 0 decodes in the main one; as trained if left out.
        batch_size: images a batch; as trained if left out.
        skip_corrupt: leave out images that do not decode, instead of stopping at the first.
        json: print the scores as JSON instead of tables.
        device: where to compute.
        out: JSON file; among the run's evaluations, where `report` finds it, when left out.
    """

    checkpoint: Path = typed(word="RUN_DIR")
    data: str | None = typed(None, metavar="DIR")
    layout: str | None = None
    flip: bool | None = None
    rerank: bool = False
    camera_pairs: bool = False
    open_set: bool = False
    single_shot: int = typed(0, metavar="DRAWS", least=0)
    top_k: int | None = typed(None, metavar="K", least=1)
    engine: Engine = "exact"
    recall: float = 0.99
    workers: int | None = typed(None, least=0)
    batch_size: int | None = typed(None, least=1)
    skip_corrupt: bool = False
    json: bool = False
    device: Device = "auto"
    out: Path | None = None


@dataclass(frozen=True)
class ExtractOptions:
    """Images whose features are wanted.

    Args:
        model: run folder, or a weights file.
        images: folder or CSV file of a data set, or any folder with images in it.
        out: folder of the features; one that was begun is gone on with.
        part: of the data set; images takes the files of a folder without looking for a data set.
        layout: name of the data set's layout; found by content when left out.
        flip: add the features of each image's mirror, or --no-flip; as trained if left out.
        workers: processes that decode images; 0 decodes in the main one; as many as cores, up to 8, if left out.
        batch_size: images a batch; as trained if left out.
        device: where to compute.
    """

    model: Path = typed(word="MODEL")
    images: Path = typed(word="FOLDER|CSV")
    out: Path = typed(metavar="FEATURES")
    part: Literal["all", "train", "query", "gallery", "images"] = "all"
    layout: str | None = None
    flip: bool | None = None
    workers: int | None = typed(None, least=0)
    batch_size: int | None = typed(None, least=1)
    device: Device = "auto"


@dataclass(frozen=True)
class ExplainOptions:
    """A trained network, and images that it is asked about.

    Args:
        model: run folder, or a weights file.
        images: image files.
        against: an image of the same person, or of another: explain the similarity to it instead of the classifier's
            score, which networks trained without labels don't have.
        out: folder of the pictures and the page; what has the same name there is replaced.
        json: print the numbers as JSON instead of a table.
        device: where to compute.
    """

    model: Path = typed(word="MODEL")
    images: tuple[Path, ...] = typed(word="IMAGE")
    against: Path | None = typed(None, metavar="IMAGE")
    out: Path = typed(Path("explained"), metavar="FOLDER")
    json: bool = False
    device: Device = "auto"


@dataclass(frozen=True)
class ExportOptions:
    """A trained network, and the files to write.

    Args:
        model: run folder, or a weights file.
        onnx: ONNX file to write.
        torch_export: file to write with torch.export.save.
        fold: fold attention first, the same features from fewer operations.
        preprocessing: outside, images come resized and normalised, or inside, as uint8 RGB of the network's size, which
            are normalised in the file; resizing stays outside.
        flip: add the features of each image's mirror, or --no-flip; as trained if left out.
    """

    model: Path = typed(word="MODEL")
    onnx: Path | None = typed(None, metavar="FILE")
    torch_export: Path | None = typed(None, metavar="FILE")
    fold: bool = False
    preprocessing: Literal["outside", "inside"] = "outside"
    flip: bool | None = None


@dataclass(frozen=True)
class SearchOptions:
    """Images to search for, and where.

    Args:
        queries: run folder or weights file that computes the queries' features, or a folder of features whose rows
            are the queries.
        query: image files; of a folder of features, those of its images that are meant, all if left out.
        gallery: folder of features to search in.
        top: images to list for each query.
        engine: exact, or an index of faiss, which proposes the images of more than 1,000 queries and may miss some.
        recall: the part of the most alike images that an index is to find.
        json: print the ranking as JSON instead of a table.
        html: file for a page with the pictures.
        device: where to compute the queries' features.
    """

    queries: Path = typed(word="MODEL|FEATURES", like=lambda word: Path(word).is_dir())
    gallery: Path = typed(metavar="FEATURES")
    query: tuple[Path, ...] = typed((), metavar="IMAGE")
    top: int = typed(10, least=1)
    engine: Engine = "exact"
    recall: float = 0.99
    json: bool = False
    html: Path | None = typed(None, metavar="FILE")
    device: Device = "auto"


@dataclass(frozen=True)
class ClusterOptions:
    """Features to cluster; the defaults are MLA's.

    Args:
        features: folder of features.
        out: CSV file of each image's cluster, -1 for noise.
        eps: the largest Jaccard distance of two neighbours, above 0 and below 1.
        k1: neighbours of the k-reciprocal Jaccard distance, about the images of a person.
        k2: neighbours of its query expansion, at most k1.
        min_samples: neighbours that make a core point, the point itself counted.
        engine: that finds the neighbours: exact, or an index of faiss that proposes them of more than 1,000 images.
        recall: the part of the neighbours that an index is to find.
    """

    features: Path = typed(word="FEATURES")
    out: Path = typed(metavar="FILE")
    eps: float = 0.4
    k1: int = typed(30, least=1)
    k2: int = typed(6, least=1)
    min_samples: int = typed(4, least=1)
    engine: Engine = "exact"
    recall: float = 0.99


@dataclass(frozen=True)
class CheckResultOptions:
    """A ledger to look through.

    Args:
        file: a slice's .jsonl file, or a ledger's folder.
        json: print what was found as JSON instead of a table.
    """

    file: Path = typed(word="FILE")
    json: bool = False


@dataclass(frozen=True)
class ClaimsOptions:
    """A ledger that the papers' claims are judged by.

    Args:
        ledger: its folder, or a slice's .jsonl file.
        scale: of the runs that count; every scale in the ledger when left out.
        selection: by which rule their weights were chosen.
        json: print every claim with its verdict as JSON instead of tables.
        out: CSV file of every claim with its verdict.
    """

    ledger: Path = typed(word="LEDGER")
    scale: str | None = None
    selection: Literal["last", "held_out"] = "last"
    json: bool = False
    out: Path | None = typed(None, metavar="FILE")


@dataclass(frozen=True)
class CalibrateOptions:
    """A trained network, and the people that its thresholds are found on.

    Args:
        model: run folder, or a weights file.
        data: folder or CSV file of a data set, of people whom the network was not trained on.
        part: of the data set; test is query and gallery together.
        layout: name of its layout; found by content when left out.
        rate: false-match rates, each above 0 and below 1.
        flip: add the features of each image's mirror, or --no-flip; as trained if left out.
        seed: of the resamples.
        json: print the calibration as JSON instead of tables.
        workers: processes that decode images; 0 decodes in the main one; as many as cores, up to 8, if left out.
        batch_size: images a batch; as trained if left out.
        device: where to compute.
    """

    model: Path = typed(word="MODEL")
    data: Path = typed(metavar="DIR")
    part: Literal["test", "train", "all"] = "test"
    layout: str | None = None
    rate: tuple[float, ...] = (1e-2, 1e-3, 1e-4)
    flip: bool | None = None
    seed: int = typed(0, least=0)
    json: bool = False
    workers: int | None = typed(None, least=0)
    batch_size: int | None = typed(None, least=1)
    device: Device = "auto"


@dataclass(frozen=True)
class SameOptions:
    """Two images, and how often two people may be taken for one.

    Args:
        model: run folder, or a weights file, calibrated.
        a: one image.
        b: the other.
        rate: false-match rate, one that was calibrated.
        cameras: numbers of the cameras that took the two; a pair may have thresholds of its own.
        prior: part of the pairs that show one person, before looking; it moves the probability alone.
        gallery: folder of features of the place where the question comes up, to say whether it looks unlike the
            calibration's images.
        flip: as it was calibrated; as trained if left out.
        json: print the verdict as JSON.
        device: where to compute.
    """

    model: Path = typed(word="MODEL")
    a: Path = typed(word="A")
    b: Path = typed(word="B")
    rate: float = 0.01
    cameras: tuple[int, int] | None = None
    prior: float = 0.5
    gallery: Path | None = typed(None, metavar="FEATURES")
    flip: bool | None = None
    json: bool = False
    device: Device = "auto"


@dataclass(frozen=True)
class ReportOptions:
    """Runs to report on.

    Args:
        runs: run folders.
        out: the HTML file.
        title: heading of the page.
        no_images: leave every pixel of the data's images out of the page; names, people and cameras stay.
        ledger: folder of a ledger whose lines about these runs are shown and checked.
    """

    runs: tuple[Path, ...] = typed(word="RUN_DIR")
    out: Path = Path("report.html")
    title: str = "attnreid report"
    no_images: bool = False
    ledger: Path | None = typed(None, metavar="DIR")


@dataclass(frozen=True)
class ReproduceOptions:
    """An experiment of a paper.

    Args:
        experiment: its name, or "list" for all of them.
        scale: demo (rendered, small), gpu (rendered, Market-1501's size) or paper.
        seeds: trainings of each row.
        select: rules by which the weights are chosen, a column each: the last epoch; held_out, the epoch that is best
            on training people who are left out of training; oracle, the epoch that is best on the test set itself.
        only: names of rows, of data sets or of both; all when left out.
        data_root: folder that holds the papers' data sets, at the scale paper.
        dry_run: say what would be run and end.
        json: print the list, what would be run, or the table as JSON.
        out: folder of runs, images, tables and the ledger; what is there already is taken over.
    """

    experiment: str = typed(word="EXPERIMENT")
    scale: Literal["demo", "gpu", "paper"] = "demo"
    seeds: int = typed(1, least=1)
    select: tuple[Selection, ...] = ("last",)
    only: tuple[str, ...] = typed((), metavar="NAME")
    data_root: Path | None = typed(None, name="--data.root", metavar="DIR")
    dry_run: bool = False
    json: bool = False
    out: Path = Path("runs/reproduce")


@dataclass(frozen=True)
class RenderOptions:
    """A set of rendered pedestrians.

    Args:
        root: folder to write.
        size: tiny, small or market.
        domain: plaza or mall.
        occluded: hide part of the person in every query.
        image_size: height and width.
        seed: another one gives other people and cameras.
        workers: processes that draw; 0 draws in the main one; chosen by cores and images when left out.
    """

    root: Path = typed(word="DIR")
    size: str = "tiny"
    domain: str = "plaza"
    occluded: bool = False
    image_size: tuple[int, int] = typed((128, 64), least=1)
    seed: int = typed(0, least=0)
    workers: int | None = typed(None, least=0)


@dataclass(frozen=True)
class VerifyOptions:
    """A data set to look through.

    Args:
        root: the data set's folder, or a CSV file.
        layout: name of its layout; found by content when left out.
        json: print everything as JSON instead of tables.
        workers: processes that decode images; 0 decodes in the main one; all cores when left out.
    """

    root: Path = typed(word="DIR")
    layout: str | None = None
    json: bool = False
    workers: int | None = typed(None, least=0)


@dataclass(frozen=True)
class DifficultyOptions:
    """A data set to score baselines on.

    Args:
        root: the data set's folder, or a CSV file.
        layout: name of its layout; found by content when left out.
        run: a run folder; repeatable.
        json: print the rows as JSON instead of a table.
        workers: processes that decode images; 0 decodes in the main one.
        device: where to compute.
    """

    root: Path = typed(word="DIR")
    layout: str | None = None
    run: tuple[Path, ...] = typed((), repeatable=True)
    json: bool = False
    workers: int = typed(0, least=0)
    device: Device = "auto"


def check_recall(who: str, recall: float) -> None:
    """Refuse a recall that no search can have.

    Raises:
        UserError: it is none.
    """
    if not 0 < recall <= 1:
        raise UserError(f"{who}: --recall must be above 0 and at most 1, got {recall:g}; 0.99 is the default")
