"""scikit-learn's own checks of what it takes for an estimator, and its tools with ours."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.exceptions import NotFittedError as TheirNotFittedError
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_html_repr
from sklearn.utils.estimator_checks import estimator_checks_generator

import daskmoe
from daskmoe import MoEClassifier, MoERegressor
from daskmoe.estimators.contract import Estimator
from daskmoe.options import FitOptions


def quick(n_experts: int = 2, **options: Any) -> MoERegressor:
    return MoERegressor(n_experts, **({"random_state": 0, "n_init": 3} | options))


@pytest.fixture
def rows() -> tuple[NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 2))
    return X, np.where(X[:, 0] > 0, 3.0, -1.0) * X[:, 1] + 0.1 * rng.normal(size=600)


# Few starts for the classifier, whose checks fit more often.
CHECKED = (MoERegressor(), MoEClassifier(n_init=1, effort=0.1))


def all_checks() -> list[Any]:
    with warnings.catch_warnings():
        # It is told that the estimators are none of its classes, as they are meant to be.
        warnings.simplefilter("ignore", UserWarning)
        return [pair for estimator in CHECKED for pair in estimator_checks_generator(estimator)]


def name_of(value: Any) -> str:
    if isinstance(value, Estimator):
        return type(value).__name__
    options = [str(option) for option in value.keywords.values()]
    return "-".join([getattr(value.func, "__name__", "check"), *options])


# The checks make data on which a mixture is no good model, and are not asked whether it warns of it.
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("estimator", "check"), all_checks(), ids=name_of)
def test_every_check_of_scikit_learn(estimator: Estimator, check: Any) -> None:
    check(clone(estimator))


# In step with the options.


def test_the_parameters_are_the_options_of_fit() -> None:
    known = inspect.signature(MoERegressor).parameters
    fields = {each.name: each.default for each in dataclasses.fields(FitOptions)}
    # Weights are handed to `fit`, what it takes is no store whose chunks could be missing, and it is silent.
    del fields["sample_weight"], fields["missing_chunks"], fields["progress"]
    # Its target is one column.
    del fields["output_dim"]
    assert {*known} == {*fields}
    # A number of experts is needed there; here it must have a default.
    assert known["n_experts"].default == 2
    assert {n: p.default for n, p in known.items() if n != "n_experts"} == {
        name: default for name, default in fields.items() if name != "n_experts"
    }
    documented = str(MoERegressor.__doc__)
    assert all(name in documented for name in fields)


def test_the_classifier_takes_the_same_but_what_is_of_numbers() -> None:
    theirs, ours = (inspect.signature(each).parameters for each in (MoERegressor, MoEClassifier))
    assert {*theirs} - {*ours} == {"atoms", "family", "min_scale", "offset"}
    assert all(theirs[name].default == known.default for name, known in ours.items())
    assert all(name in str(MoEClassifier.__doc__) for name in ours)
    assert is_classifier(MoEClassifier())
    assert not is_regressor(MoEClassifier())


@pytest.mark.parametrize("y", [["a", "b"] * 20, [0, 1] * 20])
def test_a_regressor_of_labels_is_the_classifier(y: list[Any]) -> None:
    with pytest.raises(daskmoe.InvalidOptionError, match=r"got 'categorical'.*daskmoe\.MoEClassifier"):
        MoERegressor(family="categorical").fit(np.arange(40.0)[:, None], y)


def test_without_scikit_learn_the_error_is_our_own() -> None:
    code = (
        "import sys, daskmoe\ntry:\n    daskmoe.MoERegressor().predict([[1.0]])\n"
        "except daskmoe.NotFittedError as error:\n    print(error)\nprint('sklearn' in sys.modules)"
    )
    printed = subprocess.check_output([sys.executable, "-c", code], text=True, timeout=120)
    assert printed.startswith("This MoERegressor instance is not fitted yet.")
    assert printed.split()[-1] == "False"


# Parameters.


def test_parameters_are_kept_as_given_and_shown_where_changed() -> None:
    regressor = MoERegressor(3, refine=2)
    assert repr(regressor) == "MoERegressor(n_experts=3, refine=2)"
    assert clone(regressor).get_params() == regressor.get_params()
    assert regressor.set_params(refine=0, effort=0.5) is regressor
    assert repr(regressor) == "MoERegressor(n_experts=3, effort=0.5)"
    with pytest.raises(daskmoe.InvalidOptionError, match="Invalid parameter 'n_expert' for estimator"):
        regressor.set_params(n_expert=2)


def test_tags_and_state(rows: tuple[NDArray[Any], NDArray[Any]]) -> None:
    assert is_regressor(MoERegressor())
    tags = MoERegressor().__sklearn_tags__()
    assert (tags.target_tags.required, tags.input_tags.allow_nan, tags.input_tags.sparse) == (
        True,
        False,
        False,
    )
    assert MoERegressor(on_error="skip").__sklearn_tags__().input_tags.allow_nan
    with pytest.raises(TheirNotFittedError):
        MoERegressor().predict(rows[0])


# Their tools.


def test_searches_pipelines_and_cross_validation(rows: tuple[NDArray[Any], NDArray[Any]]) -> None:
    X, y = rows
    pipeline = make_pipeline(StandardScaler(), quick())
    assert cross_val_score(pipeline, X, y, cv=2).min() > 0.9
    search = GridSearchCV(quick(), {"n_experts": [1, 2]}, cv=2)
    search.fit(X, y, sample_weight=np.ones(len(y)))
    assert search.best_params_ == {"n_experts": 2}
    table = pd.DataFrame(X, columns=["a", "b"]).assign(site=np.where(y > 0, "N", "S"))
    assert cross_val_score(quick(), table, y, cv=2).min() > 0.9


def test_the_page_shows_the_model(rows: tuple[NDArray[Any], NDArray[Any]]) -> None:
    regressor = quick()
    before = regressor._repr_html_()
    assert "MoERegressor(random_state=0, n_init=3)" in before
    # Those that nobody changed too.
    assert "<tr><th>n_experts</th><td>2</td></tr>" in before
    regressor.fit(*rows)
    assert regressor._repr_html_().startswith(before)
    assert "coefficients of the experts" in regressor._repr_html_()
    assert "MoERegressor" in estimator_html_repr(make_pipeline(StandardScaler(), regressor))


def test_one_expert_is_least_squares(rows: tuple[NDArray[Any], NDArray[Any]]) -> None:
    X, y = rows
    weight = np.random.default_rng(1).integers(0, 4, len(y))
    ours = MoERegressor(1).fit(X, y, weight)
    theirs = LinearRegression().fit(X, y, weight)
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), atol=1e-8)
    assert ours.score(X, y, weight) == pytest.approx(
        r2_score(y, ours.predict(X), sample_weight=weight), abs=1e-12
    )


def test_old_random_states_are_seeds(rows: tuple[NDArray[Any], NDArray[Any]]) -> None:
    state = np.random.RandomState
    first, again = (quick(random_state=state(3)).fit(*rows).predict(rows[0]) for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_fewer_experts_than_asked_where_rows_are_few() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(22, 2)), rng.normal(size=22)
    said = "n_experts=6 have more parameters than there are rows: 3 are fitted"
    with pytest.warns(daskmoe.FitWarning) as caught:
        regressor = quick(6).fit(X, y)
    assert said in str(caught[0].message)
    assert regressor.n_experts_ == regressor.model_.n_experts == 3
