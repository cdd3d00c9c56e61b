"""A ranking as one HTML file that needs nothing beside it."""

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from reference_pipelines.data.names import printable
from reference_pipelines.reporting.figures import Pictures


def render_search(result: Mapping[str, Any]) -> str:
    """Return the page of what `search` found: each query with the pictures that are ranked for it."""
    environment = Environment(
        loader=PackageLoader("reference_pipelines.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return printable(environment.get_template("search.html.j2").render(result=result, pictures=Pictures()))
