"""The templates of pages that lie in a package."""

from jinja2 import Environment, PackageLoader, StrictUndefined, Template


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
    return environment.get_template(name)
