"""What generated input has found, each as a case by itself: before, an error from a library below, or a hang."""

import json
import math
import os

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from attnreid import (
    AttentionPyramid,
    SqueezeExcitation,
    attach,
    attach_apnet,
    attach_mla,
    attach_pyramid,
    attach_se,
    create_attention,
    find_sites,
    list_attention,
    load_checkpoint,
    plan_pyramid,
    save_checkpoint,
    set_last_stride,
)
from attnreid.command_line.values import convert
from attnreid.files import open_file, parse_json, read_json, read_text
from reference_pipelines.apnet.config import ApnetConfig
from reference_pipelines.arrays import load_arrays
from reference_pipelines.config.loading import load_config
from reference_pipelines.errors import UserError
from reference_pipelines.features import FeatureStore
from reference_pipelines.ledger.chain import read_heads
from reference_pipelines.ledger.recording import record
from reference_pipelines.ledger.verifying import verify
from reference_pipelines.pipelines import PIPELINES
from reference_pipelines.reproduction.demo import _forget_other_code
from reference_pipelines.serving.calibration_file import read_calibration
from tests.checkpoints.forging import forge_file
from tests.fuzz import attaching, readers
from tests.fuzz.harness import fault_of, time_limit
from tests.fuzz.layers import takes_size
from tests.ledger.support import cell, finished_run

DEEP = "[" * 5000 + "]" * 5000


# Files


@pytest.mark.parametrize(
    ("make", "kind"), [(os.mkfifo, "a pipe"), (lambda path: path.symlink_to("/dev/zero"), "a device")]
)
def test_a_file_is_asked_for_and_nobody_is_waited_for(make, kind, tmp_path):
    make(tmp_path / "x")
    for read in (open_file, read_text, read_json):
        with time_limit(5), pytest.raises(OSError, match=f"{kind}, where a file is needed"):
            read(tmp_path / "x")
    with pytest.raises(IsADirectoryError):
        open_file(tmp_path)


def test_text_is_read_as_before(tmp_path):
    (tmp_path / "x").write_bytes("é\r\nb\rc\n".encode())
    assert read_text(tmp_path / "x") == (tmp_path / "x").read_text(encoding="utf-8") == "é\nb\nc\n"


def test_json_is_nested_a_hundred_deep_at_most():
    for text in (DEEP, '{"a":' * 5000 + "1" + "}" * 5000, "[" * 101 + "]" * 101):
        with pytest.raises(ValueError, match="nested more than 100 deep"):
            parse_json(text)
    assert parse_json("[" * 99 + "1" + "]" * 99) != []


# YAML

BOMB = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9) if n else 'x'}]" for n in range(12))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BOMB, "its aliases make more than 10,000 values of it"),
        ("title: x\ndata: &a {root: *a}", "aliases"),
        ("title: &a [*a]", "aliases"),
        ("title: 2020-99-99", "month must be in 1..12"),
        ("title: !!bool x", "not valid YAML"),
        ("title: !!timestamp x", "not valid YAML"),
        ("seed: 0x" + "f" * 5000, "line 1 has a number of 5,002 digits"),
        ("title: " + DEEP[3500:-3500], "not valid YAML"),
    ],
)
def test_a_recipe_that_is_no_plain_data(text, reason, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with time_limit(5), pytest.raises(UserError, match=r"config: .*recipe\.yaml is not valid YAML \(") as caught:
        load_config(ApnetConfig, [f"--config={path}"])
    assert reason in str(caught.value)


@pytest.mark.parametrize("value", [3, {"a": 1}, True])
def test_a_list_of_texts_that_is_none(value):
    with pytest.raises(ValueError, match="is no list"):
        convert(tuple[str, ...], value)


def test_a_number_beyond_floats():
    with pytest.raises(ValueError, match="is too large a number"):
        convert(float, 10**400)


# Layers, the registry


@pytest.mark.parametrize("name", list_attention())
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dtype": torch.int64}, "dtype must be a floating-point dtype, got torch.int64"),
        ({"dtype": "float32"}, "dtype must be a floating-point dtype, got 'float32'"),
        ({"device": 3.5}, "device must be a torch.device or a name, got 3.5"),
        ({"device": "nowhere"}, "device must be one that torch knows, got 'nowhere'"),
    ],
)
def test_device_and_dtype(name, wrong, message):
    size = {"size": (4, 2)} if takes_size(name) else {}
    with pytest.raises((TypeError, ValueError), match=message):
        create_attention(name, 8, **size, **wrong)


