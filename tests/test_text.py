"""Which name was meant, against lists whose answer is plain; tables against ones written by hand."""

import pytest

from attnreid.text import closest, format_table, nearest

MODULES = ["layer1.0.conv1", "layer1.0.conv2", "layer4.1.conv2", "layer4.1.bn2", "fc"]
KEYS = ["optimizer.learning_rate", "optimizer.epochs", "model.weights", "data.root", "title"]


@pytest.mark.parametrize(
    ("name", "known", "first"),
    [
        ("layer4.1.conv3", MODULES, "layer4.1.conv2"),
        ("layr4.1.conv2", MODULES, "layer4.1.conv2"),
        ("lay", ["fc", "layer4"], "layer4"),
        ("optimizer.lr", KEYS, "optimizer.learning_rate"),
        ("rate", KEYS, "optimizer.learning_rate"),
        ("ttle", KEYS, "title"),
    ],
)
def test_the_nearest_name_comes_first(name, known, first):
    assert nearest(name, known)[0] == first


def test_nothing_is_near_to_a_name_like_no_other():
    assert nearest("verbose", KEYS) == nearest("optimizer.foo", KEYS) == []
    assert closest("verbose", ["se", "split"]) == "choose from se, split"
    assert closest("verbose", []) == "choose from none"


def test_columns_are_as_wide_as_their_widest_cell():
    assert format_table([("a", "1,024"), ("layer4", "8")], "<>") == ["a       1,024", "layer4      8"]
