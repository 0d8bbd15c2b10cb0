"""A fitted mixture of experts: what it says about data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import xarray as xr

from daskmoe.errors import InvalidDataError
from daskmoe.model import classes, criteria, distribution, outputs, prediction
from daskmoe.model.blockwise import Evaluation, FloatType
from daskmoe.model.labels import expert_names
from daskmoe.model.moments import known_moments, target_range
from daskmoe.model.named import NamedExperts
from daskmoe.model.table import shares_of
from daskmoe.options import OnError, RandomState, check_choice
from daskmoe.rows import Data
from daskmoe.rows.names import EXPERT


class MixtureOfExperts(NamedExperts):
    """A mixture of experts f(y|x) = sum_k pi_k(x) phi_k(y|x) with labelled parameters.

    Made by `daskmoe.fit` and its siblings, or `daskmoe.open_model`. All methods that take ``data`` want it
    labelled as in the fit, as an `xr.Dataset` or the path or URL of a Zarr store; features are matched by
    label. Lazy data give lazy results with the target's chunks, data in memory give results in memory. Rows
    with a missing or infinite input give NaN.

    Parameters
    ----------
    params : xr.Dataset
        ``gate_intercept(expert)``, ``gate_coef(expert, feature)``, ``intercept(expert)``,
        ``coef(expert, feature)``, ``variance(expert)``; of a target that is labels
        ``intercept(expert, class)`` and ``coef(expert, class, feature)``, zero for the first class; of a
        target with several outputs ``intercept(expert, output)``, ``coef(expert, output, feature)`` and
        ``variance(expert, output)``.
    diagnostics, local_estimates : xr.Dataset or None
    family : str
        Name of the experts' density.
    rows : RowSchema
        What a row is.
    options : mapping
        Options of the fit; JSON can hold them.
    weight : float, optional
        Sum of the row weights of the fit; by default as its diagnostics say.
    information : xr.Dataset, optional
        What the rows say of the parameters, as `daskmoe.open_model` finds it.

    Raises
    ------
    SchemaError
        If a variable of ``params`` is missing or does not fit ``rows``.

    References
    ----------
    arXiv:2312.09877, equation 1.

    Examples
    --------
    >>> import daskmoe
    >>> data, truth = daskmoe.simulate(500, n_features=3, n_experts=2, chunks=100, random_state=0)
    >>> model = daskmoe.fit(data, "y", n_experts=2, random_state=0)
    >>> model
    <MixtureOfExperts: 2 gaussian experts of 'y' given 3 features>
    >>> model.params["coef"].dims
    ('expert', 'feature')
    >>> model.predict(data).chunksizes["row"]  # lazy, as the data are
    (100, 100, 100, 100, 100)
    """

    # Whether the log has said what figures of a density are worth here.
    _told_of_floor = False
    # What draws models, from `draw_with`.
    _pictures: ClassVar[Callable[[Any], Any] | None] = None

    @property
    def plot(self) -> Any:
        """Pictures of the model, with matplotlib: see `daskmoe.plotting.Pictures`."""
        return pictures_of(self)

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

    def gating_probabilities(
        self, data: Data, *, on_error: OnError = "raise", dtype: FloatType = "float64"
    ) -> xr.DataArray:
        """pi_k(x) = exp(a_k + w_k' x) / sum_l exp(a_l + w_l' x), how likely each expert is at x.

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
            With dimension ``expert`` before the sample dimensions; sums to one over the experts.

        Raises
        ------
        InvalidDataError
            As `predict`.

        Examples
        --------
        >>> import daskmoe
        >>> data, truth = daskmoe.simulate(100, n_features=2, n_experts=2, random_state=0)
        >>> truth.gating_probabilities(data).dims
        ('expert', 'row')
        """
        how = Evaluation(on_error, dtype)
        return self._named(prediction.gating_probabilities(self.mixture, data, self.rows, how))

    def responsibilities(
        self, data: Data, *, on_error: OnError = "raise", dtype: FloatType = "float64"
    ) -> xr.DataArray:
        """tau_k = pi_k(x) phi_k(y|x) / f(y|x): how likely it is that expert k gave y.

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
            With dimension ``expert`` before the sample dimensions; sums to one over the experts.

        Raises
        ------
        InvalidDataError
            If the target or a feature is missing, or a feature is unknown.

        Examples
        --------
        >>> import daskmoe
        >>> data, truth = daskmoe.simulate(100, n_features=2, n_experts=2, random_state=0)
        >>> tau = truth.responsibilities(data)
        >>> bool((abs(tau.sum("expert") - 1) < 1e-12).all())
        True
        """
        how = Evaluation(on_error, dtype)
        return self._named(prediction.responsibilities(self.mixture, self.densities, data, self.rows, how))

    def assign_experts(
        self,
        data: Data,
        by: Literal["gate", "responsibility"] | None = None,
        *,
        on_error: OnError = "raise",
    ) -> xr.DataArray:
        """The expert that is most likely for every row.

        Parameters
        ----------
        data : xr.Dataset, str or path
        by : {"gate", "responsibility"}, optional
            What the features say, or what the target says too; by default the latter where the data have the
            target.
        on_error : {"raise", "skip"}
            As in `predict`.

        Returns
        -------
        xr.DataArray
            Positions of experts with the target's dimensions and coordinates, NaN where an input is missing.
            Attributes ``flag_values`` and ``flag_meanings`` name them, and they are written as integers.

        Raises
        ------
        InvalidDataError
            As `predict`, or `responsibilities`.
        InvalidOptionError
            If ``by`` is something else.

        Examples
        --------
        >>> import daskmoe
        >>> data, truth = daskmoe.simulate(100, n_features=2, n_experts=2, random_state=0)
        >>> found = truth.assign_experts(data)
        >>> found.attrs["flag_meanings"]
        'expert_0 expert_1'
        """
        if by is not None:
            check_choice("by", by, ("gate", "responsibility"))
        called, how = expert_names(self.params), Evaluation(on_error)
        return prediction.assignments(self.mixture, self.densities, data, self.rows, by, called, how)

    def expert_shares(self, data: Data | None = None) -> xr.DataArray:
        """The share of the rows that each expert speaks for: the means of their responsibilities.

        Parameters
        ----------
        data : xr.Dataset, str or path, optional
            All its complete rows; means of the gating probabilities where they have no target. Without data,
            the rows of the fit, weighted as there, where the model keeps that.

        Returns
        -------
        xr.DataArray
            With dimension ``expert``; sums to one.

        Raises
        ------
        InvalidDataError
            Without data, if the model does not know.

        Examples
        --------
        >>> import daskmoe
        >>> data, truth = daskmoe.simulate(1000, n_features=2, n_experts=2, random_state=0)
        >>> abs(float(truth.expert_shares(data).sum()) - 1) < 1e-12
        True
        """
        known = shares_of(self.diagnostics)
        if data is not None:
            found = prediction.shares(self.mixture, self.densities, data, self.rows)
        elif known is not None and known.size == self.n_experts:
            found = known.values
        else:
            raise InvalidDataError(
                "expert_shares: expected data, or a model that knows the shares of its own rows, got neither."
                " Use model.expert_shares(data)."
            )
        attrs = {"long_name": "share of the rows that the expert speaks for", "units": "1"}
        return self._named(xr.DataArray(found, dims=EXPERT, name="expert_share", attrs=attrs))

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

    def log_likelihood(self, data: Data | None = None, *, on_error: OnError = "raise") -> float:
        """Sum of log f(y|x) over all rows of ``data``, each counted once; one computation, chunk by chunk.

        Without data, that of the rows of the fit, weighted as there, where the fit keeps it: `fit_local`,
        `refine`, ``aggregation="auto"``.

        Where an expert is at the variance floor, on values that the target repeats, the density there grows
        with the floor's fineness: neither this nor `aic`, `bic` and `icl` compare such a model with others.

        Parameters
        ----------
        data : xr.Dataset, str or path, optional
            With the target. Row weights are not used.
        on_error : {"raise", "skip"}
            "skip" leaves out rows with a missing or infinite value. Rows of which target and features are all
            missing, as over the sea, are not there and need no word.

        Returns
        -------
        float
            In nats.

        Raises
        ------
        InvalidDataError
            If the target or a feature is missing; if a row holds a missing or infinite value, or with
            "skip" all do; without data, if the model does not know.

        Examples
        --------
        >>> import daskmoe
        >>> data, truth = daskmoe.simulate(100, n_features=2, n_experts=2, random_state=0)
        >>> masked = data.where(data["y"] > 0)
        >>> truth.log_likelihood(masked, on_error="skip") < 0
        True
        """
        return self._likelihood(data, on_error).value

    def aic(self, data: Data | None = None, *, on_error: OnError = "raise") -> float:
        """Akaike's criterion 2 P - 2 log L, with P = `n_parameters`; the less the better.

        Of no meaning on values that the target repeats: see `log_likelihood`.

        Parameters
        ----------
        data, on_error
            As in `log_likelihood`: without data, of the rows of the fit.

        Returns
        -------
        float

        Raises
        ------
        InvalidDataError
            As `log_likelihood`.

        Examples
        --------
        >>> import daskmoe
        >>> data, _ = daskmoe.simulate(1000, n_features=2, n_experts=2, random_state=0)
        >>> model = daskmoe.fit_local(data, "y", n_experts=2, random_state=0)
        >>> abs(model.aic() - model.aic(data)) < 1e-6
        True
        """
        return criteria.aic(self._likelihood(data, on_error), self.n_parameters)

    def bic(self, data: Data | None = None, *, on_error: OnError = "raise") -> float:
        """Schwarz' criterion P log n - 2 log L, with n the rows or the sum of their weights.

        Of no meaning on values that the target repeats: see `log_likelihood`.

        Parameters
        ----------
        data, on_error
            As in `aic`.

        Returns
        -------
        float
            The less the better.

        Raises
        ------
        InvalidDataError
            As `log_likelihood`.

        Examples
        --------
        >>> import daskmoe
        >>> data, _ = daskmoe.simulate(1000, n_features=2, n_experts=2, random_state=0)
        >>> one, two = (daskmoe.fit_local(data, "y", n_experts=k, random_state=0) for k in (1, 2))
        >>> two.bic() < one.bic()
        True
        """
        return criteria.bic(self._likelihood(data, on_error), self.n_parameters)

    def icl(self, data: Data | None = None, *, on_error: OnError = "raise") -> float:
        """The integrated completed likelihood, as BIC + 2 E, with E the entropy of all responsibilities.

        It asks more than BIC: that rows belong to one expert each. Of no meaning on values that the target
        repeats: see `log_likelihood`.

        Parameters
        ----------
        data, on_error
            As in `aic`.

        Returns
        -------
        float
            The less the better.

        Raises
        ------
        InvalidDataError
            As `log_likelihood`.

        References
        ----------
        C. Biernacki, G. Celeux and G. Govaert, Assessing a mixture model for clustering with the integrated
        completed likelihood, IEEE Transactions on Pattern Analysis and Machine Intelligence 22 (2000).

        Examples
        --------
        >>> import daskmoe
        >>> data, _ = daskmoe.simulate(1000, n_features=2, n_experts=2, random_state=0)
        >>> model = daskmoe.fit_local(data, "y", n_experts=2, random_state=0)
        >>> model.icl() > model.bic()
        True
        """
        entropy = criteria.entropy(self._parts, self.mixture, data, on_error=on_error)
        return criteria.icl(self._likelihood(data, on_error), self.n_parameters, entropy)

    def _likelihood(self, data: Data | None, on_error: OnError) -> criteria.Likelihood:
        if not self._told_of_floor:
            criteria.tell_of_floor(self._parts, self.mixture)
            self._told_of_floor = True
        return criteria.likelihood(self._parts, self.mixture, data, on_error=on_error)

    def score(self, data: Data, *, on_error: OnError = "raise") -> float:
        """R² = 1 - sum (y - E[y|x])² / sum (y - mean y)² over all rows of ``data``; one computation.

        For a constant target it is 1 where the prediction is exact, else 0. Of a target that is labels, the
        share of the rows whose class is the most likely one. Of several outputs, the mean of their R².

        Parameters
        ----------
        data, on_error
            As in `log_likelihood`.

        Returns
        -------
        float

        Raises
        ------
        InvalidDataError
            As `log_likelihood`.

        Examples
        --------
        >>> import daskmoe
        >>> data, truth = daskmoe.simulate(100, n_features=2, n_experts=2, random_state=0)
        >>> 0 < truth.score(data) < 1
        True
        """
        if self.densities.nominal:
            return classes.accuracy(self.mixture, self.densities, data, self.rows, on_error)
        if self.rows.output_dim is not None:
            return outputs.r_squared(self.mixture, self.densities, data, self.rows, on_error)
        return prediction.r_squared(self.mixture, self.densities, data, self.rows, on_error)

    @property
    def _distribution(self) -> distribution.Distribution:
        return distribution.distribution_of(self.mixture, self.densities, self.rows)

    def _named(self, found: xr.DataArray) -> xr.DataArray:
        """A result with the labels of the experts."""
        return found.assign_coords({EXPERT: self.params[EXPERT].values})


def draw_with(pictures: Callable[[Any], Any]) -> None:
    """Let ``model.plot`` give ``pictures(model)``: a room above this one hands them down."""
    MixtureOfExperts._pictures = staticmethod(pictures)


def pictures_of(model: Any) -> Any:
    """What draws a model, or one beside atoms."""
    pictures = MixtureOfExperts._pictures
    if pictures is None:
        raise AttributeError("plot: expected daskmoe.plotting to be imported, as by import daskmoe.")
    return pictures(model)
