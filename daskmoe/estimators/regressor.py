"""`MoERegressor`: a mixture of experts as an estimator of scikit-learn's kind."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from daskmoe.errors import InvalidOptionError
from daskmoe.estimators.base import MoEEstimator
from daskmoe.features import Term
from daskmoe.model import MixtureOfExperts
from daskmoe.numerics.families import get_family
from daskmoe.options import Aggregation, OnError, RandomState, Rounds, Scales, Support, WeightKind
from daskmoe.rows import Data


class MoERegressor(MoEEstimator):
    """A mixture of experts behind scikit-learn's interface.

    It keeps the contract of scikit-learn's estimators, in pipelines, searches and cross-validation, for NumPy
    arrays, pandas and Dask DataFrames, Dask arrays and xarray objects; predictions are of the kind that was
    given, lazy where it was. Columns of text and categories of a table are coded, as in `daskmoe.fit`.

    Parameters
    ----------
    n_experts : int
        K. Fewer are fitted, with a `FitWarning`, where the rows are fewer than the parameters.
    features, gate_features, offset, categories, family, atoms, partitions, aggregation, support, \
support_size, n_local_experts, refine, prior_strength, min_scale, random_state, checkpoint, on_error, \
min_success, weight_kind, n_init, start_rows, effort
        As in `daskmoe.fit`; the features are names of columns, and terms of them. ``random_state`` may be a
        `numpy.random.RandomState` too. With ``on_error="skip"`` missing values are allowed: such rows are
        left out of fits and scores, and predictions there are NaN.

    Attributes
    ----------
    model_ : MixtureOfExperts
        What was fitted, with all that it can say.
    n_experts_ : int
        Experts of the model.
    n_features_in_ : int
        Columns that were given.
    feature_names_in_ : ndarray of str
        Their names, where all have one that is text.

    Examples
    --------
    >>> import numpy as np
    >>> import daskmoe
    >>> X, noise = np.split(np.random.default_rng(0).normal(size=(1000, 3)), [2], axis=1)
    >>> y = np.where(X[:, 0] > 0, 3.0, -1.0) * X[:, 1] + 0.1 * noise[:, 0]
    >>> regressor = daskmoe.MoERegressor(n_experts=2, random_state=0).fit(X, y)
    >>> regressor.predict(X).shape, regressor.score(X, y) > 0.9
    ((1000,), True)
    """

    # Of scikit-learn before 1.6.
    _estimator_type = "regressor"

    def __init__(
        self,
        n_experts: int = 2,
        *,
        features: str | Term | Sequence[str | Term] | None = None,
        gate_features: str | Term | Sequence[str | Term] | None = None,
        offset: str | None = None,
        categories: Mapping[str, Sequence[Any] | None] | None = None,
        family: str = "gaussian",
        atoms: Sequence[float] | str | None = None,
        partitions: int | str | None = None,
        aggregation: Aggregation = "auto",
        support: Support | Data = "labelled",
        support_size: int = 2000,
        n_local_experts: int | None = None,
        refine: Rounds = 0,
        prior_strength: float = 1.0,
        min_scale: Scales | None = None,
        random_state: RandomState | np.random.RandomState = None,
        checkpoint: str | os.PathLike[str] | None = None,
        on_error: OnError = "raise",
        min_success: int | float = 1,
        weight_kind: WeightKind = "frequency",
        n_init: int = 12,
        start_rows: int = 2000,
        effort: float = 1.0,
    ) -> None:
        super().__init__(
            n_experts,
            features=features,
            gate_features=gate_features,
            categories=categories,
            partitions=partitions,
            aggregation=aggregation,
            support=support,
            support_size=support_size,
            n_local_experts=n_local_experts,
            refine=refine,
            prior_strength=prior_strength,
            random_state=random_state,
            checkpoint=checkpoint,
            on_error=on_error,
            min_success=min_success,
            weight_kind=weight_kind,
            n_init=n_init,
            start_rows=start_rows,
            effort=effort,
        )
        self.offset = offset
        self.family = family
        self.atoms = atoms
        self.min_scale = min_scale

    def predict(self, X: Any) -> Any:
        """E[y|x] of every row.

        Parameters
        ----------
        X : as in `fit`
            With the columns of the fit.

        Returns
        -------
        ndarray, Series, Dask array or Series, xr.DataArray
            As ``X``; lazy where it is. Of several outputs an array (n, outputs) or a DataFrame.

        Raises
        ------
        InvalidDataError
            If the columns are others than in the fit; for data in memory, if a value is missing.
        """
        return self._asked(_mean, X)

    def predict_interval(self, X: Any, level: float = 0.95) -> Any:
        """The central interval that holds y with probability ``level`` given x.

        Parameters
        ----------
        X : as in `fit`
        level : float
            Strictly between 0 and 1.

        Returns
        -------
        ndarray, Dask array (n, 2), DataFrame with ``lower`` and ``upper``, or xr.Dataset
            As ``X``. Of several outputs arrays (n, outputs, 2), and pairs of output and bound as columns.
        """
        return self._asked(partial(_interval, level=level), X)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """R² of the predictions, of weighted rows; for a constant target, 1 where it is exact, else 0.

        Of several outputs the mean of theirs.

        Parameters
        ----------
        X, y, sample_weight : as in `fit`

        Returns
        -------
        float
        """
        found, wanted, weight = self._compared(self.predict(X), X, y, sample_weight)
        found, wanted = found.astype(np.float64), wanted.astype(np.float64)
        skip = self.on_error == "skip"
        outputs = zip(found.reshape(len(found), -1).T, wanted.reshape(len(wanted), -1).T, strict=True)
        return float(np.mean([_r_squared(*each, weight, skip=skip) for each in outputs]))

    def _options(self) -> dict[str, Any]:
        if get_family(self.family).nominal:
            raise InvalidOptionError(
                f"family: expected a family of numbers, got {self.family!r}, of labels. Use "
                "daskmoe.MoEClassifier."
            )
        return super()._options()


def _mean(model: MixtureOfExperts, data: xr.Dataset, part: int, on_error: OnError = "raise") -> xr.DataArray:
    return model.predict(data, on_error=on_error)


def _interval(
    model: MixtureOfExperts, data: xr.Dataset, part: int, on_error: OnError = "raise", *, level: float
) -> xr.Dataset:
    return model.predict_interval(data, level, on_error=on_error)


def _r_squared(predicted: NDArray[Any], y: NDArray[Any], weight: NDArray[Any], *, skip: bool) -> float:
    """The share of the weighted variance of y that is explained; with ``skip``, of complete rows."""
    if skip:
        complete = np.isfinite(predicted) & np.isfinite(y)
        predicted, y, weight = predicted[complete], y[complete], weight[complete]
    residual = float(np.sum(weight * (y - predicted) ** 2))
    spread = float(np.sum(weight * (y - np.average(y, weights=weight)) ** 2))
    return 1.0 - residual / spread if spread != 0 else float(residual == 0)
