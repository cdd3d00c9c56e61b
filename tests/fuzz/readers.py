"""Every reader of a file, with a sound file for it and what must hold of whatever it takes."""

import csv
import dataclasses
import functools
import io
import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin

import numpy as np
import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from attnreid import attach, load_checkpoint, read_description, read_weights, save_checkpoint
from attnreid.files import read_bytes
from reference_pipelines.apnet.config import ApnetConfig
from reference_pipelines.claims.listing import read_claims
from reference_pipelines.claims.verdicts import Line, judge
from reference_pipelines.config.loading import keys_of, load_config
from reference_pipelines.data.layouts.find import examine
from reference_pipelines.data.layouts.find import read as read_data
from reference_pipelines.errors import UserError
from reference_pipelines.features import FeatureStore
from reference_pipelines.features.files import Meta
from reference_pipelines.features.writing import FeatureWriter, Listing
from reference_pipelines.ledger.chain import HEADS
from reference_pipelines.ledger.recording import record
from reference_pipelines.ledger.verifying import verify
from reference_pipelines.matching.calibration import calibrate
from reference_pipelines.mla.config import MlaConfig
from reference_pipelines.models.weights import StartingWeights
from reference_pipelines.pipelines.opening import open_run
from reference_pipelines.ranks.files import from_bytes, to_bytes
from reference_pipelines.reporting.report import write_report
from reference_pipelines.runs.checkpoints import read_checkpoint
from reference_pipelines.runs.description import Damaged, RunDescription, describe_file
from reference_pipelines.serving.calibration_file import read_calibration, write_calibration
from tests.checkpoints.forging import forge_file
from tests.data import miniatures
from tests.fuzz.mutants import Mutator, Reader, damage_bytes, damage_json, damage_safetensors, damage_text, damage_tree
from tests.ledger.support import cell, drawn, finished_run

_VALUE = (ValueError,)
_USER = (UserError,)


# The library's


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())


def _state() -> dict[str, Any]:
    return {"state_dict": {f"module.{key}": value for key, value in small_model().state_dict().items()}, "epoch": 3}


def _torch_file(folder: Path, *, zipped: bool) -> Path:
    path = folder / "weights.pth"
    torch.save(_state(), path, _use_new_zipfile_serialization=zipped)
    return path


def _foreign_safetensors(folder: Path) -> Path:
    path = folder / "weights.safetensors"
    save_file(_state()["state_dict"], path)
    return path


def _tensors_are_whole(expected: Any, weights: Any) -> None:
    assert all(isinstance(key, str) for key in weights.tensors)
    for value in weights.tensors.values():
        assert isinstance(value, torch.Tensor)
        if value.layout is torch.strided and not value.is_meta and value.numel():
            value.clone()  # all of its numbers are there
            last = sum((size - 1) * stride for size, stride in zip(value.shape, value.stride(), strict=True))
            room = value.untyped_storage().nbytes() // value.element_size()
            assert value.storage_offset() + last < room


def checkpoint(folder: Path) -> Path:
    model = small_model()
    attach(model, "rga_s", "2", input_size=(8, 4))
    save_checkpoint(model, folder / "model.safetensors", description={"epoch": 3})
    return folder / "model.safetensors"


def _load(path: Path) -> Any:
    model = small_model()
    load_checkpoint(model, path)
    return {key: value.tolist() for key, value in model.state_dict().items()}, read_description(path)


def _same(expected: Any, got: Any) -> None:
    assert got == expected, "a damaged file was taken for a sound one, and holds something else"


def _reforged(rng: Any, content: bytes) -> bytes:
    """Change the header of a checkpoint and make its digest fit."""
    path = Path(os.environ["FUZZ_SCRATCH"]) / "forged.safetensors"
    path.write_bytes(content)

    def header(plain: Any) -> str:
        try:
            return json.dumps(damage_tree(rng, plain))
        except (RecursionError, ValueError):
            return "[" * 20000

    try:
        forge_file(path, header=header)
    except Exception:  # safetensors writes no header with half of a surrogate pair
        return content
    return path.read_bytes()


def _loads_finitely(expected: Any, got: Any) -> None:
    tensors, description = got
    assert tensors.keys() == expected[0].keys()
    assert description is None or isinstance(description, dict)


