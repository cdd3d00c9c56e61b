"""The notebooks: they run, and what is stored in them is what such a run shows."""

import importlib.util
import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="the extra docs is not installed")
pytest.importorskip("nbclient", reason="the extra docs is not installed")

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
NAMES = ("1_attach", "2_your_photographs", "3_explain")


@pytest.fixture(scope="module")
def refresh():
    spec = importlib.util.spec_from_file_location("refresh", FOLDER / "refresh.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stored(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def pictures(cell):
    return sum("image/png" in output.get("data", {}) for output in cell.outputs)


def test_these_are_all_and_they_are_small(refresh):
    assert tuple(path.stem for path in refresh.notebooks()) == NAMES
    assert sum(path.stat().st_size for path in refresh.notebooks()) <= refresh.LARGEST


@pytest.mark.parametrize("name", NAMES)
def test_what_is_stored_comes_from_one_whole_run(name, refresh):
    notebook = stored(name)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]
    assert sum(map(pictures, cells)) >= 2
    assert refresh.cleaned(stored(name)) == notebook


@pytest.mark.parametrize("name", NAMES)
def test_no_folder_of_a_machine_stands_in_it(name):
    text = (FOLDER / f"{name}.ipynb").read_text()
    assert not re.search(r"(?<![\w.])/(home|root|tmp|usr|work|Users)/", text)


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    for cell in stored(name).cells:
        if cell.cell_type == "markdown":
            for target in re.findall(r"\]\((?!http)([^)#]+)\)", cell.source):
                assert (FOLDER / target).exists(), target


def test_what_depends_on_the_machine_is_taken_out(refresh):
    notebook = nbformat.v4.new_notebook(metadata={"machine": "mine"})
    cell = nbformat.v4.new_code_cell("x", metadata={"execution": {"started": "today"}})
    cell.outputs = [nbformat.v4.new_output("stream", name=name, text="said") for name in ("stderr", "stdout")]
    notebook.cells = [cell]
    cleaned = refresh.cleaned(notebook)
    assert "machine" not in cleaned.metadata
    assert cleaned.cells[0].metadata == {}
    assert [output.name for output in cleaned.cells[0].outputs] == ["stdout"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_runs_and_shows_what_is_stored(name, refresh):
    found = code_cells(refresh.run(FOLDER / f"{name}.ipynb"))
    wanted = code_cells(stored(name))
    assert [pictures(cell) for cell in found] == [pictures(cell) for cell in wanted]
    said = [[[each.name for each in cell.outputs if "name" in each] for cell in cells] for cells in (found, wanted)]
    assert said[0] == said[1]
    equal = [
        line
        for cell in found
        for each in cell.outputs
        for line in each.get("text", "").splitlines()
        if "equal:" in line
    ]
    assert all(line.endswith("True") for line in equal)
    assert len(equal) == (5 if name == "1_attach" else 0)
