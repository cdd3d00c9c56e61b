"""Names as different systems spell them, compared and printed."""

import unicodedata


def composed(name: str) -> str:
    """Return a name in Unicode's composed form (NFC), in which all names are compared.

    A disk or a table may have é as one character or as e with an accent; macOS and other systems differ in that.
    """
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def printable(text: str) -> str:
    r"""Return text that any Unicode output takes: bytes of file names that are not UTF-8 as \xe9."""
    return text if text.isascii() else text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
