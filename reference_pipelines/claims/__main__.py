"""Writes claims.csv and claims_calibration.md: python -m reference_pipelines.claims docs/results."""

import sys
from pathlib import Path

from attnreid.files import write_text
from reference_pipelines.claims.calibration import as_markdown
from reference_pipelines.claims.listing import as_csv, read_claims


def main(folder: Path) -> None:
    """Write both files."""
    write_text(folder / "claims.csv", as_csv(read_claims()))
    write_text(folder / "claims_calibration.md", as_markdown())


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m reference_pipelines.claims FOLDER")
    main(Path(sys.argv[1]))
