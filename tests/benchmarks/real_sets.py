"""Every set of a folder of real data: what each way to fit loses against the best of all, and what it costs.

Rows stay in their order and go to partitions as they come; a fifth of them, drawn once, is held out. Ways are
a fit to all rows at once, `fit` by default, its reduction, and the default refined by three rounds and to
convergence (their times and warnings have the fit's in them). For each set and number of experts the table
has, over seeds,

- nats a row below the best log-likelihood of training rows that any seed and way found, and the same of the
  penalized objective, which is one function of the training rows for all ways,
- held-out nats a row above least squares, and held-out RMSE over that of least squares,
- the share of held-out targets inside their 90 % interval of prediction,
- rounds, how many fits converged, warnings (raised or logged), and processor time over that of one EM pass of
  all training rows.

A set of which the file is absent is left out with a note. `real_rows.LOADERS` has the layout of the folder.

    PYTHONPATH=tests python -m benchmarks.real_sets FOLDER
    PYTHONPATH=tests python -m benchmarks.real_sets FOLDER --sets metro,diamonds --k 2,4 --rows 12000
    PYTHONPATH=tests python -m benchmarks.real_sets FOLDER --sets mmash --ways auto,local --seeds 10
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import dask
import numpy as np
import xarray as xr

import daskmoe
from benchmarks.local_fit import GAUSSIAN, problem_of, seconds
from benchmarks.real_rows import LOADERS, Split, split
from daskmoe import MixtureOfExperts
from daskmoe.engine.threads import single_threaded_blas
from daskmoe.numerics.base.observations import Observations
from daskmoe.numerics.base.parameters import MoEParameters
from daskmoe.numerics.likelihood.e_step import Runs
from daskmoe.numerics.local.em import em_statistics
from daskmoe.options import Rounds

LEVEL = 0.9
REFINED: dict[str, Rounds] = {"refine3": 3, "converged": "converged"}
WAYS = ("local", "auto", "reduction", *REFINED)
LEAST_SQUARES = "least squares"
# Of a warning, enough to tell it from others.
FIRST_WORDS = 110


# Fits.


class Attempt(NamedTuple):
    """A fit, what it took and what it said; no model where it raised."""

    model: MixtureOfExperts | None
    seconds: float
    said: list[str]


class Figures(NamedTuple):
    """What one fit is judged by; log-likelihoods in nats a row. Not a number where it failed."""

    data: str
    n_rows: int
    n_features: int
    n_experts: int
    way: str
    seed: int
    training: float
    objective: float
    held_out: float
    rmse: float
    inside: float
    rounds: int | None
    converged: bool | None
    passes: float
    said: list[str]

    def line(self) -> str:
        """For those who watch."""
        return (
            f"{self.data} K={self.n_experts} seed {self.seed} {self.way}: {self.training:.5f} nats a row, "
            f"held out {self.held_out:.4f}, {self.passes:.0f} EM passes, {len(self.said)} warnings"
        )


class Notes(logging.Handler):
    """Collects what is logged as a warning or worse."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(f"logged: {record.getMessage()}")


@contextmanager
def all_that_is_said() -> Iterator[list[str]]:
    """A list that holds, afterwards, the warnings and logged warnings of the package."""
    said: list[str] = []
    logger, notes = logging.getLogger("daskmoe"), Notes()
    logger.addHandler(notes)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield said
    finally:
        logger.removeHandler(notes)
        said += [f"{entry.category.__name__}: {entry.message}" for entry in caught] + notes.texts


def attempt(fit: Callable[[], MixtureOfExperts]) -> Attempt:
    """Run a fit, with its processor time and all that it says."""
    model = None
    with all_that_is_said() as said:
        began = time.process_time()
        try:
            model = fit()
        # Whatever ends one fit is a row of the table and not the end of a study of hours.
        except Exception as error:
            said.append(f"{type(error).__name__}: {error}")
        spent = time.process_time() - began
    return Attempt(model, spent, [" ".join(text.split())[:FIRST_WORDS] for text in said])


