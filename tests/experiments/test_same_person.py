"""The page about promised rates, on simulated people in place of rendered ones."""

import numpy as np
import pytest

from reference_pipelines.experiments import same_person
from reference_pipelines.matching import calibrate, collect_pairs, realised_rates
from tests.conftest import says
from tests.matching.support import population


@pytest.fixture
def simulated(monkeypatch):
    def features(root, domain, seed, options):
        side = ["plaza", "mall"].index(domain)
        first, second = (
            population(np.random.default_rng((seed, side, k)), options.people, 6, noise=1.2 + 0.3 * side)
            for k in (0, 1)
        )
        return tuple((each + 1.5 * side, ids, cameras) for each, ids, cameras in (first, second))

    monkeypatch.setattr(same_person, "_features", features)
    return features


def test_the_page_says_what_was_counted(simulated, tmp_path, capsys):
    out = tmp_path / "page.md"
    words = ["--out", str(out), "--seeds", "2", "--people", "50"]
    status = same_person.main(words)
    text = out.read_text()
    inside = 0
    for seed in range(2):
        plaza, mall = (
            simulated(None, domain, seed, same_person.SamePersonOptions(out, 2, 50)) for domain in ("plaza", "mall")
        )
        point = calibrate(*plaza[0], rates=same_person.RATES, seed=seed).pooled.points[0]
        held_out, elsewhere = (
            realised_rates(collect_pairs(*place[1], thresholds=(point.threshold,)), replicates=2)[0]
            for place in (plaza, mall)
        )
        within = point.interval[0] <= held_out.fmr <= point.interval[1]
        inside += within
        (row,) = [
            line for line in text.partition("## Asked for: 0.1 %")[0].splitlines() if line.startswith(f"| {seed} |")
        ]
        expected = (100 * held_out.fmr, "yes" if within else "no", 100 * held_out.fnmr, 100 * elsewhere.fmr)
        assert says(row, *(each if isinstance(each, str) else f"{each:.3g} %" for each in expected))
    assert says(text, f"lies in its interval in {inside} of 2 seeds")
    assert status == (0 if inside == 2 else 1)
    assert says(text, "the mall's in 2 of 2 seeds")
    assert says(text, f"--out {out} --seeds 2 --people 50 --cameras 4 --images 2")
    assert capsys.readouterr().out.count("seed ") == 2


def test_refusals(tmp_path, capsys):
    out = tmp_path / "page.md"
    assert same_person.main(["--out", str(out), "--people", "10", "--images", "1"]) == 2
    assert says(capsys.readouterr().err, "--people x --cameras x --images must be at least 150", "got 40")
    assert same_person.main([]) == 2
    assert not out.exists()
