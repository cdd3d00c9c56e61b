"""Which imports may never be, read from the sources, and that the picture in the docs shows those that are."""

import re
from pathlib import Path

import pytest

from tests.conftest import script

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def architecture():
    return script("architecture")


@pytest.fixture(scope="module")
def rooms(architecture):
    return architecture.all_rooms()


def reached(rooms, start):
    """Return every room that a room imports, directly or through others."""
    found, left = set(), [start]
    while left:
        for target in rooms.get(left.pop(), ()):
            if target not in found:
                found.add(target)
                left.append(target)
    return found


# room, what it must not import directly or through others, why
NEVER = [
    ("attnreid", "reference_pipelines", "the library does not know its programs"),
    ("reference_pipelines.data", "reference_pipelines.rendering", "a reader draws nothing"),
    ("reference_pipelines.data", "reference_pipelines.models", "images do not know networks"),
    (
        "reference_pipelines.retrieval",
        "reference_pipelines.training",
        "scores are of features, whoever made them",
    ),
    ("reference_pipelines.retrieval", "reference_pipelines.clustering", "both use neighbours, not one another"),
    ("reference_pipelines.neighbours", "reference_pipelines.clustering", "clustering uses neighbours"),
    ("reference_pipelines.training", "reference_pipelines.reporting", "what is trained does not know how it is shown"),
    ("reference_pipelines.runs", "reference_pipelines.training", "a run on the disk is read without a trainer"),
    ("reference_pipelines.runs", "reference_pipelines.reporting", "a run on the disk does not know how it is shown"),
    ("reference_pipelines.ranks", "reference_pipelines.retrieval", "scores are computed again without torch"),
    ("reference_pipelines.ledger", "reference_pipelines.claims", "what is kept does not know what is concluded"),
    ("reference_pipelines.matching", "reference_pipelines", "its mathematics is of arrays, whoever made them"),
    ("reference_pipelines.config", "reference_pipelines.data", "keys are known before any package is loaded"),
    ("reference_pipelines.training", "reference_pipelines.commands", "the programs do not know their command line"),
]


@pytest.mark.parametrize(("room", "other", "why"), NEVER, ids=[f"{a} from {b}" for a, b, _ in NEVER])
def test_what_is_never_imported(rooms, room, other, why):
    starts = [name for name in rooms if name == room or name.startswith(f"{room}.")]
    assert starts
    for start in starts:
        wrong = [each for each in reached(rooms, start) if each == other or each.startswith(f"{other}.")]
        assert not wrong, f"{start} imports {wrong}: {why}"


def test_no_room_imports_in_a_circle(architecture, rooms):
    assert architecture.circle(rooms) == []


def test_no_file_imports_in_a_circle(architecture):
    known = {name: path for package in architecture.PACKAGES for name, path in architecture.modules(package).items()}
    edges = {name: architecture.imports_of(name, path, known, late=False) for name, path in known.items()}
    assert architecture.circle(edges) == []


def test_the_pipelines_use_public_names_of_the_library_only():
    for path in (ROOT / "reference_pipelines").rglob("*.py"):
        for module in re.findall(
            r"^\s*(?:from|import) (attnreid[\w.]*)", path.read_text(encoding="utf-8"), re.MULTILINE
        ):
            assert not any(part.startswith("_") for part in module.split(".")), f"{path} imports {module}"


def test_the_picture_shows_the_imports_that_are(architecture, rooms):
    message = "the picture is of other imports: run `python docs/architecture.py`"
    assert architecture.drawn() == architecture.as_text(rooms), message


def test_the_configs_are_below_everything(rooms):
    assert rooms["reference_pipelines.config"] <= {
        "reference_pipelines.errors",
        "attnreid.command_line",
        "attnreid.files",
    }


def test_the_page_lists_every_room(rooms):
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for package in ("attnreid", "reference_pipelines"):
        section = page.partition(f"## {package}\n")[2].partition("\n## ")[0]
        listed = re.findall(r"^\| `([\w.]+)`", section, re.MULTILINE)
        assert sorted(listed) == sorted(name.partition(".")[2] for name in rooms if name.startswith(f"{package}."))


def test_circles_and_floors_are_found(architecture):
    edges = {"a": {"b", "c"}, "b": {"c"}, "c": set()}
    assert architecture.circle(edges) == []
    assert architecture.floors(edges) == {"a": 2, "b": 1, "c": 0}
    assert architecture.nearest_only(edges) == {"a": {"b"}, "b": {"c"}, "c": set()}
    assert architecture.circle({**edges, "c": {"a"}}) == ["a", "b", "c", "a"]
