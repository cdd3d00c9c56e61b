"""The shape of a run's JSON files: what passes, and the place that is named where one does not."""

import pytest

from reference_pipelines.reporting.shapes import Maybe, check_shape

SHAPE = {"name": str, "at": [float, float], "rows": [{"ok": bool, "camera": Maybe(int)}], "digests": {str: Maybe(str)}}
RIGHT = {
    "name": "a\udce9",
    "at": [1, float("nan")],
    "rows": [{"ok": True}, {"ok": False, "camera": 0}],
    "digests": {"x": None},
}


def test_what_has_the_shape_passes_with_other_fields():
    check_shape(RIGHT | {"more": object}, SHAPE, "file")
    check_shape(RIGHT | {"rows": [], "digests": {}}, SHAPE, "file")


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"name": 3}, r"file\.name must be text, got int"),
        ({"name": "\ud800"}, r"file\.name must be text"),
        ({"at": [1]}, r"file\.at must be a list of 2"),
        ({"at": [1, "2"]}, r"file\.at\[1\] must be a number, got str"),
        ({"at": [1, True]}, r"file\.at\[1\] must be a number, got bool"),
        ({"at": [1, 2**63]}, r"file\.at\[1\] must be a number"),
        ({"rows": {}}, r"file\.rows must be a list, got dict"),
        ({"rows": [{"ok": True}, {}]}, r"file\.rows\[1\]\.ok must be there"),
        ({"rows": [{"ok": 1}]}, r"file\.rows\[0\]\.ok must be a bool"),
        ({"rows": [{"ok": True, "camera": 1.5}]}, r"file\.rows\[0\]\.camera must be a whole number"),
        ({"rows": [3]}, r"file\.rows\[0\] must be an object"),
        ({"digests": {"x": 3}}, r"file\.digests\.x must be text"),
    ],
)
def test_the_place_is_named(change, where):
    with pytest.raises(ValueError, match=where):
        check_shape(RIGHT | change, SHAPE, "file")
