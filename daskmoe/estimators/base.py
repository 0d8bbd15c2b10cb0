"""What `MoERegressor` and `MoEClassifier` share: parameters, the fit, and asking the model about rows."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
import xarray as xr
from dask.base import compute
from numpy.typing import NDArray

from daskmoe.api.caller import short_errors, warn
from daskmoe.api.fit import fit
from daskmoe.errors import FitWarning, InvalidDataError, TooFewRowsError
from daskmoe.estimators.contract import Estimator
from daskmoe.estimators.inputs import (
    Kind,
    check_features,
    column_names,
    kind_of,
    training_set,
    width_of,
)
from daskmoe.estimators.outputs import Ask, answer
from daskmoe.features import Term
from daskmoe.model import MixtureOfExperts
from daskmoe.options import Aggregation, OnError, RandomState, Rounds, Support, WeightKind, entropy_of
from daskmoe.rows import Data


class MoEEstimator(Estimator):
    """A mixture of experts behind scikit-learn's interface."""

    # Whether the target is labels.
    _labels_wanted: ClassVar[bool] = False

    n_experts_: int
    n_features_in_: int

    def __init__(
        self,
        n_experts: int = 2,
        *,
        features: str | Term | Sequence[str | Term] | None = None,
        gate_features: str | Term | Sequence[str | Term] | None = None,
        categories: Mapping[str, Sequence[Any] | None] | None = None,
        partitions: int | str | None = None,
        aggregation: Aggregation = "auto",
        support: Support | Data = "labelled",
        support_size: int = 2000,
        n_local_experts: int | None = None,
        refine: Rounds = 0,
        prior_strength: float = 1.0,
        random_state: RandomState | np.random.RandomState = None,
        checkpoint: str | os.PathLike[str] | None = None,
        on_error: OnError = "raise",
        min_success: int | float = 1,
        weight_kind: WeightKind = "frequency",
        n_init: int = 12,
        start_rows: int = 2000,
        effort: float = 1.0,
    ) -> None:
        self.n_experts = n_experts
        self.features = features
        self.gate_features = gate_features
        self.categories = categories
        self.partitions = partitions
        self.aggregation = aggregation
        self.support = support
        self.support_size = support_size
        self.n_local_experts = n_local_experts
        self.refine = refine
        self.prior_strength = prior_strength
        self.random_state = random_state
        self.checkpoint = checkpoint
        self.on_error = on_error
        self.min_success = min_success
        self.weight_kind = weight_kind
        self.n_init = n_init
        self.start_rows = start_rows
        self.effort = effort

    @short_errors
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit the model.

        Parameters
        ----------
        X : array, DataFrame, Dask array or DataFrame, xr.DataArray or xr.Dataset
            Rows by columns; of an `xr.Dataset` the variables. Chunks of rows are partitions, as of the
            target in `daskmoe.fit`.
        y : array, Series or xr.DataArray
            The target; of `MoERegressor` an array of rows by outputs, a DataFrame or an `xr.DataArray` with
            a dimension more is one of several outputs.
        sample_weight : array, Series or xr.DataArray, optional
            Weights of rows, zero or more.

        Returns
        -------
        self

        Raises
        ------
        InvalidOptionError, InvalidDataError, PartitionError
            As `daskmoe.fit`.

        Warns
        -----
        FitWarning
            As `daskmoe.fit`, and where fewer experts are fitted.
        """
        name = type(self).__name__
        X = check_features(X, name)
        names = column_names(X)
        # A search fits hundreds, of which none has a bar.
        options = self._options() | {"random_state": seeded(self.random_state), "progress": False}
        data, labels, levels = training_set(X, y, sample_weight, name, labels=self._labels_wanted)
        if levels:
            options["categories"] = levels | dict(self.categories or {})
        if labels.output is not None:
            options["output_dim"] = labels.output
        weight = None if sample_weight is None else labels.weight
        self.model_ = _fit_as_many(data, labels.target, options | {"sample_weight": weight})
        self.n_experts_, self.n_features_in_ = self.model_.n_experts, width_of(X)
        self._labels = labels
        if names is not None:
            self.feature_names_in_ = np.array(names, dtype=object)
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_
        return self

    def sample(self, X: Any, random_state: RandomState | np.random.RandomState = None) -> Any:
        """Draw y from f(y|x) for every row.

        Parameters
        ----------
        X : as in `fit`
        random_state : int, SeedSequence, Generator, RandomState or None
            None draws anew.

        Returns
        -------
        ndarray, Series, Dask array or Series, xr.DataArray
            As ``X``.
        """
        return self._asked(partial(self._draw, entropy=entropy_of(seeded(random_state))), X)

    def _options(self) -> dict[str, Any]:
        """The options of the fit."""
        return self.get_params()

    @classmethod
    def _draw(
        cls,
        model: MixtureOfExperts,
        data: xr.Dataset,
        part: int,
        on_error: OnError = "raise",
        *,
        entropy: int,
    ) -> xr.DataArray:
        # A part of a lazy table does not know which rows come before it.
        seeds = np.random.SeedSequence(entropy, spawn_key=(part,))
        return model.sample(data, seeds, on_error=on_error)

    def _compared(
        self, predicted: Any, X: Any, y: Any, sample_weight: Any
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Predictions and targets (n,), or (n, outputs), and weights (n,) of all rows, computed."""
        values = [predicted, y, sample_weight]
        output = self._labels.output
        if kind_of(X) is Kind.LABELLED and isinstance(y, xr.DataArray):
            dims = [dim for dim in y.dims if dim != output] + ([] if output is None else [output])
            values[:2] = predicted.transpose(*dims), y.transpose(*dims)
        shape = (-1,) if output is None else (-1, len(self._fitted().rows.outputs))
        found, wanted = (np.reshape(each, shape) for each in map(np.asarray, compute(*values[:2])))
        if sample_weight is None:
            return found, wanted, np.ones(len(wanted))
        (weight,) = compute(sample_weight)
        return found, wanted, np.ravel(weight).astype(np.float64)

    def _asked(self, ask: Ask, X: Any) -> Any:
        """What the model says of rows, held as they were given."""
        model = self._fitted()
        X = check_features(X, type(self).__name__, columns=self._labels.columns is not None)
        if kind_of(X) is Kind.LABELLED:
            name = model.rows.variables[0].name
            return ask(model, X.to_dataset(name=name) if isinstance(X, xr.DataArray) else X, 0, self.on_error)
        self._check_columns(X)
        return answer(ask, model, X, self._labels, self.on_error)

    def _check_columns(self, X: Any) -> None:
        """Refuse other columns than those of the fit, and say where names are missing on one side."""
        name = type(self).__name__
        expected, got = getattr(self, "feature_names_in_", None), column_names(X)
        if expected is None and got is not None:
            warn(f"X has feature names, but {name} was fitted without feature names", UserWarning)
        if expected is not None and got is None:
            warn(
                f"X does not have valid feature names, but {name} was fitted with feature names", UserWarning
            )
        if expected is not None and got is not None and expected.tolist() != got:
            raise InvalidDataError(_other_names(expected.tolist(), got))
        if width_of(X) != self.n_features_in_:
            raise InvalidDataError(
                f"X has {width_of(X)} features, but {name} is expecting {self.n_features_in_} features as "
                "input."
            )


