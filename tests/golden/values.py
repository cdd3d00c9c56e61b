"""The files that golden values are kept in, and how a measured value is compared with the kept one."""

import json
from pathlib import Path

FOLDER = Path(__file__).parent
ADVICE = (
    "; where the change is meant, run python -m tests.golden, look at what it changes, and tell it in CHANGELOG.md "
    "under *Numbers*"
)


def read(kind):
    """Return the kept values of "layers" or "runs" by name."""
    return json.loads((FOLDER / f"{kind}.json").read_text())


def write(kind, values):
    """Keep them, one number or sketch a line, so that a change is seen line by line."""
    blocks = []
    for name, found in sorted(values.items()):
        lines = ",\n".join(f"    {json.dumps(key)}: {json.dumps(value)}" for key, value in found.items())
        blocks.append(f"  {json.dumps(name)}: {{\n{lines}\n  }}")
    (FOLDER / f"{kind}.json").write_text("{\n" + ",\n".join(blocks) + "\n}\n")


def differences(found, kept, tolerance):
    """Return a line for each value that is there in one alone, or off by more than `tolerance(key, kept number)`.

    Of a sketch the first number, its length, says what all three may be off.
    """
    lines = [f"{key}: new, {found[key]}" for key in found.keys() - kept.keys()]
    lines += [f"{key}: gone" for key in kept.keys() - found.keys()]
    for key in sorted(found.keys() & kept.keys()):
        new, old = (value if isinstance(value, list) else [value] for value in (found[key], kept[key]))
        allowed = tolerance(key, old[0])
        off = max(abs(one - other) for one, other in zip(new, old, strict=True))
        if not off <= allowed:
            lines.append(f"{key}: {new}, kept {old}, off by {off:.2g}, {allowed:.2g} allowed")
    return lines
