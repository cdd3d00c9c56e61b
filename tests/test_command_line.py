"""`python -m attnreid` as a user types it: what it prints, what it refuses, and with which exit status."""

import importlib.metadata
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import resnet18, resnet50

import attnreid
from attnreid import _answers as program
from attnreid import _doctor
from attnreid.__main__ import PROGRAM, main
from attnreid.backbones._costs import count_multiply_adds, count_parameters
from attnreid.command_line import options_of

ROOT = Path(__file__).parents[1]
RESNET18 = "torchvision.models:resnet18"

MODELS = """
import sys
import warnings

import torch
from torch import nn
from torchvision.models import resnet18

from attnreid import attach_apnet, register_attention

print("a greeting")
warnings.warn("a warning")


def build(width=8, kind="relu"):
    print("building", kind)
    print("building", kind, file=sys.stderr)
    return nn.Sequential(nn.Conv2d(3, width, 3, stride=2), nn.Sequential(nn.ReLU(), nn.Sequential(nn.Tanh())))


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.ModuleDict({"b": nn.ModuleDict({"c": build()})})

    def forward(self, x):
        for layer in self.a["b"]["c"]:
            x = layer(x)
        return x


class Factories:
    deep = Inner


class LooksAtItsWeights(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.scale = self.stem.weight.sum().item()

    def forward(self, x):
        return self.stem(x) * self.scale


class LooksAtItsInput(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.stem(x) if x.sum().item() == 0 else x


class WithoutMaps(nn.Module):
    def forward(self, x):
        return x.mean()


class Flattens(nn.Module):
    def __init__(self, channels):
        super().__init__()

    def forward(self, x):
        return x.flatten(1)


class TakesTwo(nn.Module):
    def forward(self, x, y):
        return x + y


class Pools(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.pool = nn.AdaptiveAvgPool2d(4)

    def forward(self, x):
        return self.pool(self.stem(x))


@register_attention("command_line_none")
def none(channels):
    return nn.Identity()


def attended():
    model = resnet18()
    attach_apnet(model, input_size=(64, 32))
    return model


def pretrained():
    return resnet18(weights="DEFAULT")


def stubborn():
    try:
        return resnet18(weights="DEFAULT")
    except Exception:
        return resnet18()


def needs(width):
    return build(width)


def broken():
    raise RuntimeError("out of\\n  luck")


def quits():
    sys.exit(3)


def interrupted():
    raise KeyboardInterrupt


def number():
    return 7


ready = nn.ReLU()
value = 3
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A user's own module in the folder that the program runs in."""
    (tmp_path / "mine.py").write_text(MODELS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    monkeypatch.setattr("attnreid.registry._builders", dict(attnreid.registry._builders))
    return tmp_path


def printed(capsys, *arguments):
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def refused(capsys, *arguments):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    return err.removeprefix("error: ").rstrip("\n")


def cells(text):
    return [re.split(r"  +", line) for line in text.splitlines()]


# sites


def test_sites_prints_a_table(capsys):
    lines = cells(printed(capsys, "sites", "torchvision.models:resnet50", "--input-size", "256", "128"))
    assert lines[0] == ["torchvision.models:resnet50, input 3 x 256 x 128"]
    assert lines[2] == ["name", "kind", "layout", "channels", "map size", "refused because"]
    assert ["layer3.5", "Bottleneck", "NCHW", "1024", "16 x 8"] in lines
    assert lines[-3][:4] == ["avgpool", "AdaptiveAvgPool2d", "2048", "1 x 1"]
    assert lines[-3][4].startswith("a taller input ")
    assert lines[-1] == ["25 of 149 sites, 1 of them refused; 124 deeper ones: --depth 3 lists more, --all lists all."]


def test_sites_lists_what_find_sites_finds(capsys):
    with torch.device("meta"):
        found = attnreid.find_sites(resnet18(), (64, 32))
    every = printed(capsys, "sites", RESNET18, "--input-size", "64", "32", "--all")
    assert [line[0] for line in cells(every)[3:-2]] == [site.name for site in found]
    assert every.endswith(f"\n{len(found)} of {len(found)} sites, 9 of them refused.\n")
    for depth in (1, 2, 3):
        listed = cells(printed(capsys, "sites", RESNET18, "--input-size", "64", "32", "--depth", str(depth)))[3:-2]
        assert [line[0] for line in listed] == [site.name for site in found if site.name.count(".") < depth]


def test_sites_lists_tokens_whose_order_is_seen(capsys):
    lines = cells(
        printed(capsys, "sites", "tests.backbones.test_layouts:Transformer", "--input-size", "16", "24", "--depth", "1")
    )
    assert ["last", "Mixer", "tokens after 1", "8", "4 x 6"] in lines


def test_the_default_depth_is_2_and_the_default_size_is_a_persons(capsys):
    default = printed(capsys, "sites", RESNET18)
    assert default == printed(capsys, "sites", RESNET18, "--depth", "2", "--input-size", "256", "128")
    assert default == printed(capsys, "sites", RESNET18, "--input-size", "3", "256", "128")


def test_sites_as_json(capsys):
    sites = json.loads(printed(capsys, "sites", RESNET18, "--json", "--depth", "3"))
    assert {
        "name": "layer1.0.relu",
        "kind": "ReLU",
        "channels": 64,
        "size": [64, 32],
        "calls": 2,
        "refusal": "forward calls it 2 times, and the attention would run each time; choose a module that runs once, "
        "such as the block around it",
        "layout": "NCHW",
        "prefix": 0,
        "output": None,
    } in sites
    assert sites[0]["refusal"] is None


def test_a_factory_of_the_users_and_its_options(capsys, mine):
    options = ("--option", "width=6", "--option", "kind=a text")
    text = printed(capsys, "sites", "mine:build", *options, "--input-size", "64", "32")
    assert ["0", "Conv2d", "NCHW", "6", "31 x 15"] in cells(text)
    assert "building" not in text
    assert text.endswith(
        "\n4 of 5 sites, none of them refused; 1 deeper ones: --depth 3 lists more, --all lists all.\n"
    )
    assert json.loads(printed(capsys, "sites", "mine:build", "--json"))[0]["name"] == "0"


def test_the_model_may_come_after_the_input_size(capsys, mine):
    text = printed(capsys, "sites", "--input-size", "64", "32", "mine:build")
    assert text == printed(capsys, "sites", "mine:build", "--input-size", "64", "32")
    assert text == printed(capsys, "sites", "--input-size", "64,32", "mine:build")
    cost = printed(capsys, "cost", "--preset", "apnet", "--levels", "1", "2", "mine:resnet18")
    assert cost == printed(capsys, "cost", "mine:resnet18", "--preset", "apnet", "--levels", "1,2")


def test_all_sites_may_be_deep(capsys, mine):
    # The first layer is a.b.c.0: what holds it are dictionaries of modules, which give nothing.
    lines = printed(capsys, "sites", "mine:Factories.deep").splitlines()
    assert lines[2:] == ["0 of 5 sites; 5 deeper ones: --depth 4 lists more, --all lists all."]


def test_nothing_gives_a_map(capsys, mine):
    assert printed(capsys, "sites", "mine:WithoutMaps").splitlines()[-1] == "No module in it gives a map."


@pytest.mark.parametrize("name", ["LooksAtItsWeights", "LooksAtItsInput"])
def test_what_does_not_work_on_the_meta_device_is_built_for_real(capsys, mine, name):
    assert ["stem", "Conv2d", "NCHW", "4", "254 x 126"] in cells(printed(capsys, "sites", f"mine:{name}"))


def test_a_model_is_built_without_memory_for_its_weights(monkeypatch, capsys):
    built = []
    monkeypatch.setattr(program, "find_sites", lambda model, size: built.append(model) or [])
    printed(capsys, "sites", RESNET18)
    assert {parameter.device.type for parameter in built[0].parameters()} == {"meta"}


@pytest.mark.parametrize("width", [60, 100])
def test_in_a_terminal_a_long_reason_is_wrapped(monkeypatch, capsys, width):
    plain = printed(capsys, "sites", RESNET18, "--depth", "3")
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    wrapped = printed(capsys, "sites", RESNET18, "--depth", "3")
    table = wrapped.split("\n\n")[1].splitlines()
    assert max(map(len, table)) <= width < max(map(len, plain.splitlines()))
    assert wrapped.split() == plain.split()


# cost


def test_cost_prints_the_presets_table_and_the_whole_model(capsys):
    text = printed(capsys, "cost", "torchvision.models:resnet50", "--preset", "apnet", "--levels", "2")
    with torch.device("meta"):
        model = resnet50()
    before = count_parameters(model), count_multiply_adds(model, 3, 256, 128)
    attached = attnreid.attach_apnet(model, levels=2, input_size=(256, 128))
    assert f"\n\n{attached}\n\n" in text
    lines = cells(text)
    assert ["without", *(f"{cost:,}" for cost in before)] in lines
    after = count_parameters(model), count_multiply_adds(model, 3, 256, 128)
    assert ["with", *(f"{cost:,}" for cost in after)] in lines
    assert ["change", "+4.09%", "+0.04%"] in lines
    assert text.endswith("not pooling, batch norms, activations and gating.\n")


@pytest.mark.parametrize(
    "options",
    [
        ("--preset", "apnet"),
        ("--preset", "apnet", "--attention", "rga_s", "--levels", "1,2"),
        ("--preset", "apnet", "--variant", "released"),
        ("--preset", "mla"),
        ("--preset", "mla", "--last-stride", "1", "--blocks", "last"),
        ("--preset", "se"),
    ],
)
def test_what_the_sites_add_is_what_the_whole_model_gains(capsys, options):
    lines = cells(printed(capsys, "cost", RESNET18, *options))
    rows = {
        line[0]: [int(cell.replace(",", "")) for cell in line[-2:]]
        for line in lines
        if line[0] in ("total", "without", "with")
    }
    assert [new - old for old, new in zip(rows["without"], rows["with"], strict=True)] == rows["total"]


def test_cost_as_json_has_the_tables_numbers(capsys):
    line = ["cost", "torchvision.models:resnet18", "--preset", "apnet", "--levels", "1", "--input-size", "64", "32"]
    found = json.loads(printed(capsys, *line, "--json"))
    assert [site["name"] for site in found["sites"]] == ["layer1", "layer2", "layer3", "layer4"]
    table = printed(capsys, *line)
    for word in ("without", "with"):
        numbers = [f"{number:,}" for number in found[word].values()]
        assert [word, *numbers] in [line.split() for line in table.splitlines()]


def test_the_doctor_names_versions_extras_and_what_works(capsys, monkeypatch):
    trials = {"right": "assert 1 + 1 == 2", "wrong": "raise ValueError('no luck')", "none": "import no_such_package"}
    monkeypatch.setattr(_doctor, "_TRIALS", trials)
    found = json.loads(printed(capsys, "doctor", "--json"))
    assert found["versions"]["torch"] == torch.__version__
    assert found["trials"] == {
        "right": "works",
        "wrong": "ValueError: no luck",
        "none": "not installed (no_such_package)",
    }
    assert found["extras"]["pipelines"]["scikit-learn"] == importlib.metadata.version("scikit-learn")
    assert "dev" not in found["extras"]
    monkeypatch.setattr(_doctor, "_TRIALS", {})
    monkeypatch.setattr(_doctor, "_version", lambda package: None if package == "faiss-cpu" else "1")
    assert re.search(r"^\[faiss\] +MISSING faiss-cpu$", printed(capsys, "doctor"), flags=re.MULTILINE)


def test_the_doctor_waits_for_no_trial_for_ever(monkeypatch):
    monkeypatch.setattr(_doctor, "_SECONDS", 0.2)
    assert re.match(r"no answer within 0\.2 seconds", _doctor._try("while True: pass"))


@pytest.mark.slow
def test_what_the_doctor_tries_works_where_the_suite_runs():
    assert {name: _doctor._try(code) for name, code in _doctor._TRIALS.items()} == dict.fromkeys(
        _doctor._TRIALS, "works"
    )


def test_the_cost_of_se_by_hand(capsys):
    # Two matrices of C x C/16 at 64, 128, 256 and 512 channels, each used once an image.
    expected = sum(2 * channels * channels // 16 for channels in (64, 128, 256, 512))
    lines = cells(printed(capsys, "cost", RESNET18, "--preset", "apnet", "--levels", "1"))
    assert ["total", f"+{expected:,}", f"+{expected:,}"] in lines


@pytest.mark.parametrize(
    ("preset", "typed", "meant"),
    [
        ("apnet", ("--levels", "3"), {"levels": 3}),
        ("apnet", ("--levels", "1,2,4"), {"levels": (1, 2, 4)}),
        ("apnet", ("--levels", "2,"), {"levels": (2,)}),
        ("apnet", ("--levels", "1", "2", "4"), {"levels": (1, 2, 4)}),
        ("apnet", ("--attention", "se", "split"), {"attention": ["se", "split"]}),
        ("mla", ("--levels", "pixel", "head"), {"levels": ("pixel", "head")}),
        ("apnet", ("--levels", "1", "--radix", "4"), {"levels": 1, "radix": 4}),
        ("apnet", ("--attention", "rga_s"), {"attention": "rga_s"}),
        ("apnet", ("--attention", "se,split"), {"attention": ["se", "split"]}),
        ("apnet", ("--attention", "torch.nn:Identity"), {"attention": nn.Identity}),
        ("apnet", ("--attention", "se,torch.nn:Identity"), {"attention": ["se", nn.Identity]}),
        ("apnet", ("--variant", "released"), {"variant": "released"}),
        ("mla", ("--levels", "pixel, head"), {"levels": ("pixel", "head")}),
        ("mla", ("--levels", "pixel"), {"levels": ("pixel",)}),
        ("mla", ("--blocks", "last", "--heads", "8", "--memory", "32"), {"blocks": "last", "heads": 8, "memory": 32}),
        ("se", ("--reduction", "8"), {"reduction": 8}),
        ("apnet", (), {}),
    ],
)
def test_options_reach_the_preset(monkeypatch, capsys, preset, typed, meant):
    real, calls = program._PRESETS[preset], []

    def spy(model, **options):
        calls.append(options)
        return real(model, **({} if "input_size" not in options else {"input_size": options["input_size"]}))

    spy.__signature__ = inspect.signature(real)
    monkeypatch.setitem(program._PRESETS, preset, spy)
    printed(capsys, "cost", RESNET18, "--preset", preset, "--input-size", "64", "32", *typed)
    sizes = {} if preset == "se" and "input_size" not in calls[0] else {"input_size": (64, 32)}
    assert calls == [{**meant, **sizes}]


def test_the_last_stride_stays_unless_it_is_chosen(capsys):
    command = ("cost", RESNET18, "--preset", "apnet")
    as_it_is = printed(capsys, *command)
    assert "512 x 8 x 4 " in as_it_is
    assert printed(capsys, *command, "--last-stride", "2") == as_it_is
    assert "512 x 16 x 8 " in printed(capsys, *command, "--last-stride", "1")


def test_a_name_that_the_users_module_registers(capsys, mine):
    command = ("cost", "mine:resnet18", "--preset", "apnet", "--levels", "1", "--attention", "command_line_none")
    assert ["total", "+0", "+0"] in cells(printed(capsys, *command))


def test_table_of_the_se_preset_says_what_its_map_sizes_are(capsys):
    text = printed(capsys, "cost", RESNET18, "--preset", "se")
    is_of_this_input = "layer1.0.bn2  SqueezeExcitation  64 x 64 x 32" in text
    assert is_of_this_input != ("The map sizes are of a 64 x 64 input" in text)


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "which command.* sites, cost, doctor, completion; .*python -m attnreid --help"),
        ("stes", "one of sites, cost, doctor, completion, got 'stes'; .*sites.; .*python -m attnreid --help"),
        ("sites", "sites: MODULE:CALLABLE .*missing, .*torchvision.models:resnet50; "),
        ("sites --input-size 64 32", "sites: MODULE:CALLABLE .*missing"),
        ("sites resnet50", "module:callable, .*torchvision.models:resnet50, .*got 'resnet50'"),
        ("sites mine.py:build", "module:callable, .*got 'mine.py:build'"),
        ("sites ./mine:build", "module:callable, .*got './mine:build'"),
        ("sites .mine:build", "module:callable, .*got '.mine:build'"),
        ("sites mine:", "module:callable, .*got 'mine:'"),
        ("sites mien:build", "no module 'mien', .*installed .*folder: .*'mine'"),
        ("sites q0q0q0:build", "no module 'q0q0q0', .*installed .*folder$"),
        ("sites torchvision.modles:vgg11", "no module 'torchvision.modles': .*'torchvision.models'"),
        ("sites mine.models:build", "no module 'mine.models'$"),
        ("sites lacks:build", "module lacks .*nothing_of_that_name, .*not installed: "),
        ("sites crashes:build", "module crashes .*importable, .* ZeroDivisionError: division"),
        ("sites quits:build", "module quits .*importable, .* SystemExit: bye"),
        ("sites slips:build", "module slips .*importable, .* SyntaxError: "),
        ("sites lazy:heavy", "lazy:heavy .*importable, .* RuntimeError: too heavy"),
        ("sites mine:bild", "mine has no 'bild': .*'build'"),
        ("sites mine:qqq", "mine has no 'qqq': .*resnet18, attach_apnet, register_attention, build, .*, …"),
        ("sites mine:value.real.x", "mine has no 'value.real.x'"),
        ("sites mine:value", "mine:value .*function or class .*, got 3; "),
        ("sites mine:ready", "mine:ready .*function or class .*, got a model, ReLU; "),
        ("sites mine:number", "mine:number .*nn.Module, got 7; "),
        ("sites mine:broken", "mine:broken .*no arguments, .*RuntimeError: out of luck; "),
        ("sites mine:quits", "mine:quits .*SystemExit: 3"),
        ("sites mine:needs", "mine:needs .*TypeError: needs.. .*1 .*'width'; --option NAME=VALUE"),
        ("sites mine:build --option widht=8", "mine:build .*with widht=8, .*TypeError: .* 'widht'"),
        ("sites mine:build --option width", "--option .*NAME=VALUE, .*got 'width'"),
        ("sites mine:build --option 1=2", "--option .*NAME=VALUE, .*got '1=2'"),
        ("sites mine:build --option width=6 --option width=7", "argument once, got width twice"),
        ("sites mine:build --input-size 64", "--input-size .*height and width, .*256 128, .*got '64'"),
        ("sites mine:build --input-size 3 64 32 1", "--input-size .*height and width, .* got '3 64 32 1'"),
        ("sites mine:build --input-size 0 32", "--input-size .*height and width, .*got '0 32'"),
        ("sites mine:build --input-size 64 x", "--input-size .*height and width, .*got '64 x'"),
        (f"sites mine:build --input-size {'9' * 5000} 32", "--input-size .*height and width, .* got '999"),
        ("sites mine:build --input-size 2 2", "find_sites: .*model .*shape (2, 3, 2, 2);"),
        ("sites mine:build --input-size 4 64 64", "of shape (2, 4, 64, 64); .* got 4 channels"),
        ("sites mine:build --depth 0", "sites: --depth .*1, got 0"),
        ("sites mine:build --depth 2 --all", "sites: --all .*--depth"),
        ("sites mine:build --depth two", "sites: --depth .*whole number, got two"),
        ("sites mine:build --inputsize 64 32", "sites: .*no option --inputsize; .*--input-size"),
        ("sites mine:build --jsn=1", "sites: .*no option --jsn; .*--json"),
        ("sites -- mine:build --depth", "sites: '--' .*no meaning"),
        ("--jsn sites mine:build", "command .*first, got --jsn; .*python -m attnreid --help"),
        ("sites mine:build mine:needs", "sites: 'mine:needs' .*one word too many.*; .*python -m"),
        ("cost mine:build", "cost: --preset .*missing, .*apnet, pyramid, mla, se"),
        ("cost mine:build --preset apent", "cost: --preset .*apnet, pyramid, mla, se, got apent"),
        ("cost mine:build --preset mla", "attach_mla: .*model .*ResNet, .* got Sequential"),
        ("cost mine:attended --preset apnet", "'layer1' (Sequential) cannot take attention: .*already carries"),
        ("cost mine:attended --preset se --levels 2", "preset se .*no --levels; .*--reduction"),
        ("cost mine:resnet18 --preset mla --radix 2", "preset mla .*no --radix; .*--levels, --bl"),
        ("cost mine:resnet18 --preset apnet --heads 2", "preset apnet .*no --heads; .*--attention, --levels, --radix,"),
        ("cost mine:resnet18 --preset apnet --levels 2 --attenton se", "cost: .*no option --attenton; .*--attention"),
        ("cost mine:resnet18 --preset apnet --levels pixel", "--levels .*count, .*parts .* got 'pixel'"),
        ("cost mine:resnet18 --preset apnet --levels ,", "--levels of apnet .*count, .* got ','"),
        ("cost mine:resnet18 --preset apnet --levels 9", "128 parts .*level 8, .*multiple of 128"),
        ("cost mine:resnet18 --preset apnet --levels 1,2 --radix 3", "radix .*levels.* got .*3 .*1,2"),
        ("cost mine:resnet18 --preset apnet --attention see", "got 'see': .*'se'"),
        ("cost mine:resnet18 --preset apnet --attention mine:Flatten", "mine has no 'Flatten': .*'Flattens"),
        ("cost mine:resnet18 --preset apnet --levels 1 --attention mine:Flattens", "Flattens .*map "),
        ("cost mine:resnet18 --preset mla --levels pixle", "got 'pixle': .*'pixel'"),
        ("cost mine:resnet18 --preset se --reduction 0", "reduction .*1, got 0"),
        ("cost mine:resnet18 --preset apnet --last-stride 3", "cost: --last-stride .*1, 2, got 3"),
        ("cost mine:build --preset apnet --last-stride 1", "set_last_stride: .*model .*last stage .* got Sequential"),
        (
            "cost mine:resnet18 --preset apnet --attention rga_s --levels 3 --input-size 250 128",
            "map .*height that 4 divides, .*; .*input height of 128 or 256",
        ),
    ],
)
def test_a_mistake_is_answered_in_one_sentence(capsys, mine, arguments, message):
    (mine / "lacks.py").write_text("import nothing_of_that_name")
    (mine / "crashes.py").write_text("1 / 0")
    (mine / "quits.py").write_text("raise SystemExit('bye')")
    (mine / "slips.py").write_text("def build(:")
    (mine / "lazy.py").write_text("def __getattr__(name):\n    raise RuntimeError('too heavy')")
    pattern = message.replace("(", r"\(").replace(")", r"\)")
    assert re.search(pattern, refused(capsys, *arguments.split()))