# The pipelines'


def config_file(folder: Path, schema: type) -> Path:
    package = "apnet" if schema is ApnetConfig else "mla"
    path = folder / "recipe.yaml"
    recipes = Path(__file__).parents[2] / "reference_pipelines" / package / "recipes"
    tree = yaml.safe_load((recipes / "demo.yaml").read_text(encoding="utf-8"))
    tree.setdefault("data", {})["root"] = "images"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


def _damage_yaml(rng: Any, content: bytes) -> bytes:
    tree = damage_tree(rng, yaml.safe_load(content))
    try:
        return yaml.safe_dump(tree).encode()
    except (yaml.YAMLError, RecursionError, UnicodeError):
        return json.dumps(tree).encode()


def config_fits(schema: type, config: Any) -> None:
    """Each key's value is of its type, and every number is finite."""
    for key, option in keys_of(schema).items():
        value = functools.reduce(getattr, key.split("."), config)
        assert fits(value, option.kind), f"{key} is {value!r}, no {option.kind}"


def fits(value: Any, kind: Any) -> bool:
    parts = get_args(kind)
    if get_origin(kind) is Literal:
        return value in parts
    if get_origin(kind) is UnionType or type(None) in parts:
        return any(fits(value, part) for part in parts)
    if get_origin(kind) is tuple:
        if not isinstance(value, tuple):
            return False
        kinds = parts[:1] * len(value) if Ellipsis in parts else parts
        return len(kinds) == len(value) and all(map(fits, value, kinds))
    if kind is type(None) or value is None:
        return value is None and kind is type(None)
    if kind is float:
        return type(value) is float and math.isfinite(value)
    return isinstance(value, Path) if kind is Path else type(value) is kind


def _market_csv(folder: Path) -> Path:
    return miniatures.own_csv(folder)


def csv_is_right(expected: Any, data: Any) -> None:
    """The images are files, and the rows say what an independent reading of the table says."""
    table = data.root
    _parts_are_right(data)
    text = table.read_text(encoding="utf-8-sig")
    header = text.splitlines()[0].lower()
    separator = max(",;\t", key=header.count)
    rows = [
        {(name or "").strip().lower(): cell.strip() for name, cell in row.items()}
        for row in csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        if all(isinstance(cell, str) for cell in row.values())
    ]
    wanted = Counter(row.get("split", "train").lower() for row in rows if row.get("id") not in ("-1",))
    got = {part: len(data.part(part)) for part in ("train", "query", "gallery")}
    if "split" in (name.strip() for name in header.split(separator)):
        assert got["query"] == wanted["query"], (got, wanted)
        assert got["gallery"] == wanted["gallery"], (got, wanted)
        assert got["train"] + data.left_out == sum(row["split"].lower() == "train" for row in rows)


def _parts_are_right(data: Any) -> None:
    for part in ("train", "query", "gallery"):
        images = data.part(part)
        assert all(map(os.path.isfile, images.paths))
        assert len(images.paths) == len(images.ids) == len(images.cameras)
        assert (images.cameras >= 0).all()


def msmt17_list(folder: Path) -> Path:
    return miniatures.msmt17(folder, 1) / "list_train.txt"


def _msmt17_is_right(expected: Any, data: Any) -> None:
    _parts_are_right(data)
    home = data.root.resolve()
    for part in ("train", "query", "gallery"):
        images = data.part(part)
        for path, person, camera in zip(images.paths, images.ids.tolist(), images.cameras.tolist(), strict=True):
            assert path.resolve().is_relative_to(home)
            name = path.name.split("_")
            assert int(name[0]) == int(data.id_names[person])
            assert int(name[2]) == camera
        assert len(set(images.paths)) == len(images.paths)


def _rendered(folder: Path) -> Path:
    root = miniatures.market1501(folder)
    parameters = {"train_ids": 3, "test_ids": 2, "cameras": 6, "domain": "plaza", "occluded": False}
    manifest = {
        "renderer": 1,
        "parameters": parameters,
        "files": 74,
        "counts": {"train": 36, "query": 12, "gallery": 26},
    }
    (root / "rendered.json").write_text(json.dumps(manifest))
    return root / "rendered.json"


