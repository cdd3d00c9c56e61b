"""Recipes and overrides: every shipped recipe builds, and a typing error is answered with the nearest key."""

import dataclasses
from operator import attrgetter
from pathlib import Path
from typing import get_args, get_origin

import pytest
import yaml

from reference_pipelines.config.attention import AttentionConfig
from reference_pipelines.config.loading import keys_of, load_config, to_plain
from reference_pipelines.errors import UserError
from reference_pipelines.pipelines import PIPELINES

RECIPES = [(name, path) for name, pipeline in PIPELINES.items() for path in sorted(pipeline.recipes.glob("*.yaml"))]


@pytest.mark.parametrize(("pipeline", "recipe"), RECIPES, ids=lambda value: getattr(value, "stem", value))
def test_every_recipe_builds_and_survives_a_round_trip(pipeline, recipe, tmp_path):
    schema = PIPELINES[pipeline].config
    config = load_config(schema, ["--config", str(recipe), "--data.root", "somewhere"])
    copy = tmp_path / "config.yaml"
    copy.write_text(yaml.safe_dump(to_plain(config)))
    assert load_config(schema, ["--config", str(copy)]) == config
    stated = yaml.safe_load(recipe.read_text())
    plain = to_plain(config)
    for section, values in stated.items():
        for key, value in values.items() if isinstance(values, dict) else ():
            assert plain[section][key] == value


UNREAD = to_plain(AttentionConfig())  # what the preset does not read, and the papers do not change

# What the papers and their released code say.
PAPERS = {
    "apnet_c2_market": {
        "data.image_size": [384, 192],
        "model": {"backbone": "resnet50", "weights": "imagenet", "last_stride": 1, "bn_chunks": 2}
        | {"pooling": "own", "local_parts": 0},
        "attention": {**UNREAD, "preset": "apnet", "layer": ["se"], "levels": 2, "radix": 2},
        "sampler": {"ids": 20, "images": 4, "epoch": "chunks"},
        "loss": {"margin": 0.3, "smoothing": 0.1, "triplet_weight": 1.0},
        "augment.pad": 10,
        "augment.enlarge": 0.0,
        "augment.flip": 0.5,
        "augment.erase": 0.5,
        "augment.erase_fill": [0.485, 0.456, 0.406],
        "optimizer.learning_rate": 4e-4,
        "optimizer.weight_decay": 1e-3,
        "optimizer.epochs": 160,
        "optimizer.warmup_epochs": 10,
        "optimizer.warmup_factor": 0.01,
        "optimizer.milestones": [40, 80, 120],
        "optimizer.gamma": 0.1,
        "evaluation.flip": True,
    },
    "apnet_s2_market": {
        "data.image_size": [256, 128],
        "model.bn_chunks": 2,
        "attention": {**UNREAD, "preset": "apnet", "layer": ["rga_s"], "levels": 2, "radix": 2},
        "sampler": {"ids": 20, "images": 4, "epoch": "ids"},
        "augment.pad": 0,
        "augment.enlarge": 0.5,
        "augment.erase_fill": [0.0, 0.0, 0.0],
        "optimizer.learning_rate": 8e-4,
        "optimizer.weight_decay": 5e-4,
        "optimizer.epochs": 600,
        "optimizer.warmup_epochs": 20,
        "optimizer.warmup_factor": 0.01,
        "optimizer.milestones": list(range(80, 361, 40)),
        "optimizer.gamma": 0.5,
        "evaluation.flip": True,
    },
    "mla_market": {
        "data.image_size": [256, 128],
        "data.interpolation": "bicubic",
        "attention": {
            **UNREAD,
            "preset": "mla",
            "parts": ["pixel", "head", "domain"],
            "blocks": "all",
            "heads": 4,
            "memory": 64,
        },
        "model.bn_chunks": 2,
        "clustering.method": "dbscan",
        "clustering.k1": 30,
        "clustering.k2": 6,
        "clustering.eps": 0.4,
        "clustering.min_samples": 4,
        "memory": {"initial": "random", "update": "hard", "momentum": 0.1, "temperature": 0.05},
        "sampler": {"ids": 8, "images": 8, "other_cameras": True},
        "iterations": 400,
        "optimizer.learning_rate": 1.6e-4,
        "optimizer.weight_decay": 5e-4,
        "optimizer.epochs": 50,
        "optimizer.milestones": [20, 40],
        "optimizer.gamma": 0.1,
        "evaluation.flip": False,
    },
}