def fit_all(
    data: xr.Dataset, n_experts: int, seed: int, partitions: int, ways: Sequence[str]
) -> Iterator[tuple[str, Attempt]]:
    """Every way of one seed."""
    common: dict[str, Any] = {"n_experts": n_experts, "random_state": seed}
    if "local" in ways:
        yield "local", attempt(partial(daskmoe.fit_local, data, "y", **common))
    common["partitions"] = partitions
    if "reduction" in ways:
        yield "reduction", attempt(partial(daskmoe.fit, data, "y", aggregation="reduction", **common))
    refined = [way for way in REFINED if way in ways]
    if "auto" not in ways and not refined:
        return
    auto = attempt(partial(daskmoe.fit, data, "y", **common))
    if "auto" in ways:
        yield "auto", auto
    for way in refined:
        if auto.model is None:
            yield way, auto
            continue
        found = attempt(partial(daskmoe.refine, auto.model, data, rounds=REFINED[way], partitions=partitions))
        yield way, found._replace(seconds=auto.seconds + found.seconds, said=auto.said + found.said)


def judge(data: Split, n_experts: int, way: str, seed: int, found: Attempt, pass_seconds: float) -> Figures:
    """Figures of one fit."""
    n_rows, n_features = data.training["X"].shape
    what = (data.name, n_rows, n_features, n_experts, way, seed)
    passes = found.seconds / pass_seconds
    if found.model is None:
        return Figures(*what, *5 * (np.nan,), None, None, passes, found.said)
    model, target = found.model, data.held_out["y"]
    interval = model.predict_interval(data.held_out, LEVEL)
    inside = (interval["lower"] <= target) & (target <= interval["upper"])
    error = model.predict(data.held_out) - target
    return Figures(
        *what,
        training=model.log_likelihood(data.training) / n_rows,
        objective=objective_of(model, data.training) / n_rows,
        held_out=model.log_likelihood(data.held_out) / target.size,
        rmse=float(np.sqrt((error**2).mean())),
        inside=float(inside.mean()),
        rounds=rounds_of(model) if way in REFINED else None,
        converged=has_converged(model, way),
        passes=passes,
        said=found.said,
    )


def objective_of(model: MixtureOfExperts, data: xr.Dataset) -> float:
    """The penalized log-likelihood of all rows, which does not depend on how the model was fitted."""
    problem = problem_of(observations(data), model.n_experts)
    inner = problem.coordinates.from_data(model.parameters)
    return problem.objective(inner) - problem.rows.n_rows * problem.coordinates.log_jacobian


def observations(data: xr.Dataset) -> Observations:
    return Observations(data["X"].values, data["y"].values)


def rounds_of(model: MixtureOfExperts) -> int | None:
    return None if model.diagnostics is None else model.diagnostics.sizes.get("round")


def has_converged(model: MixtureOfExperts, way: str) -> bool | None:
    """None for what is found without iterating."""
    if model.diagnostics is None or way in ("auto", LEAST_SQUARES):
        return None
    return bool(model.diagnostics.attrs["refinement_converged" if way in REFINED else "converged"])


def seconds_of_pass(data: xr.Dataset, parameters: MoEParameters, n_experts: int) -> float:
    """Processor time of one EM pass over all training rows, at experts that are all the same."""
    problem = problem_of(observations(data), n_experts)
    same = parameters.take(np.zeros(n_experts, np.intp))
    runs = Runs.one(problem.coordinates.from_data(same))
    return seconds(lambda: em_statistics(runs, problem.rows.blocks(problem.coordinates), GAUSSIAN), 3)


def study(
    data: Split, sizes: Sequence[int], seeds: int, partitions: int, ways: Sequence[str]
) -> Iterator[Figures]:
    """Figures of one set, those of least squares first at each number of experts."""
    least = attempt(partial(daskmoe.fit_local, data.training, "y", n_experts=1, random_state=0))
    assert least.model is not None
    for n_experts in sizes:
        pass_seconds = seconds_of_pass(data.training, least.model.parameters, n_experts)
        yield judge(data, n_experts, LEAST_SQUARES, 0, least, pass_seconds)
        for seed in range(seeds):
            for way, found in fit_all(data.training, n_experts, seed, partitions, ways):
                yield judge(data, n_experts, way, seed, found, pass_seconds)


# The table.


HEADER = (
    "set", "rows x features", "K", "way", "nats below best", "objective below best", "held-out nats above LS",
    "RMSE / LS", f"inside {LEVEL:.0%}", "rounds", "converged", "warnings", "EM passes",
)  # fmt: skip