def _describes(path: Path) -> Any:
    reading = examine(path.parent)
    return reading.data.describe() | {"problems": len(reading.problems), "data": reading.data}


def _description_is_right(expected: Any, got: Any) -> None:
    assert got["fingerprint"] == expected["fingerprint"]
    assert isinstance(got["name"], str)
    _parts_are_right(got["data"])


def ledger(folder: Path) -> Path:
    for number in range(3):
        run = finished_run(folder / f"run{number}", number)
        record(folder / "ledger", "apnet.table2-demo-seed1", run, cell=cell(row=("APNet-C_2", "APNet_0")[number % 2]))
    return folder / "ledger"


def _verified(path: Path) -> Any:
    checked = verify(path.parent)
    lines = [Line(each.path, entry) for each in checked if each.sound for entry in each.entries]
    if lines:
        judge(read_claims(), lines, "demo", selection="last")
    return all(each.sound for each in checked), [entry.to_line() for each in checked for entry in each.entries]


def _ledger_is_right(expected: Any, got: Any) -> None:
    sound, lines = got
    if sound:
        assert lines == expected[1][: len(lines)], "a changed line was found sound"


def _ranks_file(folder: Path) -> Path:
    (folder / "ranks.npz").write_bytes(to_bytes(drawn(0)))
    return folder / "ranks.npz"


def _ranks_are_right(expected: Any, got: Any) -> None:
    ranks, precision = got
    assert ranks.fault() is None
    assert np.isfinite(ranks.ranked.average_precision()).all()
    assert isinstance(precision, np.ndarray)


def result_to_record(folder: Path) -> Path:
    return finished_run(folder / "run", 1) / "result.json"


def _recorded(path: Path) -> Any:
    out = path.parent.parent / "recorded"
    shutil.rmtree(out, ignore_errors=True)
    record(out, "apnet.table2-demo-seed1", path.parent, cell=cell())
    return all(each.sound for each in verify(out))


def _is_true(expected: Any, got: Any) -> None:
    assert got is True