@pytest.mark.parametrize("recipe", PAPERS)
def test_the_papers_recipes_hold_the_papers_values(recipe):
    pipeline = PIPELINES[recipe.partition("_")[0]]
    plain = to_plain(load_config(pipeline.config, [f"--config={recipe}", "--data.root=d"], recipes=pipeline.recipes))
    for key, value in PAPERS[recipe].items():
        section, _, name = key.partition(".")
        assert (plain[section][name] if name else plain[section]) == value, key


def test_there_are_recipes_for_both_papers():
    assert {path.stem for _, path in RECIPES} >= {"apnet_c2_market", "apnet_s2_market", "mla_market", "demo"}


def apnet(*arguments: str):
    recipe = PIPELINES["apnet"].recipes / "demo.yaml"
    return load_config(PIPELINES["apnet"].config, ["--config", str(recipe), "--data.root", "d", *arguments])


def test_the_command_line_overrides_the_recipe():
    config = apnet("--attention.levels", "3", "--optimizer.milestones=[1, 2]", "--data.image_size", "[64, 32]")
    assert config.attention.levels == 3
    assert config.optimizer.milestones == (1, 2)
    assert config.data.image_size == (64, 32)


DEMO = ["--config", str(PIPELINES["apnet"].recipes / "demo.yaml")]
ROOT = ["--data.root", "d"]


@pytest.mark.parametrize(
    ("before", "after"),
    [(["--optimizer.epochs", "1", "--title", "mine"], []), ([], ["--optimizer.epochs", "1", "--title", "mine"])],
)
@pytest.mark.parametrize("config", [DEMO, [f"--config={DEMO[1]}"]])
def test_the_command_line_wins_wherever_the_recipe_stands(before, after, config):
    loaded = load_config(PIPELINES["apnet"].config, [*before, *ROOT, *config, *after])
    assert (loaded.optimizer.epochs, loaded.title, loaded.data.root) == (1, "mine", "d")
    assert loaded.model.backbone == "resnet_demo"  # the rest is the recipe's


def _lists(schema, prefix=""):
    for field in dataclasses.fields(schema):
        if dataclasses.is_dataclass(field.type):
            yield from _lists(field.type, f"{prefix}{field.name}.")
        elif get_origin(field.type) is tuple:
            yield f"{prefix}{field.name}", get_args(field.type)


# What else must be said for a key to be read, and whether its list may be empty.
NEEDED = {
    "attention.layer": (["--attention.preset=apnet", "--attention.levels=3"], False),
    "attention.stages": (["--attention.preset=pyramid"], True),
    "attention.at": (["--attention.preset=sites"], False),
    "attention.parts": (["--attention.preset=mla"], False),
}
LISTS = [(name, key, parts) for name, each in PIPELINES.items() for key, parts in _lists(each.config)]


@pytest.mark.parametrize(("pipeline", "key", "parts"), LISTS)
def test_every_list_is_taken_as_words_with_commas_and_in_brackets(pipeline, key, parts):
    """And a list of any length as a single word."""
    words = {int: ["3", "4", "5"], float: ["0.1", "0.2", "0.3"]}.get(parts[0], ["pixel", "head", "domain"])
    words = words if Ellipsis in parts else words[: len(parts)]
    needed, empty = NEEDED.get(key, ([], True))
    forms = [words, [",".join(words)], [f"[{', '.join(words)}]"], f"[{', '.join(words)}]".split(" ")]
    forms = forms[:1] if parts[0] is str else forms  # patterns of names have brackets of their own
    for form in forms:
        arguments = ["--config=demo", *ROOT, *needed, f"--{key}", *form]
        config = load_config(PIPELINES[pipeline].config, arguments, recipes=PIPELINES[pipeline].recipes)
        assert list(map(str, attrgetter(key)(config))) == words
    if Ellipsis in parts:
        for form, value in (([words[1]], words[1:2]), *([(["[]"], [])] if empty else [])):
            arguments = ["--config=demo", *ROOT, *needed, f"--{key}", *form]
            config = load_config(PIPELINES[pipeline].config, arguments, recipes=PIPELINES[pipeline].recipes)
            assert list(map(str, attrgetter(key)(config))) == value