@pytest.mark.parametrize("command", ["sites", "cost"])
def test_no_option_may_be_abbreviated_or_given_twice(capsys, command):
    options = [option for option in options_of(PROGRAM.commands[command].options) if option.name.startswith("--")]
    names = [option.name for option in options]
    assert len(names) > 4
    for option in options:
        name, given = option.name, ["1"] if option.count != 0 else []
        for short in {name[:3], name[:-1]} - {*names, "--"}:
            message = refused(capsys, command, RESNET18, short, "1")
            assert re.match(f"{command}: .*no option {short}; .*{short}", message)
        if name != "--option":
            assert re.search(f"{name} .*once", refused(capsys, command, RESNET18, name, *given, name, *given))


# A way on that only Python has is said to be Python's.
PYTHONS = re.compile(r"\b(?!aux_logits)\w+=|\(model, \.\.\.|\(tensors")


@pytest.mark.parametrize(
    ("line", "advice"),
    [
        ("sites mine:TakesTwo", "another --input-size"),
        ("cost mine:resnet18 --preset apnet --levels 1,2 --radix 3", "got --radix 3 and --levels 1,2"),
        ("cost mine:resnet18 --preset apnet --variant released --levels 3", "--variant paper"),
        ("cost mine:resnet18 --preset apnet --attention mine:Flattens", "--levels 1 "),
        ("cost mine:build --preset mla", "in Python, use attach"),
        ("cost mine:resnet18 --preset mla --levels ,", "--levels must not be empty"),
        ("cost mine:resnet18 --preset apnet --attention ,", "--attention must not be empty"),
    ],
)
def test_advice_is_the_command_lines(capsys, mine, line, advice):
    message = refused(capsys, *line.split())
    assert advice in message
    for found in PYTHONS.finditer(message):
        assert "Python" in message[: found.start()], message


