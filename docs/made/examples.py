"""Which public names there are, and which pages' code uses each."""

import ast
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path

DOCS = Path(__file__).parents[1]
# The packages whose `__all__` is public.
PUBLIC = (
    "attnreid",
    "reference_pipelines",
    "reference_pipelines.retrieval",
    "reference_pipelines.clustering",
    "reference_pipelines.data",
)
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@cache
def public_names() -> Mapping[str, str]:
    """Return the dotted public name of each name of the packages, the first where two have one name."""
    found: dict[str, str] = {}
    for package in PUBLIC:
        for name in import_module(package).__all__:
            found.setdefault(name, f"{package}.{name}")
    return found


def title(page: Path) -> str:
    """Return a page's heading."""
    heading = re.search(r"^# (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return heading[1].replace("`", "") if heading else page.stem


def names_used(code: str) -> set[str]:
    """Return the dotted names of ours that a piece of code uses: imported from a package, or as its attribute."""
    used = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module in PUBLIC:
            used |= {f"{node.module}.{alias.name}" for alias in node.names}
        if isinstance(node, ast.Attribute):
            dotted = ast.unparse(node)
            if dotted.rpartition(".")[0] in PUBLIC:
                used.add(dotted)
    return used


@cache
def pages_using() -> Mapping[str, tuple[str, ...]]:
    """Return the pages, as paths below docs without ending, whose Python uses each dotted name."""
    found: dict[str, list[str]] = {}
    for page in pages():
        used: set[str] = set()
        for code in _BLOCK.findall(page.read_text(encoding="utf-8")):
            used |= names_used(code)
        for name in used:
            found.setdefault(name, []).append(page.relative_to(DOCS).with_suffix("").as_posix())
    return {name: tuple(sorted(places)) for name, places in found.items()}


def pages() -> Iterable[Path]:
    """Return the pages of the site that people write."""
    return sorted(path for path in DOCS.rglob("*.md") if "results" not in path.relative_to(DOCS).parts)


def example_lines(dotted: str) -> list[str]:
    """Return lines of reStructuredText that name the pages that use a name; none where no page does."""
    places = pages_using().get(dotted, ())
    if not places:
        return []
    links = ", ".join(f":doc:`{title(DOCS / f'{place}.md')} </{place}>`" for place in places)
    return ["", f"*Used in:* {links}", ""]
