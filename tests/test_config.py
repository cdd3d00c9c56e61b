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
            r"unrecognized arguments: --attention\.level.* did you mean --attention\.levels",
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
