"""`MoEClassifier`: a mixture of softmax experts as an estimator of scikit-learn's kind."""

from __future__ import annotations

from functools import partial
from typing import Any, Self

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from daskmoe.estimators.base import MoEEstimator
from daskmoe.estimators.outputs import incomplete
from daskmoe.model import MixtureOfExperts
from daskmoe.options import OnError
from daskmoe.rows.lazily import apply_in_blocks


class MoEClassifier(MoEEstimator):
    """A mixture of softmax experts behind scikit-learn's interface, for a target that is labels.

    It takes and gives what `MoERegressor` does, of targets that are text, booleans or integers.

    Parameters
    ----------
    n_experts : int
        K. Fewer are fitted, with a `FitWarning`, where the rows are fewer than the parameters.
    features, gate_features, categories, partitions, aggregation, support, support_size, n_local_experts, \
refine, prior_strength, random_state, checkpoint, on_error, min_success, weight_kind, n_init, start_rows, \
effort
        As in `daskmoe.fit`; the features are names of columns, and terms of them. ``random_state`` may be a
        `numpy.random.RandomState` too. With ``on_error="skip"`` missing values are allowed: such rows are
        left out of fits and scores, and have no prediction: NaN, or an empty text.

    Attributes
    ----------
    classes_ : ndarray
        The labels, sorted, or in the order of ``categories``.
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
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(1000, 2))
    >>> y = np.where(np.where(X[:, 0] > 0, 5.0, -5.0) * X[:, 1] + rng.logistic(size=1000) > 0, "yes", "no")
    >>> classifier = daskmoe.MoEClassifier(n_experts=2, random_state=0).fit(X, y)
    >>> classifier.classes_.tolist(), classifier.predict_proba(X).shape, classifier.score(X, y) > 0.8
    (['no', 'yes'], (1000, 2), True)
    """

    # Of scikit-learn before 1.6.
    _estimator_type = "classifier"
    _labels_wanted = True

    classes_: NDArray[Any]

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit the model.

        Parameters
        ----------
        X : array, DataFrame, Dask array or DataFrame, xr.DataArray or xr.Dataset
            Rows by columns; of an `xr.Dataset` the variables. Chunks of rows are partitions, as of the
            target in `daskmoe.fit`.
        y : array, Series or xr.DataArray
            Labels of at least two classes.
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
        super().fit(X, y, sample_weight)
        classes = self.model_.rows.classes
        assert classes is not None
        self.classes_ = classes.as_array()
        return self

    def predict(self, X: Any) -> Any:
        """The class of the largest probability of every row.

        Parameters
        ----------
        X : as in `fit`
            With the columns of the fit.

        Returns
        -------
        ndarray, Series, Dask array or Series, xr.DataArray
            As ``X``; lazy where it is.

        Raises
        ------
        InvalidDataError
            If the columns are others than in the fit; for data in memory, if a value is missing.
        """
        return self._asked(_labels, X)

    def predict_proba(self, X: Any) -> Any:
        """The probabilities of the classes, in the order of ``classes_``.

        Parameters
        ----------
        X : as in `fit`

        Returns
        -------
        ndarray, Dask array (n, J), DataFrame with a column a class, or xr.DataArray with dimension ``class``
            As ``X``.
        """
        return self._asked(_probabilities, X)

    def predict_log_proba(self, X: Any) -> Any:
        """The logarithms of `predict_proba`.

        Parameters
        ----------
        X : as in `fit`

        Returns
        -------
        ndarray, Dask array (n, J), DataFrame with a column a class, or xr.DataArray with dimension ``class``
            As ``X``.
        """
        return self._asked(_log_probabilities, X)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The share of the weighted rows whose class is predicted.

        Parameters
        ----------
        X, y, sample_weight : as in `fit`

        Returns
        -------
        float
        """
        found, wanted, weight = self._compared(self.predict(X), X, y, sample_weight)
        if self.on_error == "skip":
            complete = np.isin(found, self.classes_) & np.isin(wanted, self.classes_)
            found, wanted, weight = found[complete], wanted[complete], weight[complete]
        return float(np.average(found == wanted, weights=weight))

    def _options(self) -> dict[str, Any]:
        return super()._options() | {"family": "categorical"}

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
        drawn = super()._draw(model, data, part, on_error, entropy=entropy)
        return _as_given(drawn, model, on_error)


def _labels(
    model: MixtureOfExperts, data: xr.Dataset, part: int, on_error: OnError = "raise"
) -> xr.DataArray:
    return _as_given(model.predict(data, on_error=on_error), model, on_error)


def _as_given(found: xr.DataArray, model: MixtureOfExperts, on_error: OnError) -> xr.DataArray:
    """Labels of the dtype that the classes have, which has no NaN, unless some may be missing."""
    assert model.rows.classes is not None
    dtype = model.rows.classes.as_array().dtype
    if dtype == found.dtype or on_error == "skip":
        return found
    labels: xr.DataArray = apply_in_blocks(
        partial(_complete, dtype=dtype), found, dtype=dtype, keep_attrs=True
    )
    return labels


def _complete(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    if missing := int(np.isnan(values).sum()):
        raise incomplete(missing, values.size)
    return values.astype(dtype)


def _probabilities(
    model: MixtureOfExperts, data: xr.Dataset, part: int, on_error: OnError = "raise"
) -> xr.DataArray:
    return model.predict_proba(data, on_error=on_error)


def _log_probabilities(
    model: MixtureOfExperts, data: xr.Dataset, part: int, on_error: OnError = "raise"
) -> xr.DataArray:
    found: xr.DataArray = apply_in_blocks(
        _log, model.predict_proba(data, on_error=on_error), dtype=np.float64
    )
    return found.rename("class_log_probability")


def _log(chances: NDArray[Any]) -> NDArray[Any]:
    # What is never is minus infinity.
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(chances))