def test_counts_beyond_tensors():
    for value in (2**31, 2**63):
        with pytest.raises(ValueError, match=r"channels must be below 2\*\*31"):
            SqueezeExcitation(value)
        with pytest.raises(ValueError, match=r"the height in size must be below 2\*\*31"):
            create_attention("head", 8, size=(value, 1))


def test_names_and_options_that_are_needed():
    with pytest.raises(TypeError, match="the name must be a string, got None"):
        create_attention(None, 8)
    with pytest.raises(TypeError, match="attention 'head': size must be given, got none: pass size="):
        create_attention("head", 8)


# Models


@pytest.mark.parametrize("model", [None, nn.ReLU, "model"])
def test_a_model_is_a_module(model, tmp_path):
    size = {"input_size": (8, 4)}
    calls = [
        lambda: find_sites(model, **size),
        lambda: attach(model, "se", "0", **size),
        *(
            lambda preset=preset: preset(model, **size)
            for preset in (attach_apnet, attach_pyramid, attach_mla, attach_se)
        ),
        lambda: set_last_stride(model),
        lambda: save_checkpoint(model, tmp_path / "x"),
        lambda: load_checkpoint(model, tmp_path / "x"),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=r"the model must be an nn\.Module, got"):
            call()
    assert list(tmp_path.iterdir()) == []


def test_arguments_of_attach():
    model = readers.small_model()
    for attention in (None, nn.ReLU()):
        with pytest.raises(TypeError, match="attention must be a registered name"):
            attach(model, attention, "2", input_size=(8, 4), reduction=2)
    for inputs in (3, ("x",)):
        with pytest.raises(TypeError, match="example_inputs must be a sequence of tensors"):
            attach(model, "se", "2", example_inputs=inputs)


@pytest.mark.parametrize("size", [(8,), "88", (3, 3, 64, 32), (64.0, 32)])
def test_the_input_size_of_set_last_stride(size):
    with pytest.raises(ValueError, match=r"input_size must be \(height, width\) or"):
        set_last_stride(readers.small_model(), input_size=size)


# Checkpoints


@pytest.mark.parametrize("call", [True, [], 3, "x"])
def test_a_header_whose_call_is_none(call, tmp_path):
    path = readers.checkpoint(tmp_path)
    forge_file(path, header=lambda header: {**header, "attachments": [{**header["attachments"][0], "call": call}]})
    with pytest.raises(ValueError, match="must have a header of format 2, got one that does not read"):
        load_checkpoint(readers.small_model(), path)


def test_a_header_that_is_deep(tmp_path):
    path = readers.checkpoint(tmp_path)
    forge_file(path, header=lambda header: DEEP)
    with pytest.raises(ValueError, match="nested more than 100 deep"):
        load_checkpoint(readers.small_model(), path)


def test_what_torch_says_of_an_option_is_one_sentence(tmp_path):
    path = readers.checkpoint(tmp_path)

    def header(plain):
        (one,) = plain["attachments"]
        options = {**one["call"]["options"], "input_size": [2**31, 2**31]}
        return {**plain, "attachments": [{**one, "call": {**one["call"], "options": options}}]}

    forge_file(path, header=header)
    with pytest.raises(ValueError, match="attach failed with") as caught:
        load_checkpoint(readers.small_model(), path)
    assert fault_of(caught.value, (ValueError,)) is None