def test_a_sites_refusal_advises_so_too(capsys, mine):
    text = printed(capsys, "sites", "mine:Pools")
    assert 'in Python, pass layout="NCHW"' in text
    refusals = [site["refusal"] for site in json.loads(printed(capsys, "sites", "mine:Pools", "--json"))]
    assert refusals[0] is None
    assert 'in Python, pass layout="NCHW"' in refusals[1]


@pytest.mark.parametrize("factory", ["pretrained", "stubborn", "resnet18"])
def test_weights_are_never_downloaded(capsys, mine, monkeypatch, factory):
    monkeypatch.setenv("TORCH_HOME", str(mine / "empty"))
    download = torch.hub.download_url_to_file
    options = ("--option", "weights=DEFAULT") if factory == "resnet18" else ()
    message = refused(capsys, "sites", f"mine:{factory}", *options)
    assert re.search(f"mine:{factory} .*without a download", message)
    assert "https://download.pytorch.org/models/resnet18" in message
    assert torch.hub.download_url_to_file is download


def test_a_missing_torchvision_is_named_with_how_to_install_it(capsys, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)

    class Absent:
        def find_spec(self, name, *_):
            if name == "torchvision":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    assert refused(capsys, "sites", RESNET18) == "torchvision is not installed: pip install torchvision"