def store(folder: Path) -> Path:
    images = [miniatures.draw(folder / "images" / f"{number}.jpg") for number in range(6)]
    listing = Listing(str(folder), tuple(images), np.arange(6) // 2 + 1, np.arange(6) % 2 + 1)
    meta = Meta({"digest": "ab"}, "APNet", 4, str(folder), 6, listing.digest())
    with FeatureWriter(folder / "store", meta, listing) as writer:
        features = np.eye(6, 4, dtype=np.float32) + 0.1
        writer.add(features / np.linalg.norm(features, axis=1, keepdims=True))
        writer.finish()
    return folder / "store"


def _store_is_right(expected: Any, got: Any) -> None:
    assert got.features.shape == (got.meta.rows, got.meta.dim)
    assert len(got.paths) == len(got) == len(got.features)
    assert np.asarray(got.features).dtype == np.float32
    for numbers in (got.ids, got.cameras):
        assert numbers is None or (numbers.dtype == np.int64 and numbers.shape == (len(got),))


MODEL = {"digest": "ab", "flip": True}


def calibration(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(1, 31), 2)
    features = rng.normal(size=(30, 8))[people - 1] + 0.3 * rng.normal(size=(60, 8))
    found = calibrate(features, people, rates=(0.2,), replicates=20)
    path = folder / "model.calibration.json"
    write_calibration(path, found, model=MODEL, about={"data": {"name": "x", "part": "test"}}, who="calibrate")
    return path


def _judged(path: Path) -> Any:
    found = read_calibration(path, MODEL, "same")
    rate = found.calibration.pooled.points[0].rate if found.calibration.pooled.points else 0.2
    try:
        return found.calibration.judge(0.5, rate=rate, cameras=(1, 2))
    except ValueError as error:
        raise UserError(str(error)) from None  # as the command does


def _verdict_is_right(expected: Any, verdict: Any) -> None:
    assert isinstance(verdict.same, bool)
    assert math.isfinite(verdict.threshold)
    assert verdict.same == (verdict.threshold <= 0.5)
    assert verdict.probability is None or 0 <= verdict.probability <= 1


# Runs: a trained one, made once (see conftest.py), is copied.


def of_run(run: Path, name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        shutil.copytree(run, folder / "run", dirs_exist_ok=True)
        return folder / "run" / name

    return make


def _evaluation(run: Path) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        result = json.loads((of_run(run, "result.json")(folder)).read_text())
        scores = {**{f"rank{k}": 0.5 for k in (1, 5, 10, 20)}, "mAP": 0.5, "interval": [0.4, 0.6], "mINP": 0.2}
        scores |= {"mAP_market": 0.4}
        told = {
            **{key: result[key] for key in ("title", "pipeline", "chance", "config", "command", "commit", "code")},
            **{"trained_on": result["data"], "tested_on": result["data"], "scores": scores, "flip": True},
            **{"weights": {"name": "model", "digest": "ab"}, "reranked": False, "remarks": ["a remark"]},
            **{"hardware": result["hardware"], "versions": result["versions"], "image_size": [32, 16], "seconds": 1.0},
        }
        path = folder / "run" / "evaluations" / "one.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(told))
        return path

    return make


def _reported(path: Path) -> str:
    folder = path if path.is_dir() else next(parent for parent in path.parents if (parent / "config.yaml").exists())
    out = folder.parent / "report.html"
    write_report([folder], out)
    return out.read_text(encoding="utf-8")


def _page_is_whole(expected: Any, page: str) -> None:
    assert page.rstrip().endswith("</html>")
    assert "<script>alert" not in page


def _opened(path: Path) -> Any:
    folder = next(parent for parent in path.parents if (parent / "config.yaml").exists())
    run = open_run(folder)
    return run.pipeline, run.config, run.model


def _run_is_right(expected: Any, got: Any) -> None:
    assert got[0] == expected[0]
    assert got[1].data.image_size == expected[1].data.image_size
    mine, theirs = got[2].state_dict(), expected[2].state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)


def _newest(run: Path) -> str:
    places = sorted((run / "checkpoints").glob("epoch-*"))
    return f"checkpoints/{places[-1].name}"


def _training_state(path: Path) -> Any:
    state = read_checkpoint(path.parent).state
    return json.dumps(state.to_json()), {name: value.tolist() for name, value in state.tensors().items()}


def _description(path: Path) -> RunDescription:
    return describe_file(path)[0]


def _description_fits(expected: Any, got: RunDescription) -> None:
    for each in dataclasses.fields(got):
        assert type(getattr(got, each.name)) in (type(getattr(expected, each.name)), type(None), int, str, dict, float)


def _starting(path: Path) -> Any:
    from reference_pipelines.config.sections import ModelConfig
    from reference_pipelines.models.sources import build_network

    torch.manual_seed(1)
    network = build_network(ModelConfig(backbone="resnet_demo", weights="none"), (32, 16), print)
    network.fc = nn.Identity()
    found = StartingWeights.find(path, network)
    found.into_backbone(network)
    return {key: value.shape for key, value in network.state_dict().items()}


def library_readers() -> list[Reader]:
    """Return the readers of weights and checkpoints."""
    raw: tuple[Mutator, ...] = (damage_bytes,)
    return [
        Reader(
            "read_weights: torch.save",
            lambda folder: _torch_file(folder, zipped=True),
            read_weights,
            _tensors_are_whole,
            _VALUE,
            raw,
            2.0,
        ),
        Reader(
            "read_weights: torch.save, old form",
            lambda folder: _torch_file(folder, zipped=False),
            read_weights,
            _tensors_are_whole,
            _VALUE,
            raw,
            2.0,
        ),
        Reader(
            "read_weights: safetensors",
            _foreign_safetensors,
            read_weights,
            _tensors_are_whole,
            _VALUE,
            (damage_bytes, damage_safetensors),
            2.0,
        ),
        Reader("load_checkpoint: its bytes", checkpoint, _load, _same, _VALUE, (damage_bytes, damage_safetensors), 2.0),
        Reader("load_checkpoint: its header", checkpoint, _load, _loads_finitely, _VALUE, (_reforged,), 2.0),
    ]


def pipeline_readers() -> list[Reader]:
    """Return the readers of configs, data sets, ledgers, features and calibrations."""
    text, tree = (damage_bytes, damage_text), (damage_bytes, damage_text, damage_json, damage_json)
    return [
        *(
            Reader(
                f"config: {schema.__name__}",
                functools.partial(config_file, schema=schema),
                lambda path, schema=schema: load_config(schema, [f"--config={path}"]),
                lambda expected, config, schema=schema: config_fits(schema, config),
                _USER,
                (damage_bytes, damage_text, damage_text, _damage_yaml),
                1.5,
            )
            for schema in (ApnetConfig, MlaConfig)
        ),
        Reader("data: CSV", _market_csv, read_data, csv_is_right, _USER, text, 2.0),
        Reader("data: list of MSMT17", msmt17_list, lambda path: read_data(path.parent), _msmt17_is_right, _USER, text),
        Reader("data: rendered.json", _rendered, _describes, _description_is_right, _USER, tree),
        Reader(
            "ledger: lines",
            lambda folder: next(ledger(folder).glob("*.jsonl")),
            _verified,
            _ledger_is_right,
            _USER,
            (damage_bytes, damage_text, damage_json, damage_json),
            2.0,
        ),
        Reader("ledger: heads", lambda folder: ledger(folder) / HEADS, _verified, _ledger_is_right, _USER, tree),
        Reader(
            "ledger: ranks",
            lambda folder: next(ledger(folder).glob("*.ranks")),
            _verified,
            _ledger_is_right,
            _USER,
            text,
        ),
        Reader(
            "ranks.npz", _ranks_file, lambda path: from_bytes(read_bytes(path)), _ranks_are_right, _VALUE, text, 2.0
        ),
        Reader("ledger: result.json", result_to_record, _recorded, _is_true, _USER, tree),
        Reader(
            "features: meta.json",
            lambda folder: store(folder) / "meta.json",
            _opened_store,
            _store_is_right,
            _USER,
            tree,
        ),
        Reader(
            "features: table.csv",
            lambda folder: store(folder) / "table.csv",
            _opened_store,
            _store_is_right,
            _USER,
            text,
        ),
        Reader(
            "features: features.npy",
            lambda folder: store(folder) / "features.npy",
            _opened_store,
            _store_is_right,
            _USER,
            text,
        ),
        Reader("calibration", calibration, _judged, _verdict_is_right, _USER, tree),
    ]


def _opened_store(path: Path) -> FeatureStore:
    return FeatureStore(path.parent)


def run_readers(run: Path) -> list[Reader]:
    """Return the readers of a run's folder."""
    text, tree = (damage_bytes, damage_text), (damage_bytes, damage_text, damage_json, damage_json)
    state = f"{_newest(run)}/training.safetensors"
    return [
        Reader("report: result.json", of_run(run, "result.json"), _reported, _page_is_whole, _USER, tree),
        Reader("report: log.jsonl", of_run(run, "log.jsonl"), _reported, _page_is_whole, _USER, tree, 0.7),
        Reader("report: examples.json", of_run(run, "examples.json"), _reported, _page_is_whole, _USER, tree, 0.7),
        Reader("report: attention.npz", of_run(run, "attention.npz"), _reported, _page_is_whole, _USER, text, 0.5),
        Reader("report: evaluations", _evaluation(run), _reported, _page_is_whole, _USER, tree, 0.7),
        Reader(
            "open_run: config.yaml",
            of_run(run, "config.yaml"),
            _opened,
            _run_is_right,
            _USER,
            (*text, _damage_yaml),
            0.5,
        ),
        Reader("open_run: result.json", of_run(run, "result.json"), _opened, _run_is_right, _USER, tree, 0.5),
        Reader(
            "open_run: weights",
            of_run(run, "model.safetensors"),
            _opened,
            _run_is_right,
            _USER,
            (damage_bytes, damage_safetensors),
            0.3,
        ),
        Reader(
            "resume: training.safetensors",
            of_run(run, state),
            _training_state,
            _same,
            (Damaged,),
            (damage_bytes, damage_safetensors),
            0.3,
        ),
        Reader(
            "describe: a checkpoint's description",
            of_run(run, "model.safetensors"),
            _description,
            _description_fits,
            (Damaged,),
            (_reforged,),
            0.3,
        ),
        Reader(
            "model.weights: a run's file",
            of_run(run, "model.safetensors"),
            _starting,
            _same,
            _USER,
            (damage_bytes, damage_safetensors),
            0.3,
        ),
    ]
