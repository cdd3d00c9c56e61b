"""What is mutated, and which test files are nearest to it."""

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Area:
    """A part of the sources with the tests that are to notice a change of it.

    Args:
        name: as the table says it.
        sources: folders and files.
        tests: folders and files; of these, a mutant meets those that run its line.
    """

    name: str
    sources: tuple[str, ...]
    tests: tuple[str, ...]

    def modules(self) -> list[str]:
        """Return the source files, but the packages' own, which only name things."""
        return [path for path in _files(self.sources) if not path.endswith("__init__.py")]

    def test_files(self) -> list[str]:
        """Return the test files."""
        return [path for path in _files(self.tests) if Path(path).name.startswith("test_")]


AREAS = (
    Area(
        "layers",
        ("attnreid/layers", "attnreid/pyramid"),
        ("tests/layers", "tests/test_pyramid.py", "tests/test_attention_maps.py", "tests/golden"),
    ),
    Area("attaching", ("attnreid/backbones",), ("tests/backbones", "tests/test_inference.py")),
    Area("metrics", ("reference_pipelines/retrieval",), ("tests/retrieval", "tests/ranks")),
    Area(
        "clustering",
        ("reference_pipelines/clustering", "reference_pipelines/neighbours"),
        ("tests/clustering", "tests/neighbours", "tests/training/test_unlabelled.py"),
    ),
    Area(
        "resume",
        ("reference_pipelines/runs",),
        (
            "tests/runs",
            "tests/training/test_held_out.py",
            "tests/commands/test_evaluate.py",
        ),
    ),
)


def _files(names: tuple[str, ...]) -> list[str]:
    found: list[Path] = []
    for name in names:
        path = ROOT / name
        found += sorted(path.rglob("*.py")) if path.is_dir() else [path]
    return [str(path.relative_to(ROOT)) for path in found]
