"""The site's own part of Sphinx: `made` puts in what is made from data while the site is built."""

import inspect
import re
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.domains.python import PythonDomain
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective

from docs.made import choices, errors, examples, links, mathematics, papers

OWN = ("attnreid.", "reference_pipelines.")


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [headings, ["---"] * len(headings), *rows])


def choices_table() -> str:
    """Return the table of attention for backbones."""
    return markdown_table(choices.HEADINGS, choices.rows())


def errors_table() -> str:
    """Return the table of all sentences."""
    return markdown_table(("exception", "sentence", "file"), errors.table())


def layer_times(name: str) -> str:
    """Return the table of a layer's measured times."""
    return markdown_table(("map", "forward", "forward and backward"), choices.layer_times(name))


def pyramid_ratios() -> str:
    """Return the table of what a pyramid gains."""
    headings = ("forward and backward", "map", "against", "their time by ours")
    return markdown_table(headings, choices.ratios("SE pyramid"))


def names_table() -> str:
    """Return every public name with its first line and the pages that use it."""
    rows = []
    for package in examples.PUBLIC:
        module = import_module(package)
        for name in module.__all__:
            dotted = f"{package}.{name}"
            first = (inspect.getdoc(getattr(module, name)) or "").partition("\n\n")[0].replace("\n", " ")
            if not callable(getattr(module, name)):
                first = ""  # a constant's docstring is its type's
            used = examples.pages_using().get(dotted, ())
            pages = ", ".join(f"[{examples.title(examples.DOCS / f'{each}.md')}](/{each}.md)" for each in used)
            rows.append([f"{{py:obj}}`{dotted}`", first.replace("|", "\\|"), pages])
    return markdown_table(("name", "what it does", "pages whose code uses it"), rows)


def public(package: str, *chosen: str) -> str:
    """Return the documentation of a package's public names, from the docstrings.

    Args:
        package: whose names.
        chosen: which of them; all when left out.
    """
    module = import_module(package)
    lines = ["```{eval-rst}"]
    for name in chosen or module.__all__:
        value = getattr(module, name)
        kind = "class" if inspect.isclass(value) else "function" if callable(value) else "data"
        lines += [f".. auto{kind}:: {package}.{name}", ""]
        if kind == "class":
            lines[-1:] = ["   :members:", ""]
    return "\n".join([*lines, "```"])


def notebooks() -> str:
    """Return the list of the notebooks, where a checkout has some."""
    found = sorted(path.stem for path in (examples.DOCS / "notebooks").glob("*.ipynb"))
    if not found:
        return ""
    names = "\n".join(f"notebooks/{name}" for name in found)
    return f"```{{toctree}}\n:hidden:\n:caption: Notebooks\n\n{names}\n```"


MADE: dict[str, Callable[..., str]] = {
    "choices": choices_table,
    "errors-at-length": errors.index,
    "errors": errors_table,
    "claims": papers.annotated,
    "layer-times": layer_times,
    "pyramid-ratios": pyramid_ratios,
    "names": names_table,
    "notebooks": notebooks,
    "public": public,
}


class Made(SphinxDirective):
    """Puts in Markdown that a function returns: `:::{made} NAME ARGUMENT...`.

    The option `filter` makes its table one that readers can filter; it names the columns, counted from 0, that get a
    list of their values, and after `most` those that get a limit.
    """

    has_content = False
    required_arguments = 1
    optional_arguments = 60
    option_spec: ClassVar[dict[str, Any]] = {"filter": str}

    def run(self) -> list[nodes.Node]:
        """Return what the Markdown makes."""
        name, *arguments = self.arguments
        box = nodes.container()
        text = MADE[name](*arguments)
        if "filter" in self.options:
            lists, _, limits = self.options["filter"].partition("most")
            box["classes"] += ["filterable", *(f"list-{column}" for column in lists.split())]
            box["classes"] += [f"most-{column}" for column in limits.split()]
        self.env.note_reread()  # the data may be others the next time
        self.state.nested_parse(text.splitlines(), self.content_offset, box, match_titles=True)
        if "filter" in self.options:
            return [box]
        return list(box.children)


def fit_links(app: Sphinx, name: str, source: list[str]) -> None:
    """Make a page's links those of the site."""
    path = Path(app.env.doc2path(name))
    if path.suffix == ".md":
        source[0] = links.fitted(source[0], path.parent)


def as_written(app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]) -> None:
    """Have the marks in a docstring's prose shown as they are, before it is read as reStructuredText."""
    lines[:] = [line if line.lstrip().startswith((">>>", "...")) else _escaped(line) for line in lines]


def _escaped(line: str) -> str:
    parts = line.split("`")
    parts[::2] = [re.sub(r"(?<=\S)\*(?=\S)|(?<=\s)\*(?=\w)|\|", r"\\\g<0>", part) for part in parts[::2]]
    return "`".join(parts)


def add_examples(app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]) -> None:
    """Write under a docstring which pages use the name."""
    lines += examples.example_lines(name)


def find_reference(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, shown: nodes.TextElement
) -> nodes.Node | None:
    """Return a link to a public name wherever it is defined; the plain name for what is documented elsewhere.

    A name of our own that does not exist stays unresolved, which ends the build.
    """
    if node.get("refdomain") != "py":
        return None
    target = str(node["reftarget"])
    domain = env.domains["py"]
    assert isinstance(domain, PythonDomain)
    public = examples.public_names().get(target.rpartition(".")[2])
    if public in domain.objects and _same(public, target):
        return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", public, node, shown)
    if target.startswith(OWN) and _found(target) is None:
        return None
    return shown


def _same(public: str, target: str) -> bool:
    return "." not in target or _found(target) is _found(public)


def _found(dotted: str) -> object | None:
    """Return what has a dotted name; None where nothing does."""
    module, _, rest = dotted, "", ""
    names: list[str] = []
    while module:
        try:
            value: object = import_module(module)
        except ImportError:
            module, _, rest = module.rpartition(".")
            names.insert(0, rest)
            continue
        for name in names:
            value = getattr(value, name, None)
        return value
    return None


def setup(app: Sphinx) -> dict[str, Any]:
    """Register all of it."""
    app.add_directive("made", Made)
    app.add_html_math_renderer("mathml", (mathematics.inline, None), (mathematics.block, None))
    app.connect("source-read", fit_links)
    app.connect("autodoc-process-docstring", as_written, priority=400)  # before the sections are
    app.connect("autodoc-process-docstring", add_examples, priority=600)
    app.connect("missing-reference", find_reference)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