def test_arguments_of_checkpoints(tmp_path):
    with pytest.raises(TypeError, match=r"the description must be a dict, got \[1\]"):
        save_checkpoint(nn.Linear(1, 1), tmp_path / "x", description=[1])
    save_checkpoint(nn.Linear(1, 1), tmp_path / "x")
    with pytest.raises(TypeError, match="prefix must be a string, got 3"):
        load_checkpoint(nn.Linear(1, 1), tmp_path / "x", prefix=3)


# Features, calibrations, ledgers


@pytest.mark.parametrize(
    "change", [{"images": {}}, {"dim": "4"}, {"rows": -1}, {"finished": 1}, {"model": 3}, {"done": math.inf}]
)
def test_a_stores_description(change, tmp_path):
    path = readers.store(tmp_path) / "meta.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=r"must be a folder that `extract` has written"):
        FeatureStore(path.parent)


def test_features_that_are_no_array(tmp_path):
    path = readers.store(tmp_path) / "features.npy"
    header = path.read_bytes()
    np.savez(path.with_suffix(".npz"), a=np.zeros(3))
    for content in (path.with_suffix(".npz").read_bytes(), header.replace(b"shape", b"sh(pe"), header[:60]):
        path.write_bytes(content)
        with pytest.raises(UserError, match="must be those of one `extract`"):
            FeatureStore(path.parent)


@pytest.mark.parametrize(
    "change",
    [{"people": math.inf}, {"people": {}}, {"points": [{"interval": [10**400, 1], "fnmr_interval": None}]}],
    ids=["infinite", "dict", "beyond floats"],
)
def test_a_calibration_with_numbers_that_are_none(change, tmp_path):
    path = readers.calibration(tmp_path)
    content = json.loads(path.read_text())
    content["calibration"]["pooled"] |= change
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="must be a calibration"):
        read_calibration(path, readers.MODEL, "same")


@pytest.mark.parametrize(
    "text", [DEEP, '{"a": {"lines": Infinity, "head": "x"}}', '{"a": []}', '{"../a": {"lines": 1, "head": "x"}}']
)
def test_an_index_that_is_none(text, tmp_path):
    (tmp_path / "heads.json").write_text(text)
    with pytest.raises(UserError, match="must be the index of a ledger"):
        read_heads(tmp_path)


def _changed(result: dict, key: str, value: object) -> dict:
    section, _, name = key.partition(".")
    return {**result, section: {**result[section], name: value}} if name else {**result, section: value}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ranks.sha256", None),
        ("ranks.file", "../ranks.npz"),
        ("ranks.file", 3),
        ("ranks", []),
        ("config", []),
        ("config", {"seed": 0}),
        ("config.evaluation", None),
        ("data", None),
        ("final.mAP", 10**400),
        ("final", []),
        ("title", 3),
        ("remarks", 3),
        ("unfinished", True),
        ("unfinished", {"epoch": 1}),
    ],
)
def test_a_result_that_cannot_be_recorded(key, value, tmp_path):
    folder = finished_run(tmp_path / "run")
    path = folder / "result.json"
    path.write_text(json.dumps(_changed(json.loads(path.read_text()), key, value)))
    with pytest.raises(UserError, match="^ledger: ") as caught:
        record(tmp_path / "ledger", "a", folder, cell=cell())
    assert fault_of(caught.value, (UserError,)) is None
    assert not (tmp_path / "ledger" / "a.jsonl").exists()


def test_scores_beyond_floats_are_not_the_ranks(tmp_path):
    path = next(readers.ledger(tmp_path).glob("*.jsonl"))
    lines = path.read_text().splitlines()
    entry = json.loads(lines[0])
    entry["scores"]["mAP"] = 10**400
    path.write_text("\n".join([json.dumps(entry), *lines[1:]]) + "\n")
    (checked,) = verify(path.parent)
    assert not checked.sound


def test_a_demo_whose_result_is_none(tmp_path):
    class Run:
        done, folder = True, tmp_path / "run"

    Run.folder.mkdir()
    (Run.folder / "result.json").write_text("[]")
    _forget_other_code([Run])
    assert not Run.folder.exists()