def test_what_is_no_mistake_shows_itself(monkeypatch):
    monkeypatch.setattr(program, "find_sites", lambda *_: [][0])
    with pytest.raises(IndexError):
        main(["sites", RESNET18])


def test_ctrl_c(capsys, mine):
    assert main(["sites", "mine:interrupted"]) == 130
    assert capsys.readouterr() == ("", "interrupted\n")


# Help


def test_version(capsys):
    assert printed(capsys, "--version") == f"attnreid {attnreid.__version__}\n"


@pytest.mark.parametrize("command", [(), ("sites",), ("cost",)])
def test_help_fits_a_terminal_and_its_examples_run(capsys, mine, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "100")
    text = printed(capsys, *command, "--help")
    assert max(map(len, text.splitlines())) <= 100
    examples = re.findall(r"^  python -m attnreid (.*)", text, flags=re.MULTILINE)
    assert len(examples) >= 2
    for example in examples:
        printed(capsys, *example.replace(" models:", " mine:").split())


def test_help_names_every_option_of_the_presets_and_its_default(capsys):
    text = " ".join(printed(capsys, "cost", "--help").split())
    for preset, attach in program._PRESETS.items():
        for name, parameter in inspect.signature(attach).parameters.items():
            if name in program._PRESET_OPTIONS:
                default = parameter.default
                shown = ",".join(default) if isinstance(default, tuple) else default or "all"
                assert re.search(rf"--{name}\b.*{preset}\b[^)]*\(default: {shown}\)", text), (preset, name)


