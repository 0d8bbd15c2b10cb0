"""What a model says of the target of rows: means, classes, intervals, the distribution, draws."""

from __future__ import annotations

from collections.abc import Sequence

import xarray as xr

from daskmoe.model import classes, distribution, outputs, prediction
from daskmoe.model.base import LabelledModel
from daskmoe.model.blockwise import Evaluation, FloatType
from daskmoe.model.moments import known_moments, target_range
from daskmoe.options import OnError, RandomState
from daskmoe.rows import Data


class Predicting(LabelledModel):
    """A model that predicts."""

    def predict(
        self, data: Data, *, clip: bool = False, on_error: OnError = "raise", dtype: FloatType = "float64"
    ) -> xr.DataArray:
        """E[y|x] = sum_k pi_k(x) E[y|x, expert k], with the target's dimensions, coordinates, name and units.

        Of a target that is labels, the class of the largest probability: text as text, empty where an input
        is missing, others as numbers, booleans as booleans unless the data are lazy or an input is missing.
        Of several outputs, that of each, with their dimension last.

        Parameters
        ----------
        data : xr.Dataset, str or path
            The target need not be there.
        on_error : {"raise", "skip"}
            Whether a level of a feature that the fit did not have is an error, or a missing input, whose
            result is NaN.
        clip : bool
            Whether to keep predictions within the range of the target in the rows of the fit, of several
            outputs within each one's own.
        dtype : {"float64", "float32"}
            Of the result.

        Returns
        -------
        xr.DataArray

        Raises
        ------
        InvalidDataError
            If a feature is missing or unknown; with ``clip``, if the model does not know the target's range.
        InvalidOptionError
            For ``clip`` or ``dtype`` of a target that is labels.

        Examples
        --------
        >>> import daskmoe
        >>> data, truth = daskmoe.simulate(100, n_features=2, n_experts=2, random_state=0)
        >>> prediction = truth.predict(data)
        >>> prediction.name, prediction.dims
        ('y', ('row',))
        """
        if self.densities.nominal:
            classes.refuse_numbers(self.rows, clip=clip, dtype=dtype)
            return classes.predicted_labels(self.mixture, self.densities, data, self.rows, on_error)
        limits = target_range(self.diagnostics) if clip else None
        mean = prediction.mean if self.rows.output_dim is None else outputs.mean
        return mean(self.mixture, self.densities, data, self.rows, limits, Evaluation(on_error, dtype))

    def predict_proba(
        self, data: Data, *, on_error: OnError = "raise", dtype: FloatType = "float64"
    ) -> xr.DataArray:
        """P(y = j|x) = sum_k pi_k(x) P(y = j|x, expert k) of every class, where the target is labels.

        Parameters
        ----------
        data : xr.Dataset, str or path
            The target need not be there.
        on_error : {"raise", "skip"}
            As in `predict`.
        dtype : {"float64", "float32"}
            Of the result.

        Returns
        -------
        xr.DataArray
            With dimension ``class`` before the sample dimensions, whose coordinate has the labels; sums to
            one over the classes.

        Raises
        ------
        InvalidDataError
            As `predict`; if the target is numbers.

        Examples
        --------
        >>> import daskmoe
        >>> data, _ = daskmoe.simulate(1000, n_features=2, n_experts=2, random_state=0)
        >>> data["sign"] = ("row", ["above" if y > 0 else "below" for y in data["y"].values])
        >>> options = {"n_experts": 2, "family": "categorical", "random_state": 0}
        >>> model = daskmoe.fit_local(data, "sign", features="X", **options)
        >>> chances = model.predict_proba(data)
        >>> chances.dims, chances["class"].values.tolist()
        (('class', 'row'), ['above', 'below'])
        >>> bool((abs(chances.sum("class") - 1) < 1e-12).all())
        True
        """
        known = classes.require_classes(self.rows, self.family)
        how = Evaluation(on_error, dtype)
        return classes.probabilities(self.mixture, self.densities, data, self.rows, known, how)

    def extrapolation(self, data: Data, *, on_error: OnError = "raise") -> xr.DataArray:
        """How far the features of every row are from those of the fit, in standard deviations.

        The Mahalanobis distance from the mean of the fit's rows, by the moments that the model keeps: of all
        linear combinations of the features, the one that is most standard deviations off. It is infinite
        where a feature differs that was constant in the fit, or features break a relation that they had
        there. Over the rows of the fit its root mean square is the attribute ``root_mean_square``, the root
        of the number of features; what is several times as far is no interpolation.

        Parameters
        ----------
        data : xr.Dataset, str or path
            The target need not be there.
        on_error : {"raise", "skip"}
            As in `predict`.

        Returns
        -------
        xr.DataArray
            With the sample dimensions, lazy where the data are.

        Raises
        ------
        InvalidDataError
            As `predict`; if the model has no moments, as one made from parameters.

        Examples
        --------
        >>> import daskmoe
        >>> data, _ = daskmoe.simulate(1000, n_features=2, n_experts=2, random_state=0)
        >>> model = daskmoe.fit_local(data, "y", n_experts=2, random_state=0)
        >>> abs(float((model.extrapolation(data) ** 2).mean()) - 2) < 1e-6
        True
        >>> bool(model.extrapolation(data + 10).min() > 5)
        True
        """
        how = Evaluation(on_error)
        return prediction.extrapolation(known_moments(self.diagnostics), data, self.rows, how)

    def predict_interval(
        self, data: Data, level: float = 0.95, *, on_error: OnError = "raise", dtype: FloatType = "float64"
    ) -> xr.Dataset:
        """The central interval that holds y with probability ``level`` given x.

        Its bounds are the quantiles (1 - level) / 2 and (1 + level) / 2 of the predictive mixture f(y|x); the
        uncertainty of the parameters is not part of it. Of several outputs, that of each alone.

        Parameters
        ----------
        data : xr.Dataset, str or path
            The target need not be there.
        level : float
            Strictly between 0 and 1.
        on_error : {"raise", "skip"}
            As in `predict`.
        dtype : {"float64", "float32"}
            Of the result.

        Returns
        -------
        xr.Dataset
            ``lower`` and ``upper``, each like the result of `predict`; the attribute ``level``.

        Raises
        ------
        InvalidOptionError
            If ``level`` is not between 0 and 1.
        InvalidDataError
            As `predict`.

        Examples
        --------
        >>> import daskmoe
        >>> data, truth = daskmoe.simulate(100, n_features=2, n_experts=2, random_state=0)
        >>> interval = truth.predict_interval(data, 0.9)
        >>> inside = (interval["lower"] <= data["y"]) & (data["y"] <= interval["upper"])
        >>> 0.8 < float(inside.mean()) <= 1.0
        True
        """
        classes.require_numbers(self.rows, "predict_interval")
        interval = prediction.interval if self.rows.output_dim is None else outputs.interval
        return interval(self.mixture, self.densities, data, self.rows, level, Evaluation(on_error, dtype))

    def quantile(
        self,
        data: Data,
        q: float | Sequence[float] = 0.5,
        *,
        on_error: OnError = "raise",
        dtype: FloatType = "float64",
    ) -> xr.DataArray:
        """The least y with P(Y <= y|x) >= q, of every row; of several outputs, that of each alone.

        Parameters
        ----------
        data : xr.Dataset, str or path
            The target need not be there.
        q : float or sequence of float
            Strictly between 0 and 1.
        on_error : {"raise", "skip"}
            As in `predict`.
        dtype : {"float64", "float32"}
            Of the result.

        Returns
        -------
        xr.DataArray
            Like the result of `predict`; with several ``q`` a dimension ``quantile`` before the others.

        Raises
        ------
        InvalidOptionError
            If ``q`` is not between 0 and 1.
        InvalidDataError
            As `predict`, or if the target is labels.

        Examples
        --------
        >>> import daskmoe
        >>> data, truth = daskmoe.simulate(100, n_features=2, n_experts=2, random_state=0)
        >>> truth.quantile(data, [0.1, 0.9]).dims
        ('quantile', 'row')
        """
        classes.require_numbers(self.rows, "quantile")
        return distribution.quantile(self._distribution, data, q, Evaluation(on_error, dtype))

    def cdf(
        self,
        data: Data,
        y: float | Sequence[float] | xr.DataArray | None = None,
        *,
        on_error: OnError = "raise",
        dtype: FloatType = "float64",
    ) -> xr.DataArray:
        """P(Y <= y|x) of every row; of several outputs, that of each alone.

        Parameters
        ----------
        data : xr.Dataset, str or path
            The target need not be there where ``y`` is given.
        y : float, sequence of float or xr.DataArray, optional
            The value or values at which the distribution is asked for, in an array one a row along all or
            some of its dimensions; by default each row's own target.
        on_error : {"raise", "skip"}
            As in `predict`.
        dtype : {"float64", "float32"}
            Of the result.

        Returns
        -------
        xr.DataArray
            With the dimensions of the result of `predict`; with a sequence ``y`` a dimension ``value`` before
            them.

        Raises
        ------
        InvalidOptionError
            If ``y`` is not a number or several.
        InvalidDataError
            As `predict`, if the target is labels, or if ``y`` is not along the rows.

        Examples
        --------
        >>> import daskmoe
        >>> data, truth = daskmoe.simulate(100, n_features=2, n_experts=2, random_state=0)
        >>> median = truth.quantile(data, 0.5)
        >>> bool((abs(truth.cdf(data, median) - 0.5) < 1e-9).all())
        True
        """
        classes.require_numbers(self.rows, "cdf")
        return distribution.cdf(self._distribution, data, y, Evaluation(on_error, dtype))

    def log_density(
        self, data: Data, *, on_error: OnError = "raise", dtype: FloatType = "float64"
    ) -> xr.DataArray:
        """log f(y|x) of every row, in nats.

        Parameters
        ----------
        data : xr.Dataset, str or path
            With the target.
        on_error : {"raise", "skip"}
            As in `predict`.
        dtype : {"float64", "float32"}
            Of the result.

        Returns
        -------
        xr.DataArray
            With the sample dimensions.

        Raises
        ------
        InvalidDataError
            As `responsibilities`.

        Examples
        --------
        >>> import daskmoe
        >>> data, truth = daskmoe.simulate(100, n_features=2, n_experts=2, random_state=0)
        >>> abs(float(truth.log_density(data).sum()) - truth.log_likelihood(data)) < 1e-9
        True
        """
        return prediction.log_densities(
            self.mixture, self.densities, data, self.rows, Evaluation(on_error, dtype)
        )

    def sample(
        self,
        data: Data,
        random_state: RandomState = None,
        *,
        on_error: OnError = "raise",
        dtype: FloatType = "float64",
    ) -> xr.DataArray:
        """Draw y from f(y|x) for every row, labelled like the result of `predict`.

        Parameters
        ----------
        data : xr.Dataset, str or path
            The target need not be there.
        random_state : int, SeedSequence, Generator or None
            The draws depend on it and on the chunks of the data, never on the scheduler; None draws anew.
        on_error : {"raise", "skip"}
            As in `predict`.
        dtype : {"float64", "float32"}
            Of the result.

        Returns
        -------
        xr.DataArray

        Raises
        ------
        InvalidDataError
            As `predict`.

        Examples
        --------
        >>> import daskmoe
        >>> data, truth = daskmoe.simulate(100, n_features=2, n_experts=2, random_state=0)
        >>> drawn = truth.sample(data, random_state=0)
        >>> drawn.equals(truth.sample(data, random_state=0))
        True
        """
        draw = prediction.draw if self.rows.output_dim is None else outputs.draw
        drawn = draw(self.mixture, self.densities, data, self.rows, random_state, Evaluation(on_error, dtype))
        return drawn if self.rows.classes is None else classes.as_labels(drawn, self.rows)

    @property
    def _distribution(self) -> distribution.Distribution:
        return distribution.distribution_of(self.mixture, self.densities, self.rows)
