"""What a run is called: by its recipe's title only where nothing of the recipe was changed."""

import pytest

from reference_pipelines.config.loading import load_config
from reference_pipelines.config.recipes import list_changes, nearest_recipe, title_of
from reference_pipelines.pipelines import PIPELINES


def named(pipeline, *arguments):
    program = PIPELINES[pipeline]
    config = load_config(program.config, [*arguments, "--data.root=x"], recipes=program.recipes)
    recipe = nearest_recipe(pipeline, config)
    return title_of(config.title, recipe), recipe["name"], recipe["changed"]


@pytest.mark.parametrize(
    ("pipeline", "recipe"),
    [(name, path.stem) for name, each in PIPELINES.items() for path in each.recipes.glob("*.yaml")],
)
def test_an_unchanged_recipe_keeps_its_title_wherever_and_however_often_it_runs(pipeline, recipe):
    plain, name, changed = named(pipeline, f"--config={recipe}")
    assert (name, changed) == (recipe, {})
    elsewhere = ("--seed=7", "--device=cpu", "--data.workers=1", "--evaluation.every=3", "--evaluation.batch_size=9")
    assert named(pipeline, f"--config={recipe}", *elsewhere) == (plain, recipe, {})
    assert "changed" not in plain


def test_an_ablation_does_not_bear_the_recipes_title():
    title, name, changed = named("apnet", "--config=apnet_c2_market", "--attention.preset=none")
    assert title == "APNet-C2, changed: attention.preset none"
    assert (name, changed) == ("apnet_c2_market", {"attention.preset": ["apnet", "none"]})
    title, _, _ = named("mla", "--config=mla_market", "--attention.parts=[pixel]")
    assert title == 'MLA, changed: attention.parts ["pixel"]'


def test_attention_comes_first_and_the_rest_is_counted():
    arguments = ("--optimizer.epochs=1", "--attention.levels=3", "--attention.radix=1", "--loss.margin=0.2")
    title, _, changed = named("apnet", "--config=demo", *arguments)
    assert title == "APNet-C2, changed: attention.levels 3, attention.radix 1 and 2 more"
    assert list_changes(changed) == "attention.levels 3, attention.radix 1, optimizer.epochs 1, loss.margin 0.2"
    assert named("apnet", "--config=demo", "--evaluation.flip=false")[0] == "APNet-C2, changed: evaluation.flip false"


def test_a_title_of_ones_own_is_kept_and_the_changes_are_known():
    title, name, changed = named("apnet", "--config=demo", "--attention.layer=rga_s", "--title=mine")
    assert (title, name, list_changes(changed)) == ("mine", "demo", 'attention.layer ["rga_s"]')


def test_other_starting_weights_are_a_change_where_the_recipe_names_some():
    assert named("apnet", "--config=apnet_c2_market", "--model.weights=none")[0].endswith("changed: model.weights none")
    assert named("mla", "--config=demo", "--model.weights=source.safetensors")[2] == {}
