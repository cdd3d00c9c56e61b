"""The list of claims is the tables': its values, its directions, its slips; and the file in the docs is this list."""

import csv
from pathlib import Path

import pytest

from reference_pipelines.claims.listing import as_csv, read_claims
from reference_pipelines.claims.paper_values import FOLDER, Cell, paper_values

RESULTS = Path(__file__).parents[2] / "docs" / "results"
CLAIMS = {claim.id: claim for claim in read_claims()}


def cell(file, value, **where):
    """Return a number straight from a table's file."""
    with open(FOLDER / f"{file}.csv", encoding="utf-8", newline="") as rows:
        (line,) = (row for row in csv.DictReader(rows) if all(row[name] == each for name, each in where.items()))
    return float(line[value])


def test_the_file_in_the_docs_is_the_list():
    message = "claims.csv is old: run `python -m reference_pipelines.claims docs/results`"
    assert (RESULTS / "claims.csv").read_text(encoding="utf-8") == as_csv(list(CLAIMS.values())), message


def test_every_claim_has_its_own_name_and_its_value_is_the_tables():
    assert len(CLAIMS) == len(read_claims()) > 200
    for claim in CLAIMS.values():
        if claim.value is not None:
            assert claim.value == pytest.approx(claim.left_value - claim.right_value, abs=1e-9)
            signs = {"higher": claim.value > 0, "lower": claim.value < 0, "alike": abs(claim.value) <= claim.margin}
            assert signs[claim.direction], claim.id
            assert 0 < claim.margin <= 0.5
            if claim.direction != "alike":
                assert claim.margin <= abs(claim.value) / 2 + 1e-9


@pytest.mark.parametrize(
    ("name", "left", "right"),
    [
        (
            "apnet.split.apnet-c-3-over-stacked-attention--c--on-msmt17-map",
            ("apnet_table2_ablation", "mAP", {"model": "APNet-C_3", "dataset": "MSMT17"}),
            ("apnet_table2_ablation", "mAP", {"model": "Stacked Attention (C)", "dataset": "MSMT17"}),
        ),
        (
            "apnet.backbones.resnet101---apnet-c-2-over-resnet101-on-market-1501-rank1",
            ("apnet_table5_backbones", "rank1", {"backbone": "ResNet101", "attention": "APNet-C"}),
            ("apnet_table5_backbones", "rank1", {"backbone": "ResNet101", "attention": "none"}),
        ),
        (
            "apnet.domain-levels.apnet-c-3-over-apnet-c-1-on-dukemtmc-reid-to-market-1501-rank1",
            ("apnet_table7_cross_domain", "rank1", {"model": "APNet-C_3", "source": "DukeMTMC-reID"}),
            ("apnet_table7_cross_domain", "rank1", {"model": "APNet-C_1", "source": "DukeMTMC-reID"}),
        ),
        (
            "apnet.cost.apnet-c-3-over-apnet-0-on-224x224-gflops",
            ("apnet_table3_gflops", "gflops", {"method": "APNet-C_3"}),
            ("apnet_table3_gflops", "gflops", {"method": "APNet-C_0"}),
        ),
        (
            "mla.all.mla-over-baseline-on-personx-rank10",
            ("mla_tables2to5_own_rows", "rank10", {"model": "MLA", "dataset": "PersonX"}),
            ("mla_tables2to5_own_rows", "rank10", {"model": "Cluster contrast", "dataset": "PersonX"}),
        ),
        (
            "mla.hierarchical.hierarchical---attention-over-hierarchical-on-dukemtmc-reid-map",
            ("mla_table1_hierarchical_clustering", "mAP", {"model": "with attention", "dataset": "DukeMTMC-reID"}),
            ("mla_table1_hierarchical_clustering", "mAP", {"model": "without attention", "dataset": "DukeMTMC-reID"}),
        ),
    ],
)
def test_values_are_the_cells_that_they_name(name, left, right):
    claim = CLAIMS[name]
    ends = [cell(file, metric, **where) for file, metric, where in (left, right)]
    assert [claim.left_value, claim.right_value] == ends


@pytest.mark.parametrize(
    ("name", "direction", "prose"),
    [
        ("apnet.stacking.stacked-attention--s--over-apnet-s-1-on-dukemtmc-reid-map", "higher", "lower"),
        ("apnet.stacking.stacked-attention--s--over-apnet-s-1-on-msmt17-map", "higher", "lower"),
        ("apnet.others-duke.apnet-c-2-over-lag-net-on-dukemtmc-reid-map", "lower", "higher"),
        ("apnet.others-cuhk03.apnet-c-2-over-scsn-on-cuhk03-np-detected-rank1", "lower", "higher"),
        ("apnet.channel-spatial-alike.apnet-c-2-over-apnet-s-2-on-dukemtmc-reid-map", "higher", "alike"),
        ("mla.domain.dla-over-baseline-on-msmt17-map", "lower", "higher"),
        ("mla.pixel-and-head.pla-hla-over-baseline-on-market-1501-map", "lower", "silent"),
    ],
)
def test_where_prose_and_table_differ_the_table_stands_and_the_row_says_so(name, direction, prose):
    claim = CLAIMS[name]
    assert claim.direction == direction
    assert claim.prose.endswith(prose)


def test_one_row_that_is_printed_in_several_tables_has_one_name():
    values = paper_values()
    assert values[Cell("apnet", "APNet-C_2", "Market-1501", "mAP")] == 90.5
    assert values[Cell("apnet", "APNet-C_2", "CUHK03-NP labeled", "rank1")] == 87.4
    # Table IV mixes two rows of Table II, which stands.
    assert values[Cell("apnet", "APNet-S_2", "MSMT17", "mAP")] == 58.9
    assert not {cell.row for cell in values} & {"APNet-C", "APNet-S", "ALL", "Cluster contrast", "ResNet50"}


def test_every_row_of_the_papers_own_tables_is_in_a_claim():
    claimed = {(claim.paper, row) for claim in CLAIMS.values() for row in (claim.left, claim.right)}
    own = {(cell.paper, cell.row) for cell in paper_values()}
    assert own - claimed <= {("apnet", "PGFA")}