def spread(values: Sequence[float], shown: str, worst: Callable[[Sequence[float]], float] = max) -> str:
    """Median and worst; nothing where there is no value."""
    values = [value for value in values if not np.isnan(value)]
    if not values:
        return ""
    median = format(float(np.median(values)), shown)
    return median if len(values) == 1 else f"{median}, {worst(values):{shown}}"


def row_of(fits: Sequence[Figures], best: Figures, least: Figures) -> list[str]:
    """Cells of the fits of one way, against the best values of their set and K."""
    first = fits[0]
    ends = [fit.converged for fit in fits if fit.converged is not None]
    return [
        first.data, f"{first.n_rows} x {first.n_features}", str(first.n_experts), first.way,
        spread([best.training - fit.training for fit in fits], ".1e"),
        spread([best.objective - fit.objective for fit in fits], ".1e"),
        spread([fit.held_out - least.held_out for fit in fits], "+.4f", min),
        spread([fit.rmse / least.rmse for fit in fits], ".4f"),
        spread([fit.inside for fit in fits], ".3f", lambda shares: max(shares, key=lambda s: abs(s - LEVEL))),
        spread([fit.rounds for fit in fits if fit.rounds is not None], ".0f"),
        f"{sum(ends)} of {len(ends)}" if ends else "",
        str(sum(len(fit.said) for fit in fits)),
        spread([fit.passes for fit in fits], ".0f"),
    ]  # fmt: skip


def format_table(found: Sequence[Figures]) -> str:
    """A Markdown table, a row a set, K and way (medians and worst over seeds), and what the fits said."""
    lines = ["| " + " | ".join(HEADER) + " |", "|---" * len(HEADER) + "|"]
    notes: Counter[str] = Counter()
    for case in dict.fromkeys((fit.data, fit.n_experts) for fit in found):
        of_case = [fit for fit in found if (fit.data, fit.n_experts) == case]
        least = of_case[0]
        best = least._replace(
            training=np.nanmax([fit.training for fit in of_case]),
            objective=np.nanmax([fit.objective for fit in of_case]),
        )
        for way in (LEAST_SQUARES, *WAYS):
            fits = [fit for fit in of_case if fit.way == way]
            if fits:
                lines.append("| " + " | ".join(row_of(fits, best, least)) + " |")
            notes.update(f"{case[0]}, K = {case[1]}, {way}: {text}" for fit in fits for text in fit.said)
    return "\n".join([*lines, "", *(f"- {text} ... ({count})" for text, count in notes.items())])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study that the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="with a folder for each set")
    parser.add_argument("--sets", default=",".join(LOADERS), help="some of %(default)s")
    parser.add_argument("--k", default="2,4", help="numbers of experts")
    parser.add_argument("--ways", default=",".join(WAYS), help="some of %(default)s")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, help="draw so many of each set; all by default")
    parser.add_argument("--partitions", type=int, default=16)
    parser.add_argument("--json", type=Path, help="file for the figures of every fit")
    chosen = parser.parse_args(arguments)
    sizes, ways = [int(text) for text in chosen.k.split(",")], chosen.ways.split(",")
    for kind, asked, known in (("set", chosen.sets.split(","), LOADERS), ("way", ways, WAYS)):
        for name in asked:
            if name not in known:
                parser.error(f"no {kind} {name!r}: expected some of {', '.join(known)}")
    found: list[Figures] = []
    with dask.config.set(scheduler="synchronous"), single_threaded_blas():
        for name in chosen.sets.split(","):
            folder, load = LOADERS[name]
            try:
                data = split(name, load(chosen.folder / folder), chosen.rows)
            except (OSError, ImportError, SystemExit) as reason:
                sys.stdout.write(f"{name} is left out: {reason}\n")
                continue
            for fit in study(data, sizes, chosen.seeds, chosen.partitions, ways):
                found.append(fit)
                sys.stderr.write(fit.line() + "\n")
                if chosen.json:
                    chosen.json.write_text(json.dumps([each._asdict() for each in found], indent=1))
    sys.stdout.write(format_table(found) + "\n")


if __name__ == "__main__":
    main()
