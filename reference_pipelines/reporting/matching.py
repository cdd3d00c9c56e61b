"""Thresholds, verdicts and open-set scores in words and tables, as the commands print them."""

from collections.abc import Mapping, Sequence
from typing import Any

from reference_pipelines.matching import Calibration, Drift, OperatingPoint, Verdict
from reference_pipelines.text_table import format_table

NONE = "-"
_HEADINGS = ("pairs", "FMR", "threshold", "FMR expected", "FNMR [95 %]", "people", "genuine", "impostor")


def format_calibration(calibration: Calibration) -> str:
    """Return the table of the scales, and below what is not estimable and which cameras share."""
    scales = {"all, pooled": calibration.pooled}
    scales |= {f"cameras {first}, {second}": scale for (first, second), scale in calibration.camera_pairs.items()}
    rows, notes = [], []
    for name, scale in scales.items():
        counts = (f"{scale.people:,}", f"{scale.genuine:,}", f"{scale.impostors:,}")
        for k, point in enumerate(scale.points):
            rows.append((name if k == 0 else "", *_point(point), *(counts if k == 0 else ("", "", ""))))
        instead = "" if scale is calibration.pooled else "; the pooled threshold is used"
        notes += [f"{name}, FMR {_percent(p.rate)}: {p.reason}{instead}" for p in scale.points if p.reason]
    between = len(calibration.cameras) * (len(calibration.cameras) - 1) // 2
    if shared := between - len(calibration.camera_pairs):
        notes.append(f"{shared} of {between} pairs of cameras have too few images and use the pooled thresholds")
    if calibration.drift is None:
        notes.append("too few images to say later whether a gallery looks unlike them")
    return "\n".join([format_table(rows, _HEADINGS, words=1), "", *(f"note: {note}" for note in notes)]).rstrip()


def describe_verdict(verdict: Verdict) -> str:
    """Return what a verdict says, in two lines."""
    answer = "same person" if verdict.same else "not the same person"
    sign = ">=" if verdict.same else "<"
    expected = f", {_interval(verdict.interval)} expected" if verdict.interval else ""
    likely = (
        "" if verdict.probability is None else f", probability {verdict.probability:.3f} at prior {verdict.prior:g}"
    )
    return (
        f"{answer}: similarity {verdict.similarity:.4f} {sign} {verdict.threshold:.4f}{likely}\n"
        f"false-match rate {_percent(verdict.rate)}{expected}; {verdict.scale}"
    )


def describe_drift(drift: Drift, gallery: str) -> str:
    """Return in a sentence whether a gallery looks unlike the calibration's images."""
    figures = (
        f"similarities {drift.distance:.3f} apart, limit {drift.limit:.3f}; means {drift.away:.3f} apart, limit "
        f"{drift.away_limit:.3f}; {drift.images} images"
    )
    if not drift.unlike:
        return f"{gallery} looks like the calibration's images ({figures})"
    how = "more" if drift.shift > 0 else "less"
    return (
        f"note: {gallery} looks unlike the calibration's images ({figures}; its images are {how} "
        f"alike, by {abs(drift.shift):.3f} in the median): the false-match rate need not hold; calibrate on images of "
        "that place"
    )


def format_open_set(numbers: Mapping[str, Any]) -> str:
    """Return an evaluation's open-set scores: error rates, identification, and how a stored calibration held.

    Args:
        numbers: of `evaluate`, with `open_set`.
    """
    found = numbers["open_set"]
    pairs, search = found["verification"], found["identification"]
    lines = [
        f"one person or two: {pairs['genuine']:,} genuine and {pairs['impostors']:,} impostor pairs of "
        f"{pairs['people']:,} people in {pairs['images']:,} images",
        format_table(
            [
                (_percent(p["rate"]), _number(p["threshold"]), _with_interval(p["fnmr"], p["fnmr_interval"]))
                for p in pairs["points"]
            ],
            ("FMR", "threshold", "FNMR [95 %]"),
            words=0,
        ),
        *_reasons("FMR", pairs["points"]),
        "",
    ]
    if "missing" in search:
        lines.append(f"who is it, or nobody: {search['missing']}")
    else:
        lines += [
            f"who is it, or nobody: {search['mated']:,} probes of {search['people'][0]:,} people in a gallery of "
            f"{search['gallery']:,} images, {search['non_mated']:,} of {search['people'][1]:,} people who are not",
            format_table(
                [
                    (_percent(p["rate"]), _number(p["threshold"]), _with_interval(p["tpir"], p["tpir_interval"]))
                    for p in search["points"]
                ],
                ("FPIR", "threshold", "TPIR [95 %]"),
                words=0,
            ),
            *_reasons("FPIR", search["points"]),
        ]
    return "\n".join([*lines, "", *_stored(found["calibration"])])


def _stored(found: Mapping[str, Any]) -> list[str]:
    if "missing" in found:
        return [f"stored calibration: {found['missing']}"]
    rows = [
        (
            _percent(each["rate"]),
            _number(each["threshold"]),
            _interval(each["expected"]),
            _with_interval(each["fmr"], each["fmr_interval"]),
            _with_interval(each["fnmr"], each["fnmr_interval"]),
        )
        for each in found["points"]
    ]
    lines = [f"the stored thresholds, of {found['data']}, on these images", found["drift"]]
    return [*lines, format_table(rows, ("FMR", "threshold", "FMR expected", "FMR here", "FNMR here"), words=0)]


def _reasons(name: str, points: Sequence[Mapping[str, Any]]) -> list[str]:
    return [f"note: {name} {_percent(point['rate'])}: {point['reason']}" for point in points if point["reason"]]


def _point(point: OperatingPoint) -> tuple[str, ...]:
    return (
        _percent(point.rate),
        _number(point.threshold),
        _interval(point.interval),
        _with_interval(point.fnmr, point.fnmr_interval),
    )


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.4f}"


def _interval(interval: Sequence[float] | None) -> str:
    return NONE if interval is None else f"{100 * interval[0]:.3g} to {100 * interval[1]:.3g} %"


def _with_interval(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None:
        return NONE
    ends = NONE if interval is None else ", ".join(f"{100 * end:.3g}" for end in interval)
    return f"{100 * value:.3g} % [{ends}]"