def _fit_as_many(data: xr.Dataset, target: str, options: dict[str, Any]) -> MixtureOfExperts:
    """The model of as many experts as were asked for, or of the most that so few rows allow."""
    model: MixtureOfExperts
    try:
        model = fit(data, target, **options)
        return model
    except TooFewRowsError as error:
        most = error.most_experts
        warn(
            f"n_experts={options['n_experts']} have more parameters than there are rows: {most} "
            f"{'is' if most == 1 else 'are'} fitted. Use fewer experts, fewer columns or more rows.",
            FitWarning,
        )
    model = fit(data, target, **(options | {"n_experts": most, "n_local_experts": None}))
    return model


def seeded(random_state: Any) -> RandomState:
    """A seed that the package takes, of one that scikit-learn takes."""
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31))
    seed: RandomState = random_state
    return seed


def _other_names(expected: list[str], got: list[str]) -> str:
    """What is wrong about names, in scikit-learn's words, by which its checks know it."""
    message = "The feature names should match those that were passed during fit.\n"
    strange, missing = sorted({*got} - {*expected}), sorted({*expected} - {*got})
    for names, what in ((strange, "unseen at fit time"), (missing, "seen at fit time, yet now missing")):
        if names:
            more = ["..."] if names[5:] else []
            message += f"Feature names {what}:\n" + "".join(f"- {name}\n" for name in names[:5] + more)
    if not strange and not missing:
        message += "Feature names must be in the same order as they were in fit.\n"
    return message
