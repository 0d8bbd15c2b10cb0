"""Every benchmark runs in a tiny version, so that they cannot rot; figures are not held to bars here."""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
import warnings
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path

import dask
import numpy as np
import pytest
from benchmarks import (
    aggregation,
    beijing_hits,
    compare,
    cost,
    families,
    golden,
    growth,
    local_fit,
    reading,
    real_rows,
    real_sets,
    real_sets_figure,
    reduction,
    refinement,
    selection,
)

import daskmoe

ROOT = Path(__file__).resolve().parent.parent
# A wrong answer that is as small as may be.
DOCTORED = """
honest = MixtureOfExperts.log_likelihood
MixtureOfExperts.log_likelihood = lambda self, data, **how: (1 + 1e-9) * honest(self, data, **how)
"""


def test_ratios_and_memory_of_local_fits(capsys: pytest.CaptureFixture[str]) -> None:
    local_fit.main(["--tiny"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    for line in lines[:2]:
        ratios = dict(re.findall(r"(EM pass|Newton pass|gradient pass|whole fit) (\S+)", line))
        assert all(float(ratio) > 0 for ratio in ratios.values())
        assert float(ratios["whole fit"]) > float(ratios["EM pass"])
    assert all(float(line.split()[-1]) >= 0 for line in lines[2:])


def test_cost_against_experts_and_features(capsys: pytest.CaptureFixture[str]) -> None:
    cells = [cost.measure(400, experts, 2) for experts in (1, 2)]
    cost.report("K", cells, [1, 2])
    lines = capsys.readouterr().out.splitlines()
    assert lines[3].startswith("| 1 | 4 |")
    assert lines[4].startswith("| 2 | 11 |")
    assert re.fullmatch(r"1 to 2: exponents \S+ of time, \S+ of memory", lines[5])


def test_hit_rates_of_local_fits(capsys: pytest.CaptureFixture[str]) -> None:
    local_fit.main(["--hit-rate", "1", "--sizes", "1000", "--long-runs", "4"])
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


# Some estimators end below one regression line there, which is what the study shows.
@pytest.mark.filterwarnings("ignore::daskmoe.errors.FitWarning")
@pytest.mark.slow
def test_excess_of_every_aggregation() -> None:
    table = aggregation.main(["--tiny", "--designs", "overlap"])
    rows = [line.split("|")[1:-1] for line in table.splitlines()[2:]]
    assert [[cell.strip() for cell in row[:2]] for row in rows] == [
        ["overlap", "exchangeable"], ["overlap", "sorted"], ["overlap", "three"]
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
    # The shared start of so few rows is at their maximum already.
    assert float(inside[-1][1]) <= float(inside[0][1])


def test_wall_time_of_refinement(capsys: pytest.CaptureFixture[str]) -> None:
    refinement.main(["wall", "--rows", "6400", "--repeats", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[1:]] == ["refine=0", "refine=3", "refine=converged"]


def cells(table: str) -> list[dict[str, str]]:
    """The rows of a Markdown table by the names of its columns."""
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    header, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    return [dict(zip(header, row, strict=True)) for row in rows]


def simulated_set(n_rows: int) -> real_rows.Split:
    data, _ = daskmoe.simulate(n_rows, n_features=2, n_experts=2, design="paper", random_state=0)
    names = [str(name) for name in data["feature"].values]
    return real_rows.split("simulated", real_rows.Table(names, data["X"].values, data["y"].values))


def test_ways_to_fit_a_set() -> None:
    data = simulated_set(1_000)
    assert data.training.sizes["row"] == 800
    assert data.held_out.sizes["row"] == 200
    with dask.config.set(scheduler="synchronous"):
        found = list(real_sets.study(data, [2], 1, 2, real_sets.WAYS))
    rows = cells(real_sets.format_table(found))
    assert [row["way"] for row in rows] == [real_sets.LEAST_SQUARES, *real_sets.WAYS]
    by_way = {row["way"]: row for row in rows}
    assert by_way[real_sets.LEAST_SQUARES]["RMSE / LS"] == "1.0000"
    assert float(by_way[real_sets.LEAST_SQUARES]["nats below best"]) > 0.1
    assert min(float(row["nats below best"]) for row in rows) == 0
    assert float(by_way["converged"]["objective below best"]) <= local_fit.HIT
    assert by_way["converged"]["converged"] == "1 of 1"
    assert int(by_way["refine3"]["rounds"]) <= 3
    assert all(float(row["EM passes"]) > 0 for row in rows)
    assert all(0.8 < float(row["inside 90%"]) < 1 for row in rows)


def test_the_figure_of_real_sets_is_of_their_table(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    page = (ROOT / "docs" / "design" / "real_sets.md").read_text(encoding="utf-8")
    found = real_sets_figure.medians(page)
    assert [len(cases) for cases in found.values()] == [4, 4, 4, 4]
    assert all(0.5 < value < 1.5 for cases in found.values() for value in cases.values())
    real_sets_figure.draw(page, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5_000


def test_a_fit_that_fails_is_a_row_of_the_table() -> None:
    def fails() -> daskmoe.MixtureOfExperts:
        warnings.warn("more than one line\nof text", RuntimeWarning, stacklevel=1)
        logging.getLogger("daskmoe.api").warning("%d of 4 partitions were left out", 1)
        raise daskmoe.InvalidDataError("no rows")

    data = simulated_set(300)
    ended = real_sets.attempt(partial(daskmoe.fit_local, data.training, "y", n_experts=1))
    found = [
        real_sets.judge(data, 2, real_sets.LEAST_SQUARES, 0, ended, 1.0),
        real_sets.judge(data, 2, "auto", 0, real_sets.attempt(fails), 1.0),
    ]
    table = real_sets.format_table(found)
    least, failed = cells(table)
    assert least["nats below best"] == "0.0e+00"
    assert (failed["nats below best"], failed["RMSE / LS"], failed["warnings"]) == ("", "", "3")
    assert table.splitlines()[-3:] == [
        "- simulated, K = 2, auto: InvalidDataError: no rows ... (1)",
        "- simulated, K = 2, auto: RuntimeWarning: more than one line of text ... (1)",
        "- simulated, K = 2, auto: logged: 1 of 4 partitions were left out ... (1)",
    ]


def test_sets_that_are_absent_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    real_sets.main([str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:4] for line in lines[: len(real_rows.LOADERS)]] == [
        [name, "is", "left", "out:"] for name in real_rows.LOADERS
    ]


@pytest.mark.parametrize(("name", "shape"), [("metro", (48_204, 65)), ("diamonds", (53_940, 23))])
def test_rows_of_real_sets(name: str, shape: tuple[int, int], data_path: Callable[[str], Path]) -> None:
    pytest.importorskip("pyarrow")
    found = real_rows.LOADERS[name][1](data_path(name))
    assert found.features.shape == shape
    assert len(found.names) == shape[1]
    some = real_rows.split(name, found, 1_000)
    assert (some.training.sizes["row"], some.held_out.sizes["row"]) == (800, 200)


@pytest.mark.slow
def test_a_checkout_gives_the_answers_that_it_gives(capsys: pytest.CaptureFixture[str]) -> None:
    compare.main(["answers", str(ROOT), str(ROOT), "--tiny"])
    *lines, total = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[0] for line in lines if "note:" not in line] == list(golden.TINY_CASES)
    assert total == f"{len(golden.TINY_CASES)} of {len(golden.TINY_CASES)} cases agree"


@pytest.mark.slow
def test_a_checkout_with_other_answers_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(ROOT / "daskmoe", tmp_path / "daskmoe", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "daskmoe" / "__init__.py").open("a") as file:
        file.write(DOCTORED)
    with pytest.raises(SystemExit) as ended:
        compare.main(["answers", str(ROOT), str(tmp_path), "--tiny", "--only", "paper"])
    assert ended.value.code == 1
    _, row, reason, total = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"paper +1\.0e-09 +equal +DIFFERS", row)
    assert reason.split() == ["log_likelihood:", "by", "1.0e-09"]
    assert total == "0 of 1 cases agree"


def test_what_counts_as_another_answer() -> None:
    known = {
        "params.coef": np.array([[1e3, 2.0], [np.nan, 0.0]]),
        "diagnostics.passes": np.array([7, 8]),
        "diagnostics.attrs.aggregation": np.array("one-shot"),
        "note.options": np.array("{}"),
    }
    agreed = compare.Verdict(0.0, "equal", [], [])
    assert compare.compare_case(known, known) == agreed

    def verdict(name: str, value: object) -> compare.Verdict:
        return compare.compare_case(known, {**known, name: np.array(value)})

    near = verdict("params.coef", [[1e3, 2.0 + 5e-8], [np.nan, 0.0]])
    assert near.differing == []
    assert near.largest == pytest.approx(5e-11)
    for value in (
        [[1e3, 2.0 + 5e-7], [np.nan, 0.0]],
        [[1e3, 2.0], [0.0, 0.0]],
        [[1e3, 2.0]],
        [[1, 2], [3, 4]],
    ):
        assert len(verdict("params.coef", value).differing) == 1
    assert verdict("diagnostics.passes", [7, 9])._replace(differing=[]) == agreed._replace(passes="not equal")
    assert verdict("diagnostics.attrs.aggregation", "pilot").differing[0].endswith("'one-shot', then 'pilot'")
    noted = verdict("note.options", "{more}")
    assert (noted.differing, len(noted.notes)) == ([], 1)
    assert verdict("diagnostics.new", 1).notes == ["diagnostics.new: only after"]
    assert verdict("params.new", 1.0).differing == ["params.new: only after"]
    assert verdict("error", "ValueError: no").differing == ["after: ValueError: no"]


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_results_of_a_commit_are_kept(tmp_path: Path) -> None:
    module = tmp_path / "daskmoe" / "__init__.py"
    module.parent.mkdir()
    scratch, options = tmp_path / "scratch", Namespace(cache=tmp_path / "cache", data=None, tiny=True)

    def folder() -> Path:
        return compare.results_folder(tmp_path, scratch, options)

    def commit(text: str) -> Path:
        module.write_text(text)
        who = "-c user.name=a -c user.email=a@b -c commit.gpgsign=false"
        for command in ("init --quiet", "add daskmoe", f"{who} commit --quiet --message=change"):
            subprocess.run(["git", *command.split()], cwd=tmp_path, check=True)
        return folder()

    first = commit("one = 1\n")
    assert first.parent == options.cache
    assert commit("two = 2\n") not in (first, scratch)
    module.write_text("three = 3\n")
    assert folder() == scratch
    assert commit("one = 1\n") == first


@pytest.mark.slow
def test_speed_of_a_checkout_beside_itself(capsys: pytest.CaptureFixture[str]) -> None:
    few = ("--rows", "1500", "--repeats", "1", "--only", "EM pass", "MM *")
    # Noise may miss the bar.
    try:
        compare.main(["speed", str(ROOT), str(ROOT), *few])
    except SystemExit as ended:
        assert ended.code == 1  # noqa: PT017
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line[:12] for line in lines] == ["EM pass     ", "MM iteration"]
    assert all(float(line.split()[2]) > 0 for line in lines)


def test_what_a_checkpoint_saves_where_a_store_grows(capsys: pytest.CaptureFixture[str]) -> None:
    growth.main(["--tiny"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["reduction", "auto"]
    for line in lines:
        assert all(float(value) > 0 for value in re.findall(r"(?:full|grown|rows|keeping) +(\S+)", line))


def test_families_are_measured_beside_the_fit_of_all_rows(capsys: pytest.CaptureFixture[str]) -> None:
    one = ["--families", "poisson"]
    families.main(["accuracy", "--rows", "2000", "--partitions", "2", "--seeds", "1", *one])
    (row,) = cells(capsys.readouterr().out)
    assert all(abs(float(row[head].split(",")[0])) < 1e-3 for head in row if head != "family")
    families.main(["coverage", "--rows", "1500", "--datasets", "1", *one])
    assert float(capsys.readouterr().out.split()[1]) > 0.8
    families.main(["passes", "--rows", "2000", "--repeats", "1", *one])
    assert "EM pass" in capsys.readouterr().out


def test_selection_finds_what_drew_the_data(capsys: pytest.CaptureFixture[str]) -> None:
    selection.main(["--draws", "1", "--rows", "2000", "--features", "2", "--most", "4"])
    assert "1 draws; chosen 3: 1; time over single fits" in capsys.readouterr().out


def test_what_it_takes_to_read_a_partition(capsys: pytest.CaptureFixture[str]) -> None:
    reading.main(["--rows", "400", "--repeats", "2"])
    assert all(float(ratio) > 0 for ratio in re.findall(r"ratio +(\S+)", capsys.readouterr().out))