# The program itself


def run(*arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, program="attnreid", unbuffered=""):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": unbuffered}
    environment.pop("HF_HUB_OFFLINE", None)
    command = [sys.executable, "-m", program, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, stdout=stdout, stderr=stderr, text=True)


def test_the_module_runs_and_finds_a_factory_in_the_current_folder(tmp_path):
    (tmp_path / "models.py").write_text(
        "import os\nfrom torch import nn\n"
        "def build():\n    assert os.environ['HF_HUB_OFFLINE'] == '1'\n    return nn.Sequential(nn.AvgPool2d(3, 1))"
    )
    ran = run("sites", "models:build", "--input-size", "32", "16", cwd=tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ["0", "AvgPool2d", "NCHW", "3", "30 x 14"] in cells(ran.stdout)
    assert "torchvision" not in ran.stdout


def test_the_module_refuses_without_a_traceback(tmp_path):
    ran = run("sites", "models:build", cwd=tmp_path)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert re.fullmatch(r"error: .*no module 'models', .*installed .*folder\n", ran.stderr)


@pytest.mark.skipif(os.name != "posix", reason="pipes close otherwise elsewhere")
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("program", ["attnreid", "reference_pipelines"])
def test_a_reader_that_leaves_ends_it_quietly(program, unbuffered, stream):
    """Of results or of the sentence that says what is wrong, with a buffer before the pipe or none."""
    arguments = ("--help",) if stream == "stdout" else ("nonsense",)
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        ran = run(*arguments, program=program, unbuffered=unbuffered, **{stream: pipe})
    assert (ran.returncode, ran.stdout or "", ran.stderr or "") == (141, "", "")


@pytest.fixture
def script(tmp_path):
    """The program as an installer writes it: a file in a folder of its own."""
    (tmp_path / "bin").mkdir()
    path = tmp_path / "bin" / "attnreid"
    path.write_text("import sys\nfrom attnreid.__main__ import run\nif __name__ == '__main__':\n    sys.exit(run())")
    return path


def test_the_script_is_the_same_program(tmp_path, script):
    """It finds a model of this folder, names itself, and does not die of a character that the terminal lacks."""
    (tmp_path / "models.py").write_text(
        "import os\nfrom torch import nn\n"
        "def build():\n    assert os.environ['HF_HUB_OFFLINE'] == '1'\n"
        "    return nn.ModuleDict({'行': nn.AvgPool2d(3, 1)})['行']\n"
        "class Two(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.add_module('行', build())\n"
        "    def forward(self, x):\n        return self.get_submodule('行')(x)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "cp1252"}
    environment.pop("HF_HUB_OFFLINE", None)
    command = [sys.executable, str(script), "sites", "models:Two", "--input-size", "32", "16"]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert [r"\u884c", "AvgPool2d", "NCHW", "3", "30 x 14"] in cells(ran.stdout)


def test_the_usage_names_the_program_that_was_started(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/attnreid"])
    assert printed(capsys, "--help").startswith("usage: attnreid COMMAND")
    assert "\n  attnreid cost torchvision" in printed(capsys, "cost", "--help")
    assert refused(capsys, "sites").endswith("see attnreid sites --help")
