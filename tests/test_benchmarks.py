"""Every benchmark runs in a tiny version, so that they cannot rot; figures are not held to bars here."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from benchmarks import aggregation, beijing_hits, local_fit, reduction, refinement


def test_ratios_and_memory_of_local_fits(capsys: pytest.CaptureFixture[str]) -> None:
    local_fit.main(["--tiny"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    for line in lines[:2]:
        ratios = dict(re.findall(r"(EM pass|Newton pass|gradient pass|whole fit) (\S+)", line))
        assert all(float(ratio) > 0 for ratio in ratios.values())
        assert float(ratios["whole fit"]) > float(ratios["EM pass"])
    assert all(float(line.split()[-1]) >= 0 for line in lines[2:])


def test_hit_rates_of_local_fits(capsys: pytest.CaptureFixture[str]) -> None:
    local_fit.main(["--hit-rate", "1", "--sizes", "600", "--long-runs", "4"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == ["paper", "overlap"]
    for line in lines:
        hits = re.search(r"hits (\d+)  of (\d+)  worst gap (\S+)", line)
        assert hits is not None
        assert hits[1] == hits[2] == "1"
        assert float(hits[3]) <= local_fit.HIT


def test_hit_rates_on_real_rows(data_path: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    few = ("--samples", "1", "--rows", "1500", "--seeds", "2", "--long-runs", "2")
    beijing_hits.main([str(data_path("beijing")), *few])
    sample, total = capsys.readouterr().out.splitlines()
    gaps = re.findall(r"(\S+e\S+)", sample)
    hits = sum(float(gap) <= local_fit.HIT for gap in gaps)
    assert total == f"hits {hits} of 2, worst gap {max(gaps, key=float)}"


@pytest.mark.slow
def test_whole_fits_of_several_draws(capsys: pytest.CaptureFixture[str]) -> None:
    local_fit.main(["--draws", "2", "--sizes", "2000"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    for line in lines:
        least, median, most = (float(value) for value in re.findall(r"(?:least|median|most) (\S+)", line))
        assert 1 < least <= median <= most


def test_what_the_priors_move(capsys: pytest.CaptureFixture[str]) -> None:
    local_fit.main(["--priors", "1", "--sizes", "2000"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    for line in lines:
        shift = re.search(r"median coefficients (\S+)", line)
        assert shift is not None
        # A weak prior moves nothing by a standard error.
        assert 0 < float(shift[1]) < 0.5


@pytest.mark.slow
def test_excess_of_every_aggregation() -> None:
    rows = [line.split("|")[1:-1] for line in aggregation.main(["--tiny"]).splitlines()[2:]]
    assert [[cell.strip() for cell in row[:2]] for row in rows] == [
        ["paper", "exchangeable"], ["paper", "sorted"], ["overlap", "exchangeable"], ["overlap", "sorted"],
        ["overlap", "three"],
    ]  # fmt: skip
    for row in rows:
        found = dict(zip(aggregation.METHODS, row[3:], strict=True))
        assert float(found["auto"]) < float(found["reduction"])


def test_majorization_minimization_at_scale(capsys: pytest.CaptureFixture[str]) -> None:
    reduction.main(["--tiny"])
    times, memory = capsys.readouterr().out.splitlines()
    pointwise, whole = (float(ns) for ns in re.findall(r"ns a cell (\S+)", times))
    assert 0.1 < pointwise / whole < 10
    peak, before = (float(value) for value in re.findall(r"MB (\S+)", memory))
    assert 0 < before <= peak < 3 * before


def test_starts_cost_and_excess_of_refinement(capsys: pytest.CaptureFixture[str]) -> None:
    refinement.main(["starts", "--models", "3"])
    refinement.main(["cost", "--rows", "1000", "--repeats", "1"])
    refinement.main(["excess", "--rows", "2000", "--seeds", "1", "--partitions", "4"])
    found, *costs, excess = capsys.readouterr().out.splitlines()
    assert found.startswith("3 random models: 0 not at a maximum")
    assert len(costs) == 5
    assert all(float(line.split()[-1]) > 0 for line in costs)
    inside = re.findall(r"(\w+): (\S+) /", excess)
    assert [name for name, _ in inside] == ["0", "3", "converged"]
    assert float(inside[-1][1]) < float(inside[0][1])


def test_wall_time_of_refinement(capsys: pytest.CaptureFixture[str]) -> None:
    refinement.main(["wall", "--rows", "6400", "--repeats", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[1:]] == ["refine=0", "refine=3", "refine=converged"]