def test_there_are_lists_of_both_kinds():
    assert {key for _, key, _ in LISTS} >= {"data.image_size", "optimizer.milestones", "attention.parts"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--attention.level", "3"],
            r"no option --attention\.level; .*--attention\.levels",
        ),
        (["--optimizer.epochs", "many"], r"optimizer\.epochs.*many"),
        (["--attention.preset", "sse"], r"--attention\.preset .*none, apnet, .*sites, got sse"),
        (["--optimizer.lr", "1"], r"no option --optimizer\.lr; .*--optimizer\.learning_rate"),
        (["--data.image_size", "64"], r"--data\.image_size .*2 whole numbers, .*64 32, got 64$"),
        (["--data.image_size", "64", "32", "3"], "'3' .*no option"),
        (["--optimizer.milestones", "one", "2"], r"milestones .*whole numbers, .*got one 2$"),
        (["--title", "My", "Title"], "'Title' .*no option; .*quotes"),
        (["--attention", "{levels: 3}"], "--attention .*section .*: .*--attention.preset, --attention.layer"),
        (["--seed", "1", "--seed", "2"], "--seed .*given once"),
        (["--config", "demo"], "--config .*given once"),
        (["--", "--seed", "2"], "'--' .*no meaning"),
        (["--seed"], "--seed has no value"),
        (["--seed="], "--seed has no value"),
        (["--data.layout", ""], "--data.layout has no value"),
        (["--seed", "1e3"], "--seed .*whole number, got 1e3"),
        (["--seed", "true"], "--seed .*whole number, got true"),
        (["--optimizer.learning_rate", "fast"], "--optimizer.learning_rate .*number, got fast"),
        (["--optimizer.learning_rate", "inf"], "optimizer.learning_rate .*finite, got inf"),
        (["--augment.erase_fill", "0", "0", "inf"], "augment.erase_fill .*finite, got .*inf"),
        (["--data.skip_corrupt", "1"], "--data.skip_corrupt .*true or false, got 1"),
        (["--data.skip_corrupt"], "--data.skip_corrupt has no value"),
        (["-x"], "no option -x"),
        (["--optimizer.milestones+", "3"], "no option --optimizer.milestones.*; .*--optimizer.milestones"),
    ],
)
def test_a_wrong_argument_is_one_sentence(arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        apnet(*arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("word", ["true", "True", "yes", "on"])
def test_a_truth_has_yamls_words(word):
    assert apnet("--data.skip_corrupt", word).data.skip_corrupt is True


def test_a_rate_may_have_an_exponent_without_a_point(tmp_path):
    # Which PyYAML reads as a text.
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("title: t\ndata: {root: d}\noptimizer: {learning_rate: 1e-4, weight_decay: 5e-4, epochs: 3}")
    config = load_config(PIPELINES["apnet"].config, ["--config", str(recipe)])
    assert (config.optimizer.learning_rate, config.optimizer.weight_decay) == (1e-4, 5e-4)
    assert apnet("--optimizer.learning_rate", "1e-4").optimizer.learning_rate == 1e-4


def test_a_missing_recipe_is_asked_for_by_name():
    pipeline = PIPELINES["apnet"]
    with pytest.raises(
        UserError, match="^train: --config .*missing; .*apnet_c2_market, .*apnet_s2_market, demo"
    ) as said:
        load_config(pipeline.config, ROOT, recipes=pipeline.recipes)
    assert "--title, --optimizer.learning_rate, --optimizer.weight_decay, --optimizer.epochs" in str(said.value)
    for arguments in (["--config"], ["--config", *ROOT], ["--config=", *ROOT]):
        with pytest.raises(UserError, match="^train: --config .*no value"):
            load_config(pipeline.config, arguments, recipes=pipeline.recipes)


def test_several_missing_keys_are_named(tmp_path):
    (tmp_path / "recipe.yaml").write_text("title: t")
    with pytest.raises(UserError, match="--data.root, --optimizer.learning_rate, .*epochs .*missing"):
        load_config(PIPELINES["apnet"].config, ["--config", str(tmp_path / "recipe.yaml")])


@pytest.mark.parametrize(
    ("name", "owner", "other"), [("mla_market", "mla", "apnet"), ("apnet_c2_market", "apnet", "mla")]
)
def test_the_other_papers_recipe_is_named_as_its(name, owner, other):
    pipeline = PIPELINES[other]
    with pytest.raises(UserError, match=f"{name} .*recipe of {owner}, .*`train {owner} --config {name}`"):
        load_config(pipeline.config, ["--config", name, *ROOT], recipes=pipeline.recipes)


def test_a_folder_of_a_recipes_name_does_not_hide_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    pipeline = PIPELINES["apnet"]
    assert load_config(pipeline.config, ["--config", "demo", *ROOT], recipes=pipeline.recipes).title == "APNet-C2"


def test_what_is_left_out_has_the_default_of_the_paper(tmp_path):
    """Which for a section is not always that of its own class."""
    (tmp_path / "recipe.yaml").write_text(f"{WHOLE}title: t\n")
    for name, flip in (("apnet", True), ("mla", False)):
        schema = PIPELINES[name].config
        assert keys_of(schema)["evaluation.flip"].default is flip
        config = load_config(schema, ["--config", str(tmp_path / "recipe.yaml")])
        assert config.evaluation.flip is flip
        named = {"title": "t", "data": type(config.data)("d"), "optimizer": type(config.optimizer)(1.0, 0.0, 1)}
        assert config == schema(**named)


def test_a_missing_root_is_said():
    with pytest.raises(UserError, match=r"data\.root"):
        load_config(PIPELINES["mla"].config, ["--config", str(PIPELINES["mla"].recipes / "demo.yaml")])


WHOLE = "data: {root: d}\noptimizer: {learning_rate: 1, weight_decay: 0, epochs: 1}\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("optimizer: {epoch: 3}", r"unknown key 'optimizer\.epoch'; .*optimizer\.epochs"),
        ("atention: {levels: 1}", r"unknown key 'atention\.levels'; .*attention\.levels"),
        ("title: [", "recipe\\.yaml .*not valid YAML"),
        ("data: &data {root: *data}", "recipe\\.yaml .*not valid YAML"),
        ("- 1", r"keys and values, .*holds \[1\]"),
        ("", "keys and values, .*nothing"),
        ("seed: 1\nseed: 2", "key once, .*seed twice"),
        ("optimizer: {epochs: 1}\noptimizer: {gamma: 1}", "key once, .*optimizer twice"),
        ("data: {workers: 2}\ndata.workers: 3", r"key once, .*data\.workers twice"),
        ("attention: 3", r"attention .*section .*\(attention\.preset, .*\), .*holds 3"),
        ("attention: [1]", r"attention .*section .*holds \[1\]"),
        ("attention:", "attention .*section .*holds nothing"),
        ("atention: {}", "unknown key 'atention'"),
        ("seed:", "seed .*no value; "),
        ("attention: {levels: null}", r"attention\.levels .*no value"),
        (f"{WHOLE}title: {{a: 1}}", r"title in .*recipe\.yaml .*text, got \{'a': 1\}"),
        (f"{WHOLE}title: 2024", "title in .* .*text, got 2024"),
        (f"{WHOLE}title: t\nloss: {{margin: .nan}}", "loss.margin .*must be a number, got nan"),
        (f"{WHOLE}title: [t]", r"title in .*recipe\.yaml .*text, got \['t'\]"),
        (f"{WHOLE}title: t\naugment: {{erase_area: 3}}", "augment.erase_area in .* .*2 numbers, .*got 3$"),
        (f"{WHOLE}title: t\nseed: yes", "seed in .* .*whole number, got True; YAML .*quotes"),
        (f"{WHOLE}title: t\nattention: {{preset: no}}", "attention.preset in .* .*none, apnet, .* got False; YAML"),
        (f"{WHOLE}title: t\nevaluation: {{flip: 1}}", "evaluation.flip in .* .*true or false, got 1$"),
        (
            "title: t\ndata: {root: ''}\noptimizer: {learning_rate: 1, weight_decay: 0, epochs: 1}",
            "data.root .*empty",
        ),
    ],
)
def test_a_wrong_recipe_is_one_sentence(tmp_path, content, message):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        load_config(PIPELINES["apnet"].config, ["--config", str(recipe)])
    assert "\n" not in str(caught.value)


