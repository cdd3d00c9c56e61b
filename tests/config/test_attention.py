"""The attention's section of a config: what each preset reads, and configs of before."""

import pytest
import yaml

from reference_pipelines.config.attention import READ, AttentionConfig, modern
from reference_pipelines.config.loading import load_config, to_plain
from reference_pipelines.errors import UserError
from reference_pipelines.pipelines import PIPELINES


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"preset": "apnet", "heads": 8}, "attention.heads must stay 4 with .*apnet, .*for mla, got 8"),
        ({"preset": "mla", "layer": ("rga_s",)}, "attention.layer must stay .* for apnet and pyramid and sites"),
        ({"preset": "apnet", "layer": ("se", "split", "se")}, "attention.layer .*each of the attention.levels, got"),
        ({"preset": "apnet", "levels": 0}, "attention.levels .*at least 1 .*none"),
        ({"preset": "apnet", "layer": ("rga_s",), "hidden": 8}, "attention.hidden .*layer se, got 8"),
        ({"preset": "sites"}, "attention.at must name"),
        ({"preset": "mla", "parts": ()}, "attention.parts must name"),
        ({"preset": "mla", "identity_init": True}, "attention.identity_init .*instead .*attention.where after"),
        ({"preset": "sites", "at": ("a",), "where": "instead", "identity_init": True}, "identity_init .*instead"),
        ({"preset": "apnet", "variant": "released", "identity_init": True}, "attention.variant released has its own"),
    ],
)
def test_what_cannot_be_is_refused_before_any_data_are_read(values, message):
    with pytest.raises(UserError, match=message):
        AttentionConfig(**values)


def test_without_attention_nothing_of_it_matters():
    AttentionConfig("none", layer=("rga_s",), heads=8)


def test_every_key_has_a_reader():
    keys = {key for key in to_plain(AttentionConfig()) if key != "preset"}
    assert {key for read in READ.values() for key in read} == keys


BEFORE = [
    ("apnet", {"kind": "se", "levels": 3, "radix": 1}, AttentionConfig("apnet", levels=3, radix=1)),
    ("apnet", {"kind": "rga_s", "levels": 2, "radix": 2}, AttentionConfig("apnet", layer=("rga_s",))),
    ("apnet", {"kind": "none", "levels": 2, "radix": 2}, AttentionConfig()),
    (
        "mla",
        {"levels": ["pixel", "head"], "blocks": "last", "heads": 2, "memory": 8},
        AttentionConfig("mla", parts=("pixel", "head"), blocks="last", heads=2, memory=8),
    ),
    ("mla", {"levels": [], "blocks": "all", "heads": 4, "memory": 64}, AttentionConfig()),
]


@pytest.mark.parametrize(("pipeline", "section", "meant"), BEFORE)
def test_configs_of_before_mean_what_they_did(pipeline, section, meant, tmp_path):
    recipe = yaml.safe_load((PIPELINES[pipeline].recipes / "demo.yaml").read_text())
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({**recipe, "attention": section}))
    config = load_config(PIPELINES[pipeline].config, [f"--config={path}", "--data.root=d"])
    assert config.attention == meant


def test_configs_of_today_are_left_as_they_are():
    values = {"attention.preset": "mla", "attention.levels": 2, "seed": 1}
    assert modern(values) == values
