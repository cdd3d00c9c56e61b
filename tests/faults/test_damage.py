"""Files of a run that are cut off at every hundredth of their length, or in which a bit has flipped.

What was damaged is named and not read; where there is one before, that is used; no traceback of a library shows.
"""

import contextlib
import io
import json
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from attnreid import load_checkpoint, read_description, read_weights
from reference_pipelines.commands.cli import main
from reference_pipelines.errors import UserError
from reference_pipelines.models.weights import StartingWeights
from reference_pipelines.pipelines.opening import open_run
from reference_pipelines.runs.checkpoints import place_of
from reference_pipelines.runs.resume import find_checkpoint
from tests.conftest import says
from tests.fault_table import NOTHING
from tests.training.runs import assert_equal_tensors, assert_same_run, trained

pytestmark = pytest.mark.faults
FLIPS = 100  # a file
SAMPLE = 12  # one in so many damages is followed to the end of the run
WEIGHTS, STATE = "model.safetensors", "training.safetensors"


def cuts(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield what a file holds that is cut off at each hundredth of its length."""
    for percent in range(100):
        yield f"cut at {percent} %", content[: len(content) * percent // 100]


def flips(content: bytes, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield what a file of safetensors holds in which one bit has flipped: one half of them in its header."""
    rng, header = random.Random(seed), 8 + int.from_bytes(content[:8], "little")
    for number in range(FLIPS):
        place = rng.randrange(header) if number % 2 else rng.randrange(header, len(content))
        flipped = bytearray(content)
        flipped[place] ^= 1 << rng.randrange(8)
        yield f"bit flipped in byte {place:,}", bytes(flipped)


def damages(path: Path) -> Iterator[tuple[str, bytes]]:
    content = path.read_bytes()
    yield from cuts(content)
    yield from flips(content, len(content))


@pytest.fixture(scope="module", params=["apnet", "mla"])
def sound(request, images, tmp_path_factory):
    """A finished run of two epochs, with a checkpoint of each."""
    folder = tmp_path_factory.mktemp("sound") / request.param
    trained(request.param, images, folder)
    return folder


@pytest.fixture
def run(sound, tmp_path):
    shutil.copytree(sound, tmp_path / "run")
    return tmp_path / "run"


def ended(*words: str) -> tuple[int, list[str]]:
    """Return the status of a command and its lines on stderr, which hold no traceback."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        status = main([*words, "--quiet"])
    assert "Traceback" not in said.getvalue()
    return status, said.getvalue().strip().splitlines()


def assert_one_sentence(status: int, lines: list[str], name: str) -> None:
    assert status == 2, lines
    assert len(lines) == 1, lines
    assert says(lines[0], "error: ", name), lines


@pytest.mark.parametrize("name", [WEIGHTS, STATE])
def test_a_damaged_checkpoint_is_named_and_the_one_before_goes_on(run, sound, name, tmp_path, tell):
    path = place_of(run, 2) / name
    whole, followed = path.read_bytes(), 0
    for number, (damage, content) in enumerate(damages(path)):
        path.write_bytes(content)
        found = find_checkpoint(run)
        (note,) = found.notes
        assert found.checkpoint.epoch == 1, damage
        assert says(note, f"warning: {path.parent} is not whole (", "); going on from epoch 1"), (damage, note)
        assert "\n" not in note
        if number % SAMPLE == 0:
            again = tmp_path / "again"
            shutil.copytree(run, again)
            status, lines = ended("resume", str(again))
            assert status == 0, lines
            assert says(lines[0], str(place_of(again, 2)), "not whole"), lines
            assert_same_run(again, sound)
            shutil.rmtree(again)
            followed += 1
    path.write_bytes(whole)
    assert find_checkpoint(run).checkpoint.epoch == 2
    seen = f"a warning names it, epoch 1 is taken; {followed} resumed to the end: the same run"
    tell(f"resume {sound.name}", f"{name}: cut, bit flipped", number + 1, seen, lost="the damaged epoch, trained again")


def test_where_both_are_damaged_resume_refuses(run, sound, tell):
    paths = [place_of(run, epoch) / name for epoch in (1, 2) for name in (WEIGHTS, STATE)]
    before = {path: path.read_bytes() for path in paths}
    rng = random.Random(3)
    times = 40
    for _ in range(times):
        chosen = [rng.choice(paths[:2]), rng.choice(paths[2:])]
        for path in chosen:
            _, content = rng.choice(list(damages(path)))
            path.write_bytes(content)
        status, lines = ended("resume", str(run))
        assert_one_sentence(status, lines, str(place_of(run, 2)))
        assert says(lines[0], str(place_of(run, 1)), "train again"), lines
        for path in chosen:
            path.write_bytes(before[path])
    tell(f"resume {sound.name}", "both checkpoints damaged", times, "one sentence names both, exit status 2")


def test_damaged_weights_are_refused_by_whoever_reads_them(run, sound, tell):
    path = run / WEIGHTS
    model = open_run(run, classifier=True).model
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for number, (damage, content) in enumerate(damages(path)):
        path.write_bytes(content)
        for read in (read_description, read_weights, lambda path: load_checkpoint(model, path)):
            with pytest.raises(ValueError, match="must be a whole file") as refused:
                read(path)
            assert says(str(refused.value), str(path), "got "), damage
            assert "\n" not in str(refused.value)
        for opened in (run, path):
            with pytest.raises(UserError) as refused:
                open_run(opened)
            assert says(str(refused.value), str(path)), damage
            assert "\n" not in str(refused.value)
        if number % SAMPLE == 0:
            for words in (("evaluate", str(run)), ("evaluate", str(path)), ("export", str(run), "--onnx", "never")):
                assert_one_sentence(*ended(*words, *(("--device", "cpu") if words[0] == "evaluate" else ())), str(path))
    assert_equal_tensors(model.state_dict(), before)
    assert not Path("never").exists()
    tell(f"evaluate, export, load_checkpoint {sound.name}", f"{WEIGHTS}: cut, bit flipped", number + 1, "one sentence")


def test_a_foreign_file_of_safetensors_has_its_structure_checked(sound, tmp_path, tell):
    """Nobody can tell what numbers were meant; but names, shapes and lengths must be those of the network."""
    backbone = open_run(sound).model.backbone
    path = tmp_path / "foreign.safetensors"
    save_file({key: value.contiguous().clone() for key, value in backbone.state_dict().items()}, path)
    whole, shapes = load_file(path), {key: value.shape for key, value in load_file(path).items()}
    outcomes: Counter[str] = Counter()
    for damage, content in damages(path):
        path.write_bytes(content)
        try:
            found = StartingWeights.find(path, backbone)
        except UserError as error:
            sentence = str(error)
            outcomes["refused" if says(sentence, str(path)) and "\n" not in sentence else sentence] += 1
            continue
        assert not damage.startswith("cut"), damage
        taken = {**found.backbone, **found.attention}
        assert {key: value.shape for key, value in taken.items()} == shapes, damage
        differing = [key for key in whole if not torch.equal(whole[key].nan_to_num(), taken[key].nan_to_num())]
        assert len(differing) <= 1, damage
        outcomes["structure whole"] += 1
    assert outcomes["refused"] >= 100
    assert set(outcomes) == {"refused", "structure whole"}, outcomes
    seen = ", ".join(f"{count} {end}" for end, count in sorted(outcomes.items()))
    tell("--model.weights", "foreign safetensors: cut, bit flipped", sum(outcomes.values()), seen)


def outcome(words: tuple[str, ...], run: Path, name: str) -> object:
    """Return what a command gives, or that it refuses in one sentence which names the file."""
    status, lines = ended(*words)
    if status == 0:
        (written,) = (run / "evaluations").glob("*.json")
        scores = json.loads(written.read_text())["scores"]
        shutil.rmtree(run / "evaluations")
        return scores
    assert_one_sentence(status, lines, name)
    return "refused"


@pytest.mark.parametrize("name", ["config.yaml", "result.json"])
def test_what_a_run_says_of_itself_is_read_whole_or_refused(run, sound, name, tell):
    path = run / name
    words = ("evaluate", str(run), "--device", "cpu")
    whole, outcomes = outcome(words, run, ""), Counter()
    for damage, content in cuts(path.read_bytes()):
        path.write_bytes(content)
        got = outcome(words, run, name)
        assert got in ("refused", whole), damage
        outcomes["refused" if got == "refused" else "the same scores"] += 1
    assert outcomes["refused"] > 50
    seen = ", ".join(f"{count} {end}" for end, count in sorted(outcomes.items()))
    tell(f"evaluate {sound.name}", f"{name}: cut", 100, seen)


@pytest.mark.parametrize("name", ["config.yaml", "result.json", "log.jsonl", "ranks.npz", "best.safetensors"])
def test_a_run_whose_other_files_are_damaged_is_resumed_as_it_was_or_refused(run, sound, name, tmp_path, tell):
    """All but the config is written anew from the checkpoint; result.json is what says that a run is finished."""
    if name != "result.json":
        (run / "result.json").unlink()
    outcomes: Counter[str] = Counter()
    for number, (damage, content) in enumerate(cuts((run / name).read_bytes())):
        if number % 4:
            continue
        again = tmp_path / "again"
        shutil.copytree(run, again)
        (again / name).write_bytes(content)
        status, lines = ended("resume", str(again))
        if status == 0:
            named = [line for line in lines if says(line, "warning: ", str(again / name), "best so far")]
            outcomes["the same run, but for the best weights, named" if named else "the same run"] += 1
            if named:
                shutil.copy(sound / name, again)
            assert_same_run(again, sound)
        else:
            assert name == "config.yaml", (damage, lines)
            assert_one_sentence(status, lines, str(again))
            outcomes["refused"] += 1
        shutil.rmtree(again)
    seen = ", ".join(f"{count} {end}" for end, count in sorted(outcomes.items()))
    lost = "the best weights, where an earlier epoch's" if name == "best.safetensors" else NOTHING
    tell(f"resume {sound.name}", f"{name}: cut", sum(outcomes.values()), seen, lost=lost)


@pytest.mark.parametrize("name", ["features.npy", "table.csv", "meta.json"])
def test_a_store_of_features_that_is_cut_off_is_refused_or_gone_on_with(sound, images, name, tmp_path, tell):
    if sound.name != "apnet":
        pytest.skip("one network's features are as good as another's")
    words = ("extract", str(sound), str(images), "--out", str(tmp_path / "whole"), "--device", "cpu", "--workers", "0")
    assert ended(*words)[0] == 0
    features = np.load(tmp_path / "whole" / "features.npy")
    outcomes: Counter[str] = Counter()
    for number, (damage, content) in enumerate(cuts((tmp_path / "whole" / name).read_bytes())):
        out = tmp_path / "out"
        shutil.copytree(tmp_path / "whole", out)
        (out / name).write_bytes(content)
        status, lines = ended("search", str(out), "--gallery", str(out), "--html", str(tmp_path / "page.html"))
        assert_one_sentence(status, lines, str(out))
        outcomes["refused by search"] += 1
        if number % 10 == 0:
            status, lines = ended(*words[:4], str(out), *words[5:])
            if status == 0:
                assert np.array_equal(np.load(out / "features.npy"), features), damage
                assert (out / "table.csv").read_bytes() == (tmp_path / "whole" / "table.csv").read_bytes(), damage
            else:
                assert_one_sentence(status, lines, str(out))
            outcomes["refused by extract" if status else "made whole by extract"] += 1
        shutil.rmtree(out)
    seen = ", ".join(f"{count} {end}" for end, count in sorted(outcomes.items()))
    tell("search, extract", f"{name}: cut", 100, seen)