def test_a_recipe_may_leave_a_required_key_to_the_command_line(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "title:\ndata: {root: }\nattention: {}\noptimizer: {learning_rate: 1, weight_decay: 0, epochs: 1}"
    )
    config = load_config(PIPELINES["apnet"].config, ["--title", "t", "--config", str(recipe), *ROOT])
    assert (config.title, config.data.root) == ("t", "d")


def test_a_missing_recipe_is_said():
    with pytest.raises(UserError, match=r"cannot read .*nowhere\.yaml"):
        load_config(PIPELINES["apnet"].config, ["--config", str(Path("nowhere.yaml"))])


WRONG_VALUES = {
    "apnet": {
        "optimizer.epochs": ("0", "-1"),
        "optimizer.learning_rate": ("-1", "0"),
        "optimizer.warmup_epochs": ("-1",),
        "optimizer.warmup_factor": ("0",),
        "optimizer.weight_decay": ("-1",),
        "optimizer.gamma": ("0",),
        "evaluation.every": ("0",),
        "evaluation.batch_size": ("0",),
        "data.workers": ("-1",),
        "data.image_size": ("[0, 0]",),
        "seed": ("-1",),
        "title": (" ",),
        "sampler.ids": ("0", "1"),
        "sampler.images": ("0",),
        "augment.flip": ("2",),
        "augment.erase": ("1.5",),
        "augment.enlarge": ("-0.1",),
        "augment.pad": ("-1",),
        "augment.erase_area": ("[0.5, 0.1]",),
        "loss.smoothing": ("2",),
        "loss.margin": ("-1",),
        "loss.triplet_weight": ("-1",),
        "model.last_stride": ("3",),
    },
    "mla": {
        "clustering.k1": ("0",),
        "clustering.k2": ("99", "0"),
        "clustering.min_samples": ("0",),
        "clustering.eps": ("0", "1.0", "-0.1"),
        "clustering.recall": ("0", "1.5"),
        "memory.temperature": ("0",),
        "memory.momentum": ("2",),
        "sampler.ids": ("0",),
        "sampler.images": ("0",),
        "iterations": ("0",),
        "seed": ("-1",),
        "title": (" ",),
    },
}


