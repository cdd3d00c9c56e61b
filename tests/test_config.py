"""Recipes and overrides: every shipped recipe builds, and a typing error is answered with the nearest key."""

from pathlib import Path

import pytest
import yaml

from reference_pipelines.config import load_config, to_plain
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


# What the papers and their released code say.
PAPERS = {
    "apnet_c2_market": {
        "data.image_size": [384, 192],
        "model": {"backbone": "resnet50", "weights": "imagenet", "last_stride": 1, "bn_chunks": 2},
        "attention": {"kind": "se", "levels": 2, "radix": 2},
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
        "attention": {"kind": "rga_s", "levels": 2, "radix": 2},
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
        "attention": {"levels": ["pixel", "head", "domain"], "blocks": "all", "heads": 4, "memory": 64},
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--attention.level", "3"],
            r"there is no option --attention\.level; did you mean --attention\.levels",
        ),
        (["--optimizer.epochs", "many"], r"optimizer\.epochs.*many"),
        (["--attention.kind", "sse"], r"attention\.kind.*'none', 'se', 'rga_s'.*sse"),
    ],
)
def test_a_wrong_argument_is_one_sentence(arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        apnet(*arguments)
    assert "\n" not in str(caught.value)


def test_a_missing_root_is_said():
    with pytest.raises(UserError, match=r"data\.root"):
        load_config(PIPELINES["mla"].config, ["--config", str(PIPELINES["mla"].recipes / "demo.yaml")])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("optimizer: {epoch: 3}", r"unknown key 'optimizer\.epoch'; did you mean optimizer\.epochs"),
        ("atention: {levels: 1}", r"unknown key 'atention\.levels'; did you mean attention\.levels"),
        ("title: [", "is not valid YAML"),
        ("- 1", "must hold keys and values, it holds list"),
    ],
)
def test_a_wrong_recipe_is_one_sentence(tmp_path, content, message):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        load_config(PIPELINES["apnet"].config, ["--config", str(recipe)])
    assert "\n" not in str(caught.value)


def test_a_missing_recipe_is_said():
    with pytest.raises(UserError, match=r"cannot read the recipe .*nowhere\.yaml"):
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
