"""The templates of pages that lie in a package."""

import base64
import hashlib
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from attnreid.files import write_text
from reference_pipelines.data.names import printable


def find_template(package: str, name: str) -> Template:
    """Return a template of a package; it escapes what it is given, and a name that it is not given is an error."""
    environment = Environment(
        loader=PackageLoader(package, ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda value: f"{100 * value:.1f}"
    environment.filters["policy"] = _policy
    environment.filters["embedded"] = lambda png: f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return environment.get_template(name)


def write_page(path: Path, page: str) -> None:
    """Write a page, in UTF-8, also with names of files that are none.

    Raises:
        OSError: it cannot be written.
    """
    write_text(path, printable(page))


def _policy(style: str, script: str | None = None) -> str:
    """Return the content security policy of a page: this style sheet and script, embedded images, nothing else."""

    def source(content: str) -> str:
        return "'sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() + "'"

    scripts = "" if script is None else f"script-src {source(script)}; "
    return f"default-src 'none'; style-src {source(style)}; {scripts}img-src data:; base-uri 'none'; form-action 'none'"
