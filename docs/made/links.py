"""Links of the pages, as they are followed in a checkout, made to fit the site."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[1]
# What is a page here and lies above docs.
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")


def fitted(text: str, folder: Path) -> str:
    """Return a page with its links to what is no page or file below docs as plain names.

    Args:
        text: the page's Markdown.
        folder: where it lies.
    """

    def fit(found: re.Match[str]) -> str:
        shown, target = found[1], (folder / found[2]).resolve()
        if not target.exists():
            return found[0]  # the build says so
        if target.is_relative_to(DOCS) and target.is_file():
            return found[0]
        relative = target.relative_to(DOCS.parent).as_posix()
        if relative in PAGES:
            up = "../" * len(folder.resolve().relative_to(DOCS).parts)
            return f"[{shown}]({up}{PAGES[relative]}{found[3] or ''})"
        return f"{shown} (`{relative}`)" if shown.strip("`") not in relative else f"`{relative}`"

    return _LINK.sub(fit, text)
