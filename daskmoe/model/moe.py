"""A fitted mixture of experts: labelled parameters that predict, score and save themselves."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping
from typing import Any

import xarray as xr

from daskmoe import storage
from daskmoe.errors import InvalidDataError
from daskmoe.labelling import check_params, label_parameters, parameters_from
from daskmoe.model import prediction, uncertainty
from daskmoe.model.prediction import Data
from daskmoe.model.summary import summarize
from daskmoe.numerics.families import Family, get_family
from daskmoe.numerics.parameters import LargeMoE, Mixture, MoEParameters
from daskmoe.random import RandomState
from daskmoe.rows import RowSchema
from daskmoe.schema import EXPERT
from daskmoe.storage import ModelParts


class MixtureOfExperts:
    """A mixture of experts f(y|x) = sum_k pi_k(x) phi_k(y|x) with labelled parameters.

    Made by `daskmoe.fit` and its siblings, or `daskmoe.open_model`. All methods that take ``data`` want it
    labelled as in the fit, as an `xr.Dataset` or the path or URL of a Zarr store; features are matched by
    label. Lazy data give lazy results with the target's chunks, data in memory give results in memory. Rows
    with a missing or infinite input give NaN.

    Parameters
    ----------
    params : xr.Dataset
        ``gate_intercept(expert)``, ``gate_coef(expert, feature)``, ``intercept(expert)``,
        ``coef(expert, feature)``, ``variance(expert)``.
    diagnostics, local_estimates : xr.Dataset or None
    family : str
        Name of the experts' density.
    rows : RowSchema
        What a row is.
    options : mapping
        Options of the fit; JSON can hold them.

    Raises
    ------
    SchemaError
        If a variable of ``params`` is missing or does not fit ``rows``.
    """

    def __init__(
        self,
        params: xr.Dataset,
        diagnostics: xr.Dataset | None,
        local_estimates: xr.Dataset | None,
        *,
        family: str,
        rows: RowSchema,
        options: Mapping[str, Any],
    ) -> None:
        check_params(params, rows)
        get_family(family)
        self._parts = ModelParts(params, diagnostics, local_estimates, family, rows, dict(options))

    @classmethod
    def from_parameters(
        cls,
        parameters: Mixture,
        *,
        family: str,
        rows: RowSchema,
        options: Mapping[str, Any] | None = None,
        diagnostics: xr.Dataset | None = None,
        local: xr.Dataset | None = None,
    ) -> MixtureOfExperts:
        """The model with these parameters, labelled by ``rows``."""
        params = label_parameters(parameters, rows)
        return cls(params, diagnostics, local, family=family, rows=rows, options=options or {})

    @property
    def params(self) -> xr.Dataset:
        """The parameters, with dimensions ``expert`` and ``feature``."""
        return self._parts.params

    @property
    def diagnostics(self) -> xr.Dataset | None:
        """How the fit went, for each partition and each iteration; None for a model that was not fitted."""
        return self._parts.diagnostics

    @property
    def local_estimates(self) -> xr.Dataset | None:
        """The local estimators, with dimensions ``partition``, ``local_expert``, ``feature``; may be None."""
        return self._parts.local_estimates

    @property
    def parameters(self) -> MoEParameters:
        """The parameters as arrays; `InvalidDataError` for a weighted average, whose gates are nested."""
        found = parameters_from(self.params)
        if isinstance(found, LargeMoE):
            raise InvalidDataError(
                f"Expected a model with one gating network, got a weighted average of {len(found.weights)} "
                "models, each with its own. Aggregate it with another method first."
            )
        return found

    @property
    def mixture(self) -> Mixture:
        """The parameters as plain arrays, of a weighted average too."""
        return parameters_from(self.params)

    @property
    def family(self) -> str:
        """Name of the experts' density."""
        return self._parts.family

    @property
    def rows(self) -> RowSchema:
        """Which variables make the rows."""
        return self._parts.rows

    @property
    def options(self) -> dict[str, Any]:
        """A copy of the options of the fit."""
        return dict(self._parts.options)

    @property
    def target(self) -> str:
        """Name of the response variable."""
        return self.rows.target

    @property
    def n_experts(self) -> int:
        """K, the number of experts."""
        return int(self.params.sizes[EXPERT])

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Labels of the features, in column order."""
        return self.rows.feature_labels

    def predict(self, data: Data) -> xr.DataArray:
        """E[y|x] = sum_k pi_k(x) E[y|x, expert k], with the target's dimensions, coordinates, name and units.

        Parameters
        ----------
        data : xr.Dataset, str or path
            The target need not be there.

        Returns
        -------
        xr.DataArray

        Raises
        ------
        InvalidDataError
            If a feature is missing or unknown.
        """
        return prediction.mean(self.mixture, self._family, data, self.rows)

    def predict_interval(self, data: Data, level: float = 0.95) -> xr.Dataset:
        """The central interval that holds y with probability ``level`` given x.

        Its bounds are the quantiles (1 - level) / 2 and (1 + level) / 2 of the predictive mixture f(y|x); the
        uncertainty of the parameters is not part of it.

        Parameters
        ----------
        data : xr.Dataset, str or path
        level : float
            Strictly between 0 and 1.

        Returns
        -------
        xr.Dataset
            ``lower`` and ``upper``, each like the result of `predict`; the attribute ``level``.

        Raises
        ------
        InvalidOptionError
            If ``level`` is not between 0 and 1.
        """
        return prediction.interval(self.mixture, data, self.rows, level)

    def gating_probabilities(self, data: Data) -> xr.DataArray:
        """pi_k(x), with dimension ``expert`` before the sample dimensions; sums to one over the experts."""
        return prediction.gating_probabilities(self.mixture, data, self.rows)

    def responsibilities(self, data: Data) -> xr.DataArray:
        """tau_k = P(expert k given x, y), with dimension ``expert`` first; ``data`` must hold the target."""
        return prediction.responsibilities(self.mixture, self._family, data, self.rows)

    def log_density(self, data: Data) -> xr.DataArray:
        """log f(y|x) of every row, in nats; ``data`` must hold the target."""
        return prediction.log_densities(self.mixture, self._family, data, self.rows)

    def sample(self, data: Data, random_state: RandomState = None) -> xr.DataArray:
        """Draw y from f(y|x) for every row, labelled like the result of `predict`.

        Parameters
        ----------
        data : xr.Dataset, str or path
        random_state : int, SeedSequence, Generator or None
            The draws depend on it and on the chunks of the data, never on the scheduler; None draws anew.
        """
        return prediction.draw(self.mixture, self.family, data, self.rows, random_state)

    def log_likelihood(self, data: Data, *, skipna: bool = False) -> float:
        """Sum of log f(y|x) over all rows of ``data``, each counted once; one computation, chunk by chunk.

        Parameters
        ----------
        data : xr.Dataset, str or path
            With the target. Row weights are not used.
        skipna : bool
            Whether to leave out rows with a missing or infinite value, such as the masked cells of a grid.

        Raises
        ------
        InvalidDataError
            If the target or a feature is missing; if a row holds a missing or infinite value, or with
            ``skipna`` all do.
        """
        return prediction.total_log_density(self.mixture, self._family, data, self.rows, skipna=skipna)

    def score(self, data: Data, *, skipna: bool = False) -> float:
        """R² = 1 - sum (y - E[y|x])² / sum (y - mean y)² over all rows of ``data``; one computation.

        For a constant target it is 1 where the prediction is exact, else 0.

        Parameters
        ----------
        data, skipna
            As in `log_likelihood`.

        Raises
        ------
        InvalidDataError
            As `log_likelihood`.
        """
        return prediction.r_squared(self.mixture, self._family, data, self.rows, skipna=skipna)

    def standard_errors(self, kind: str = "model") -> xr.Dataset:
        """Standard errors of the parameters, shaped like ``params``.

        ``"model"`` inverts the observed information; ``"robust"`` is the sandwich with the rows' scores,
        which holds if the density is misspecified. Gating weights are relative to the last expert, whose own
        are zero.

        Raises
        ------
        NotAtOptimumError
            Unless `daskmoe.refine` reached the maximum.
        InvalidOptionError
            If ``kind`` is unknown.
        """
        return uncertainty.standard_errors(self.params, self.diagnostics, kind)

    def confidence_interval(self, level: float = 0.95, kind: str = "model") -> xr.Dataset:
        """Normal confidence intervals, shaped like ``params`` with a dimension ``bound``.

        Raises
        ------
        NotAtOptimumError, InvalidOptionError
            As `standard_errors`, or if ``level`` is not between 0 and 1.
        """
        return uncertainty.confidence_interval(self.params, self.standard_errors(kind), level)

    def to_dataset(self) -> xr.Dataset:
        """Everything in the model as one dataset, as `to_zarr` stores it.

        Variables of ``diagnostics`` and ``local_estimates`` and their dimensions carry those names and a dot
        in front.
        """
        return storage.flatten(self._parts)

    def to_zarr(self, path: str | os.PathLike[str]) -> None:
        """Save the model as a new Zarr store, for `daskmoe.open_model`.

        Raises
        ------
        OutputExistsError
            If ``path`` exists.
        """
        storage.save_zarr(storage.stamped(self.to_dataset()), path)

    def to_netcdf(self, path: str | os.PathLike[str]) -> None:
        """Save the model as a new netCDF file, for `daskmoe.open_model`.

        Raises
        ------
        OutputExistsError
            If ``path`` exists.
        """
        storage.save_netcdf(storage.stamped(self.to_dataset()), path)

    def summary(self) -> str:
        """The model in a few lines of text: its experts, and how its fit went."""
        return summarize(self._parts)

    def __repr__(self) -> str:
        return (
            f"<MixtureOfExperts: {self.n_experts} {self.family} experts of {self.target!r} "
            f"given {len(self.feature_names)} features>"
        )

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(repr(self)[1:-1])}</p>{self.params._repr_html_()}"

    @property
    def _family(self) -> Family:
        return get_family(self.family)
