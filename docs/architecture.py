"""Draws the rooms of the project and who imports whom: python docs/architecture.py writes the picture beside it.

A room is a folder of a package, or a file that lies in the package itself. Arrows are read from the sources, those
of imports inside functions too, so that an import that is only made when it is needed is seen as well.
"""

import ast
import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("attnreid", "reference_pipelines")
PICTURE = Path(__file__).parent / "images" / "architecture.svg"

Edges = dict[str, set[str]]


def modules(package: str) -> dict[str, Path]:
    """Return the package's modules by dotted name."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(name: str, path: Path, known: Iterable[str], *, late: bool = True) -> set[str]:
    """Return the modules of this project that a module imports.

    Args:
        name: its dotted name.
        path: its source.
        known: all modules.
        late: with what it imports inside functions and for type checkers only.
    """
    known = set(known)
    found = set()
    for node in _imports(ast.parse(path.read_text(encoding="utf-8")), late):
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        else:
            wanted = [f"{node.module}.{alias.name}" for alias in node.names]
        for each in wanted:
            target = each if each in known else each.rpartition(".")[0]
            if target in known and target != name:
                found.add(target)
    return found


def _imports(tree: ast.AST, late: bool) -> Iterable[ast.Import | ast.ImportFrom]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif late or not (isinstance(node, ast.FunctionDef | ast.Lambda) or _is_for_type_checkers(node)):
            yield from _imports(node, late)


def _is_for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def room_of(module: str) -> str:
    """Return the room that a module is in: its package and the folder or file below it."""
    return ".".join(module.split(".")[:2])


def rooms(package: str) -> Edges:
    """Return which other rooms of the project each room of a package imports."""
    known = {name: path for each in PACKAGES for name, path in modules(each).items()}
    edges: Edges = {}
    for name, path in modules(package).items():
        if name == package or name.endswith(".__main__"):
            continue  # the doors: they open every room
        arrows = edges.setdefault(room_of(name), set())
        arrows |= {room_of(target) for target in imports_of(name, path, known)} - {room_of(name), package}
    return edges


def circle(edges: Mapping[str, set[str]]) -> list[str]:
    """Return one circle of imports, its first name again at its end; nothing where there is none."""
    done: set[str] = set()

    def walk(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return []
        for target in sorted(edges.get(name, ())):
            if found := walk(target, [*way, name]):
                return found
        done.add(name)
        return []

    for name in sorted(edges):
        if found := walk(name, []):
            return found
    return []


def floors(edges: Mapping[str, set[str]]) -> dict[str, int]:
    """Return the floor of each room: those that import nothing are on 0, the others above all that they import."""
    heights: dict[str, int] = {}

    def height(name: str) -> int:
        if name not in heights:
            heights[name] = max((height(target) + 1 for target in edges[name] if target in edges), default=0)
        return heights[name]

    for name in edges:
        height(name)
    return heights


def nearest_only(edges: Mapping[str, set[str]]) -> Edges:
    """Return the arrows that no way through other rooms stands for."""

    def reachable(name: str) -> set[str]:
        return {far for target in edges.get(name, ()) for far in ({target} | reachable(target))}

    return {
        name: {each for each in targets if not any(each in reachable(other) for other in targets - {each})}
        for name, targets in edges.items()
    }


def as_text(edges: Mapping[str, set[str]]) -> str:
    """Return the arrows as the picture carries them in its description."""
    return json.dumps({name: sorted(targets) for name, targets in sorted(edges.items())})


def drawn(picture: Path = PICTURE) -> str:
    """Return the arrows that a picture was drawn from."""
    found = re.search(r"<dc:description>(.*?)</dc:description>", picture.read_text(encoding="utf-8"), re.DOTALL)
    return found[1].replace("&quot;", '"') if found else ""


def all_rooms() -> Edges:
    """Return both packages' rooms; the library is one room for the pipelines."""
    pipelines = rooms("reference_pipelines")
    library = {name: {each for each in targets if each != "attnreid"} for name, targets in rooms("attnreid").items()}
    return {**library, **pipelines}


def draw(edges: Edges, picture: Path = PICTURE) -> None:
    """Draw the library's rooms on the left and the pipelines' on the right, each above all that it imports."""
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "attnreid"
    mpl.rcParams["svg.fonttype"] = "none"
    figure, axes = plt.subplots(1, 2, figsize=(17, 10), width_ratios=(1.15, 1.6))
    for axis, package in zip(axes, PACKAGES, strict=True):
        own = {
            name: {each for each in targets if each.startswith(package)}
            for name, targets in edges.items()
            if name.startswith(package)
        }
        uses = {
            name for name, targets in edges.items() if name in own and any(not t.startswith(package) for t in targets)
        }
        _draw_package(axis, package, own, uses)
    figure.text(0.5, 0.01, "blue: a folder; grey: a file; *: uses the library's public names", ha="center", fontsize=10)
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    figure.savefig(picture, metadata={"Description": as_text(edges), "Date": None})
    plt.close(figure)


def _draw_package(axis: object, package: str, own: Edges, uses: set[str]) -> None:
    heights = floors(own)
    rows: dict[int, list[str]] = {}
    for name in sorted(own):
        rows.setdefault(heights[name], []).append(name)
    places = {
        name: ((index + 0.5) / len(row) + (0.04 if floor % 2 else -0.04), floor)
        for floor, row in rows.items()
        for index, name in enumerate(row)
    }
    for name, targets in nearest_only(own).items():
        for target in sorted(targets):
            axis.annotate(  # type: ignore[attr-defined]
                "",
                xy=places[target],
                xytext=places[name],
                arrowprops={"arrowstyle": "-|>", "color": "#8a94a6", "shrinkA": 14, "shrinkB": 14, "lw": 0.9},
            )
    for name, (x, y) in places.items():
        folder = (ROOT / name.replace(".", "/")).is_dir()
        axis.text(  # type: ignore[attr-defined]
            x,
            y,
            name.partition(".")[2] + (" *" if name in uses else ""),
            ha="center",
            va="center",
            fontsize=11,
            weight="bold" if folder else "normal",
            bbox={"boxstyle": "round,pad=0.4", "fc": "#dbe7f6" if folder else "#f4f4f4", "ec": "#3b5b8c", "lw": 0.9},
        )
    axis.set(xlim=(-0.08, 1.08), ylim=(-0.6, max(rows) + 0.6), title=package)  # type: ignore[attr-defined]
    axis.axis("off")  # type: ignore[attr-defined]


if __name__ == "__main__":
    found = all_rooms()
    if wrong := circle(found):
        sys.exit(f"the rooms must not import in a circle: {' -> '.join(wrong)}")
    draw(found)
