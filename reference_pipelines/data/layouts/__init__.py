"""The folder and file layouts of the data sets: one family a file, found by content."""

from reference_pipelines.data.layouts.find import LAYOUTS, examine, read
from reference_pipelines.data.layouts.published import PUBLISHED, Counts
from reference_pipelines.data.layouts.reading import Problem, Reading

__all__ = ["LAYOUTS", "PUBLISHED", "Counts", "Problem", "Reading", "examine", "read"]
