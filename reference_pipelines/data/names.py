"""Names as different systems spell them, compared and printed."""

import unicodedata


def composed(name: str) -> str:
    """Return a name in Unicode's composed form (NFC), in which all names are compared.

    A disk or a table may have é as one character or as e with an accent; macOS and other systems differ in that.
    """
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def printable(text: str) -> str:
    r"""Return text that any Unicode output takes: what is not UTF-8 in a file name as \xe9, half pairs as \ud800."""
    if text.isascii():
        return text
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can hold and no file name
        return text.encode("utf-8", "backslashreplace").decode()