def test_a_number_where_several_are_wanted():
    with pytest.raises(ValueError, match="dim must be 'channels', 'height' or None, got 3"):
        plan_pyramid(4, levels=2, dim=3)
    with pytest.raises(TypeError, match=r"stages must be numbers in a sequence, such as \[3, 4\], or None, got 3"):
        attach_pyramid(resnet18(), "se", stages=3, input_size=(64, 32))


def test_one_of_several_outputs_that_is_a_single_number():
    model = attaching.MODELS["tuple"]()
    model.block.forward = lambda x: (x, x.mean())
    assert all(site.refusal for site in find_sites(model, input_size=(8, 4), output=1) if site.name == "block")
    with pytest.raises(ValueError, match="'block'"):
        attach(model, "se", at="block", input_size=(8, 4), output=1)


def test_a_radix_that_is_no_number_is_what_is_complained_of():
    with pytest.raises(TypeError, match="radix must be an int"):
        attach_apnet(resnet18(), input_size=(64, 32), radix="8")


def test_more_levels_than_any_map_has_parts_for():
    with time_limit(5), pytest.raises(ValueError, match="levels must be at most 64, got 1073741824"):
        plan_pyramid(4, levels=2**30, dim="channels")
    with time_limit(5), pytest.raises(ValueError, match="order must be"):
        attach_pyramid(resnet18(), "se", levels=2**63, order=3, input_size=(64, 32))


def test_a_number_that_is_none():
    with pytest.raises(ValueError, match="not a number"):
        convert(float, "nan")
    with pytest.raises(ValueError, match="not a number"):
        convert(float, math.nan)


def test_words_with_line_breaks_are_quoted():
    with pytest.raises(UserError) as caught:
        load_config(ApnetConfig, ["--config", "demo", "--data.std", "", "\n"], recipes=PIPELINES["apnet"].recipes)
    assert fault_of(caught.value, (UserError,)) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda plain: plain["pooled"]["points"].clear(), "a false-match rate, got none"),
        (lambda plain: plain["pooled"]["points"][0].update(threshold=[0.5]), "must be a calibration"),
        (lambda plain: plain["pooled"]["points"][0].update(threshold=math.inf), "finite"),
        (lambda plain: plain["pooled"]["probability"]["values"].pop(), "as many similarities"),
        (lambda plain: plain["pooled"]["probability"]["values"].reverse(), "rise"),
        (lambda plain: plain["pooled"]["probability"].update(similarities=[0.1], values=[1.0]), "between 0 and 1"),
    ],
)
def test_a_calibration_that_none_can_be(change, message, tmp_path):
    path = readers.calibration(tmp_path)
    plain = json.loads(path.read_text())
    change(plain["calibration"])
    path.write_text(json.dumps(plain))
    with pytest.raises(UserError, match=message):
        read_calibration(path, readers.MODEL, "same")


@pytest.mark.parametrize("place", ["version", "data"])
def test_a_damaged_file_of_arrays(place, tmp_path):
    path = tmp_path / "arrays.npz"
    np.savez_compressed(path, a=np.arange(1000) % 7)
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 6 if place == "version" else 80] = 200
    path.write_bytes(content)
    with pytest.raises(ValueError, match="no file of arrays"):
        load_arrays(path)


def test_what_builds_no_attention_is_named():
    with pytest.raises(TypeError, match=r"AttentionPyramid: attention must be callable with 2 channels.*no len"):
        AttentionPyramid(2, len, levels=1)
    with pytest.raises(TypeError, match=r"attention must be callable with 2 channels.*0 positional"):
        AttentionPyramid(2, lambda *, channels: None, levels=1)

    def builder(channels):
        return len(channels)

    with pytest.raises(TypeError, match="^object of type 'int' has no len"):  # its own error, with its own lines
        AttentionPyramid(2, builder, levels=1)
