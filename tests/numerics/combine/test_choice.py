"""The choice between candidates: rows are what is counted, and nothing else about them matters."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from daskmoe.numerics.base.parameters import FloatArray, MoEParameters, SupportSample
from daskmoe.numerics.base.policies import CHOICE
from daskmoe.numerics.combine.choice import _choose, _drawn_log_densities
from numerics.oracles import GAUSSIAN, gaussian_model


def line(intercept: float, slope: float, variance: float = 1.0) -> MoEParameters:
    return gaussian_model(np.zeros((1, 2)), np.array([[intercept, slope]]), np.array([variance]))


@pytest.mark.parametrize(("deviations", "expected"), [(1.5, "line"), (2.5, "level")])
def test_drawn_responses_count_once_a_row(deviations: float, expected: str, rng: np.random.Generator) -> None:
    """Responses that hardly vary say the same five times: a lead of 1.5 standard errors over rows is none."""
    x = rng.standard_normal(200)
    lead = deviations * np.std(x**2) / np.sqrt(x.size)
    candidates = {"line": line(0.0, 1.0), "level": line(float(np.sqrt(np.mean(x**2) - lead)), 0.0)}
    support = SupportSample(x[:, None], None, np.full(x.size, 1 / x.size))
    origin = np.zeros(x.size, dtype=np.intp)
    values = _drawn_log_densities(candidates, support, origin, [line(0.0, 0.0, 1e-16)], GAUSSIAN, rng)
    chosen, scores = _choose(values, support.weight)
    assert scores["level"] - scores["line"] == pytest.approx(0.5 * lead, rel=1e-4)
    assert chosen == expected


def test_drawn_responses_are_of_each_rows_own_partition(rng: np.random.Generator) -> None:
    x = np.linspace(-1, 1, 50)
    origin = rng.integers(0, 2, 50)
    locals_ = [line(0.0, 1.0, 1e-16), line(5.0, -2.0, 1e-16)]
    support = SupportSample(x[:, None], None, np.full(50, 0.02))
    candidates = dict(zip("ab", [line(0.0, 1.0), line(5.0, -2.0)], strict=True))
    values = _drawn_log_densities(candidates, support, origin, locals_, GAUSSIAN, rng)
    assert {name: value.shape for name, value in values.items()} == {"a": (50,), "b": (50,)}
    for m, name in enumerate("ab"):
        np.testing.assert_allclose(values[name][origin == m], -0.5 * np.log(2 * np.pi), atol=1e-6)


def some_values(gains: dict[str, float], noise: dict[str, float]) -> dict[str, FloatArray]:
    """Values of 100 rows: the gain over the first, and its standard error."""
    wave = np.resize([1.0, -1.0], 100) * 10.0
    return {name: gain + noise[name] * wave for name, gain in gains.items()}


def test_the_best_of_those_that_beat_the_first_is_taken_in_any_order() -> None:
    """One after the other, "far" is out of reach from "near" in one order and taken in another."""
    gains = {"first": 0.0, "near": 0.3, "far": 0.5, "noisy": 0.9}
    values = some_values(gains, {"first": 0.0, "near": 0.1, "far": -0.2, "noisy": 0.6})
    weight = np.full(100, 0.01)
    for order in itertools.permutations(["near", "far", "noisy"]):
        chosen, scores = _choose({name: values[name] for name in ("first", *order)}, weight)
        assert chosen == "far"
        assert scores == pytest.approx(gains)


def test_a_lead_within_the_margin_or_the_error_is_none() -> None:
    weight = np.full(100, 0.01)
    values = some_values({"first": 0.0, "other": 0.1}, {"first": 0.0, "other": 0.01})
    assert _choose(values, weight)[0] == "other"
    assert _choose(values, weight, margin=0.2)[0] == "first"
    values = some_values({"first": 0.0, "other": 0.1}, {"first": 0.0, "other": 0.11 / CHOICE.deviations})
    assert _choose(values, weight)[0] == "first"


def test_what_is_no_number_is_never_taken_where_another_is() -> None:
    weight = np.full(100, 0.01)
    values = some_values(
        {"first": 0.0, "other": 0.1, "third": -0.3}, dict.fromkeys(["first", "other", "third"], 0)
    )
    lost = np.full(100, -np.inf)
    assert _choose({**values, "first": lost}, weight)[0] == "other"
    assert _choose({**values, "other": np.full(100, np.nan)}, weight)[0] == "first"
    assert _choose(dict.fromkeys(["first", "other"], lost), weight)[0] == "first"
