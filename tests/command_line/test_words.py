"""A command line taken apart: any order, lists with or without brackets, nothing twice; and who is near a name."""

import pytest

from attnreid.command_line import UserError, closest, is_option, refuse_unknown, separate

COUNTS = {"--one": 1, "--two": 2, "--any": None, "--flag": 0, "--again": 1}


def apart(line, **options):
    words = separate("who", line.split(), COUNTS, repeatable=["--again"], **options)
    return words.bare, words.options


@pytest.mark.parametrize(
    ("line", "bare", "options"),
    [
        ("", [], {}),
        ("a b", ["a", "b"], {}),
        ("--one 1 a", ["a"], {"--one": ["1"]}),
        ("a --one=1", ["a"], {"--one": ["1"]}),
        ("--one x=y", [], {"--one": ["x=y"]}),
        ("--one=x=y", [], {"--one": ["x=y"]}),
        ("--one x,y a", ["a"], {"--one": ["x,y"]}),
        ("--one [x y]", ["y]"], {"--one": ["[x"]}),
        ("--one -1", [], {"--one": ["-1"]}),
        ("--one -.5", [], {"--one": ["-.5"]}),
        ("--two 64 32 a", ["a"], {"--two": ["64", "32"]}),
        ("--two 64,32 a", ["a"], {"--two": ["64,32"]}),
        ("--two=64,32 a", ["a"], {"--two": ["64,32"]}),
        ("--two [64,32] a", ["a"], {"--two": ["[64,32]"]}),
        ("--two [64, 32] a", ["a"], {"--two": ["[64,", "32]"]}),
        ("--any x", [], {"--any": ["x"]}),
        ("--any=x", [], {"--any": ["x"]}),
        ("--any x y --one 1", [], {"--any": ["x", "y"], "--one": ["1"]}),
        ("--any [] a", ["a"], {"--any": ["[]"]}),
        ("--any [x, y] a", ["a"], {"--any": ["[x,", "y]"]}),
        ("--any x y end", ["end"], {"--any": ["x", "y"]}),
        ("--any end x", [], {"--any": ["end", "x"]}),  # it takes one word at least
        ("--flag a", ["a"], {"--flag": []}),
        ("--strange a b", ["b"], {"--strange": ["a"]}),
        ("--strange --one 1", [], {"--strange": [], "--one": ["1"]}),
        ("--again 1 a --again=2", ["a"], {"--again": ["1", "2"]}),
    ],
)
def test_every_word_has_its_place(line, bare, options):
    assert apart(line, ends=lambda word: word == "end") == (bare, options)


@pytest.mark.parametrize(
    "line", ["--one 1 a", "a --two 64 32", "--any x y --one 1", "--any []", "--flag", "--two [1, 2]"]
)
def test_what_is_put_together_again_means_the_same(line):
    words = separate("who", line.split(), COUNTS)
    assert separate("who", [*words.bare, *words.arguments()], COUNTS) == words


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--one", "1", "--one", "1"], "who: --one .*given once"),
        (["--one=1", "--one", "2"], "--one .*given once"),
        (["--one"], "who: --one has no value"),
        (["--one", "--two", "1", "2"], "--one has no value"),
        (["--one="], "--one has no value"),
        (["--one", ""], "--one has no value"),
        (["--any="], "--any has no value"),
        (["--flag=1"], "who: --flag .*no value, got '1'"),
        (["a", "--", "b"], "who: '--' .*no meaning"),
    ],
)
def test_a_word_that_would_be_dropped_is_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        separate("who", arguments, COUNTS)


def test_numbers_are_no_options():
    assert [word for word in ("--x", "-x", "-1", "-1e-4", "-.5", "-", "x", "") if is_option(word)] == ["--x", "-x"]


KEYS = ["--config", "--out", "--title", "--data.root", "--data.image_size", "--optimizer.learning_rate"]
KEYS += ["--optimizer.weight_decay", "--optimizer.epochs", "--optimizer.warmup_epochs", "--evaluation.batch_size"]


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("--optimizer.lr", "--optimizer.learning_rate"),
        ("--lr", "--optimizer.learning_rate"),
        ("--optimizer.rate", "--optimizer.learning_rate"),
        ("--optimizer.wd", "--optimizer.weight_decay"),
        ("--optimizer.learnig_rate", "--optimizer.learning_rate"),
        ("--epochs", "--optimizer.epochs"),
        ("--data.epochs", "--optimizer.epochs"),
        ("--batch-size", "--evaluation.batch_size"),
        ("--data.size", "--data.image_size"),
        ("--evaluation.size", "--evaluation.batch_size"),
        ("--Title", "--title"),
        ("--o", "--out"),
        ("--dat", "--data.root"),
        ("--conf", "--config"),
        ("--data-root", "--data.root"),
        ("--optimiser.epoch", "--optimizer.epochs"),
    ],
)
def test_the_nearest_option_comes_first(name, first):
    assert closest(name, KEYS).startswith(f"; did you mean {first}")
    with pytest.raises(UserError, match=f"^who: .*no option {name}; .*{first}"):
        refuse_unknown("who", ["--out", name], KEYS)


def test_where_none_is_near_the_sections_options_are_listed():
    assert closest("--verbose", KEYS) == closest("--optimizer.foo", KEYS) == ""
    with pytest.raises(
        UserError, match="who: .*--optimizer.foo.*--optimizer.learning_rate, --optimizer.weight_decay, --optimizer.ep"
    ):
        refuse_unknown("who", ["--optimizer.foo"], KEYS)
    with pytest.raises(UserError, match="no option --verbose; .*who --help"):
        refuse_unknown("who", ["--verbose"], KEYS)
    refuse_unknown("who", KEYS, KEYS)


def test_an_option_of_another_command_is_named_as_its():
    others = {"first": ["--x"], "second": ["--x", "--y"]}
    with pytest.raises(UserError, match="^who: .*no option --x; .*first, second$"):
        refuse_unknown("who", ["--out", "--x"], KEYS, elsewhere=others)
    refuse_unknown("who", ["--out"], KEYS, elsewhere={"first": ["--out"]})
