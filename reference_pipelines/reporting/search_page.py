"""A ranking as one HTML file that needs nothing beside it."""

from collections.abc import Mapping
from typing import Any

from reference_pipelines.data.names import printable
from reference_pipelines.reporting.figures import Pictures
from reference_pipelines.templates import find_template


def render_search(result: Mapping[str, Any]) -> str:
    """Return the page of what `search` found: each query with the pictures that are ranked for it."""
    template = find_template("reference_pipelines.reporting", "search.html.j2")
    return printable(template.render(result=result, pictures=Pictures()))
