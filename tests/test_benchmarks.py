"""Every benchmark runs in a tiny version, so that they cannot rot; figures are not held to bars here."""

from __future__ import annotations

import re

import pytest
from benchmarks import local_fit


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
    local_fit.main(["--tiny", "--hit-rate", "1", "--sizes", "600"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == ["paper", "overlap"]
    for line in lines:
        hits = re.search(r"hits (\d+)  of (\d+)  worst gap (\S+)", line)
        assert hits is not None
        assert int(hits[1]) <= int(hits[2]) == 1
        assert float(hits[3]) >= 0


def test_what_the_priors_move(capsys: pytest.CaptureFixture[str]) -> None:
    local_fit.main(["--priors", "1", "--sizes", "2000"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    for line in lines:
        shift = re.search(r"median coefficients (\S+)", line)
        assert shift is not None
        # A weak prior moves nothing by a standard error.
        assert 0 < float(shift[1]) < 0.5