@pytest.mark.parametrize(
    ("pipeline", "key", "value"),
    [(name, key, value) for name, keys in WRONG_VALUES.items() for key, values in keys.items() for value in values],
)
def test_a_value_out_of_range_is_refused(pipeline, key, value):
    schema, recipes = PIPELINES[pipeline].config, PIPELINES[pipeline].recipes
    with pytest.raises(UserError, match=r"^config: .* must .*got") as caught:
        load_config(schema, ["--config=demo", "--data.root=nowhere", f"--{key}={value}"], recipes=recipes)
    assert key in str(caught.value)


@pytest.mark.parametrize(("former", "engine"), [("exact", "exact"), ("approximate", "faiss-hnsw")])
def test_the_neighbour_search_of_a_run_of_before_is_read_as_an_engine(former, engine, tmp_path):
    recipe = yaml.safe_load((PIPELINES["mla"].recipes / "demo.yaml").read_text())
    recipe["clustering"] = {**recipe.get("clustering", {}), "search": former}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(recipe))
    config = load_config(PIPELINES["mla"].config, [f"--config={path}", "--data.root=d"])
    assert config.clustering.engine == engine
    recipe["clustering"]["search"] = "fast"
    path.write_text(yaml.safe_dump(recipe))
    with pytest.raises(UserError, match=r"unknown key 'clustering.search'"):
        load_config(PIPELINES["mla"].config, [f"--config={path}", "--data.root=d"])
