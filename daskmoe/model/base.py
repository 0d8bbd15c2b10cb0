"""What a fitted model holds: how sure it is of its parameters, how it is shown and saved."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, Final, Self

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from daskmoe.errors import InvalidDataError
from daskmoe.model import memory, uncertainty
from daskmoe.model import store as storage
from daskmoe.model.card import make_card
from daskmoe.model.history import training_of, weight_of
from daskmoe.model.labels import check_params, expert_names, label_parameters, parameters_from
from daskmoe.model.store import ModelParts
from daskmoe.model.summary import Summary, summarize
from daskmoe.model.table import make_table
from daskmoe.model.transport import TransportPlan, plan_from
from daskmoe.numerics.base.layout import count_parameters
from daskmoe.numerics.base.parameters import LargeMoE, Mixture, MoEParameters
from daskmoe.numerics.combine.memory import Memory
from daskmoe.numerics.families import Family, get_family
from daskmoe.rows import Data, RowSchema
from daskmoe.rows.names import EXPERT

# What the package itself uses, and nobody at a prompt looks for.
_INTERNALS: Final = {"densities", "flat", "from_parameters", "memory", "mixture", "parameters"}


class LabelledModel:
    """Labelled parameters with the story of their fit; `MixtureOfExperts` says what they mean.

    Parameters
    ----------
    params, diagnostics, local_estimates, family, rows, options, weight, information
        As of `MixtureOfExperts`.
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
        weight: float | None = None,
        information: xr.Dataset | None = None,
    ) -> None:
        check_params(params, rows, get_family(family, rows.response_size))
        known = weight_of(diagnostics) if weight is None else weight
        self._parts = ModelParts(
            params, diagnostics, local_estimates, family, rows, dict(options), known, information
        )

    def __dir__(self) -> list[str]:
        return sorted(set(super().__dir__()) - _INTERNALS)

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
        weight: float | None = None,
        experts: NDArray[np.str_] | None = None,
        information: xr.Dataset | None = None,
    ) -> Self:
        """The model with these parameters, labelled by ``rows`` and the names of the experts, if any."""
        params = label_parameters(parameters, rows, get_family(family, rows.response_size), experts)
        return cls(
            params,
            diagnostics,
            local,
            family=family,
            rows=rows,
            options=options or {},
            weight=weight,
            information=information,
        )

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
    def information(self) -> xr.Dataset | None:
        """What the rows of the fit say of the parameters; None where the model does not keep it.

        The log-likelihood of the rows, without the priors, to second order around the model: with x the way
        from the ``estimate``, it gains gradient'x - x'information x / 2. A ``parameter`` is a coefficient in
        whitened coordinates u = ``transform`` (features - ``center``), which it names by ``variable``,
        ``expert`` and ``direction`` (0 is the intercept), or the logarithm of a nuisance. With it
        `daskmoe.update` and `daskmoe.aggregate` need no old rows.
        """
        return memory.describe(self._parts)

    @property
    def memory(self) -> Memory | None:
        """The same as the numerics have it, with its experts in the order of the model."""
        return memory.memory_from(self._parts)

    @property
    def parameters(self) -> MoEParameters:
        """The parameters as arrays; `InvalidDataError` for a weighted average, whose gates are nested."""
        found = self.mixture
        if isinstance(found, LargeMoE):
            raise InvalidDataError(
                f"Expected a model with one gating network, got a weighted average of {len(found.weights)} "
                "models, each with its own. Aggregate it with another method first."
            )
        return found

    @property
    def mixture(self) -> Mixture:
        """The parameters as plain arrays, of a weighted average too."""
        return parameters_from(self.params, self.rows, self.densities)

    @property
    def family(self) -> str:
        """Name of the experts' density."""
        return self._parts.family

    @property
    def densities(self) -> Family:
        """The family of the experts' densities, as the numerics have it."""
        return self._parts.densities

    @property
    def rows(self) -> RowSchema:
        """Which variables make the rows."""
        return self._parts.rows

    @property
    def options(self) -> dict[str, Any]:
        """A copy of the options of the fit."""
        return dict(self._parts.options)

    @property
    def weight(self) -> float | None:
        """Sum of the row weights of the last fit, or its number of rows; None where nothing says it."""
        return self._parts.weight

    @property
    def target(self) -> str:
        """Name of the response variable."""
        return self.rows.target

    @property
    def n_experts(self) -> int:
        """K, the number of experts."""
        return int(self.params.sizes[EXPERT])

    @property
    def n_parameters(self) -> int:
        """Number of free parameters: (K - 1) q + K C q + K D, with q the rank of the features, and one."""
        known, found = training_of(self.diagnostics).n_parameters, self.mixture
        sizes = (len(labels) + 1 for labels in (self.rows.gate_labels, self.rows.expert_labels))
        return count_parameters(found, *sizes) if known is None else known

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Labels of the features, in column order."""
        return self.rows.feature_names

    def standard_errors(self, kind: str = "model") -> xr.Dataset:
        """Standard errors of the parameters, at the maximum of the likelihood of all rows.

        The roots of the diagonal of `covariance`, NaN for a parameter that the rows do not identify by
        itself: of a column that is constant, repeated or a combination of others, or one of which the weak
        priors say more than the rows do, as of an expert without rows.

        Parameters
        ----------
        kind : {"model", "robust", "cluster", "approximate"}
            As in `covariance`.

        Returns
        -------
        xr.Dataset
            Shaped like ``params``; the attribute ``kind`` says what the errors are. Gating weights are
            relative to the last expert, whose own are zero.

        Raises
        ------
        NotAtOptimumError, InvalidOptionError
            As `covariance`.

        Examples
        --------
        >>> import daskmoe
        >>> data, truth = daskmoe.simulate(1000, n_features=2, n_experts=2, random_state=0)
        >>> model = daskmoe.refine(truth, data, rounds="converged")
        >>> model.standard_errors("robust")["coef"].dims
        ('expert', 'feature')
        """
        return uncertainty.standard_errors(self.params, self.diagnostics, kind, self.densities)

    def covariance(self, kind: str = "model") -> xr.DataArray:
        """Covariances of the estimates of all pairs of parameters, for the errors of contrasts.

        I^-1, with I the observed information (``"model"``), or I^-1 J I^-1, with J the sum of the outer
        products of the scores of rows (``"robust"``), which holds if the density is misspecified, or G / (G -
        1) times that of G clusters (``"cluster"``), which holds if the rows of a cluster depend on each
        other. ``"approximate"`` is I^-1 near the maximum, as a fit in one step has it from the information
        that its partitions sent; it is given for ``"model"`` too where there is nothing better.

        Parameters
        ----------
        kind : {"model", "robust", "cluster", "approximate"}

        Returns
        -------
        xr.DataArray
            With dimensions ``parameter`` and ``other_parameter``, labelled as ``"intercept[0]"`` and
            ``"coef[0, x1]"``: of expert 0, and feature x1. Coordinates of ``parameter`` say its ``variable``,
            ``expert`` and ``feature``, and whether it is ``identified`` by itself. Of collinear columns a
            contrast has an error if it is the same for all coefficients that predict alike, as a sum of
            those of two equal columns; any other has none, whatever these numbers say of it.

        Raises
        ------
        NotAtOptimumError
            If the model is not near the maximum, or `daskmoe.refine` did not find the scores of this kind.
        InvalidOptionError
            If ``kind`` is unknown.

        References
        ----------
        T. A. Louis, Finding the observed information matrix when using the EM algorithm, JRSS B 44 (1982),
        equation 3.2. H. White, Maximum likelihood estimation of misspecified models, Econometrica 50 (1982),
        theorem 3.2. K.-Y. Liang and S. L. Zeger, Longitudinal data analysis using generalized linear models,
        Biometrika 73 (1986), section 2.

        Examples
        --------
        >>> import daskmoe
        >>> data, truth = daskmoe.simulate(1000, n_features=2, n_experts=2, random_state=0)
        >>> model = daskmoe.refine(truth, data, rounds="converged")
        >>> pair = ["coef[0, x0]", "coef[1, x0]"]
        >>> between = model.covariance().sel(parameter=pair, other_parameter=pair).values
        >>> float(between[0, 0] + between[1, 1] - 2 * between[0, 1]) > 0  # the variance of their difference
        True
        """
        return uncertainty.covariance(self.params, self.diagnostics, kind, self.densities)

    def confidence_interval(self, level: float = 0.95, kind: str = "model") -> xr.Dataset:
        """Confidence intervals of the parameters; of positive ones, on the scale of their logarithms.

        They are normal. Those of G clusters are Student's t with G - 1 degrees of freedom, wider by the root
        of (G - 1) / (G - P), with P the number of parameters but at most half of G.

        Parameters
        ----------
        level : float
            Strictly between 0 and 1.
        kind : {"model", "robust", "cluster", "approximate"}
            As in `covariance`.

        Returns
        -------
        xr.Dataset
            Shaped like ``params`` with a dimension ``bound``, ``lower`` and ``upper``, NaN where a standard
            error is; the attributes ``level`` and ``kind``.

        Raises
        ------
        NotAtOptimumError, InvalidOptionError
            As `standard_errors`, or if ``level`` is not between 0 and 1.

        Examples
        --------
        >>> import daskmoe
        >>> data, truth = daskmoe.simulate(1000, n_features=2, n_experts=2, random_state=0)
        >>> model = daskmoe.refine(truth, data, rounds="converged")
        >>> interval = model.confidence_interval(0.9)["coef"]
        >>> bool((interval.sel(bound="lower") < interval.sel(bound="upper")).all())
        True
        """
        return uncertainty.confidence_interval(
            self.params, self.standard_errors(kind), level, self.densities, self.n_parameters
        )

    def to_dataset(self) -> xr.Dataset:
        """Everything in the model as one dataset, as `to_zarr` stores it.

        Variables of ``diagnostics``, ``local_estimates`` and ``information`` and their dimensions carry those
        names and a dot in front.
        """
        return storage.flatten(self._parts)

    def flat(self, keep_information: bool) -> xr.Dataset:
        """Everything in the model as one dataset, with what it remembers or without."""
        return storage.flatten(self._parts if keep_information else self._parts._replace(information=None))

    def to_zarr(
        self,
        path: str | os.PathLike[str],
        overwrite: bool = False,
        *,
        keep_information: bool = True,
    ) -> None:
        """Save the model as a Zarr store, for `daskmoe.open_model`.

        Parameters
        ----------
        path : str or path
            A folder or a URL.
        overwrite : bool
            Whether it takes the place of a Zarr store that is there, once it is written.
        keep_information : bool
            Whether its `information` is saved too, P (P + 1) / 2 numbers for P parameters.

        Raises
        ------
        OutputExistsError
            If ``path`` exists, with ``overwrite`` if it is something else than a Zarr store.
        """
        storage.save_zarr(storage.stamped(self.flat(keep_information)), path, overwrite=overwrite)

    def to_netcdf(
        self,
        path: str | os.PathLike[str],
        overwrite: bool = False,
        *,
        keep_information: bool = True,
    ) -> None:
        """Save the model as a netCDF file, for `daskmoe.open_model`.

        Parameters
        ----------
        path : str or path
            A file.
        overwrite : bool
            Whether it takes the place of a netCDF file that is there, once it is written.
        keep_information : bool
            Whether its `information` is saved too, P (P + 1) / 2 numbers for P parameters.

        Raises
        ------
        OutputExistsError
            If ``path`` exists, with ``overwrite`` if it is something else than a netCDF file.
        """
        storage.save_netcdf(storage.stamped(self.flat(keep_information)), path, overwrite=overwrite)

    def table(self, data: Data | None = None, *, level: float = 0.95, kind: str = "model") -> xr.Dataset:
        """All that the model says of itself, as one labelled dataset; `summary` and the card are made of it.

        Parameters
        ----------
        data : xr.Dataset, str or path, optional
            Rows that tell where each expert rules: its ``share`` of the complete ones, and the means and
            standard deviations of the features over those that it speaks for, ``feature_mean`` and
            ``feature_deviation``; with the target ``r2`` too.
        level : float
            Of the confidence intervals, strictly between 0 and 1.
        kind : {"model", "robust", "cluster", "approximate"}
            As in `covariance`. A model that has no errors of any kind has NaN.

        Returns
        -------
        xr.Dataset
            By ``parameter`` and ``expert``: ``estimate``, ``standard_error``, ``z``, ``lower`` and ``upper``,
            where coordinates of ``parameter`` say its ``variable`` among ``params``, its ``term``, a feature
            for a coefficient, and its ``units``. By expert: ``share`` of the rows, ``standard_deviation``.
            By partition: ``rows``, ``outcome``. Of the whole: ``log_likelihood``, ``aic``, ``bic``, ``icl``,
            ``rows_used``, ``rows_dropped``, ``close_rivals`` and more, of what the model knows.

        Raises
        ------
        InvalidOptionError
            If ``level`` is not between 0 and 1, or ``kind`` is unknown.
        NotAtOptimumError
            If the model has errors, but none of this kind.

        Examples
        --------
        >>> import daskmoe
        >>> data, _ = daskmoe.simulate(1000, n_features=2, n_experts=2, random_state=0)
        >>> model = daskmoe.fit(data, "y", n_experts=2, partitions=2, random_state=0)
        >>> table = model.table()
        >>> table["estimate"].sel(parameter="coef[x0]").dims
        ('expert',)
        >>> bool((table["lower"] < table["estimate"]).sel(parameter="intercept").all())
        True
        """
        return make_table(self._parts, self.n_parameters, data, level, kind)

    def transport_plan(self) -> TransportPlan:
        """Which expert of the model each partition's experts became, by the mass that the plan moves.

        Returns
        -------
        TransportPlan
            A table and a card; ``plot.transport_plan()`` draws it.

        Raises
        ------
        InvalidDataError
            If the model has none, as a weighted average or one that was not fitted.
        """
        return plan_from(self.diagnostics, expert_names(self.params))

    def summary(self, data: Data | None = None) -> Summary:
        """The table as text, which a console shows as it is: facts, experts, coefficients, their errors.

        Parameters
        ----------
        data : xr.Dataset, str or path, optional
            Rows that tell where each expert rules, as of `table`.
        """
        return summarize(self.table(data))

    def __eq__(self, other: object) -> bool:
        """Whether all parts are the same, the story of the fit too, as of a model saved and opened."""
        if not isinstance(other, LabelledModel):
            return NotImplemented
        return bool(self.to_dataset().identical(other.to_dataset()))

    def __hash__(self) -> int:
        return hash((self.family, self.rows.to_json(), self.params["intercept"].values.tobytes()))

    def __dask_tokenize__(self) -> Any:
        # Data in memory need no Dask.
        from dask.base import normalize_token

        params, diagnostics, local, family, rows, options, weight, information = self._parts
        texts = (type(self).__qualname__, family, rows.to_json(), json.dumps(dict(options)))
        return normalize_token((*texts, params, diagnostics, local, weight, information))

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__}: {self.n_experts} {self.family} experts of {self.target!r} "
            f"given {len(self.feature_names)} features>"
        )

    def _repr_html_(self) -> str:
        return make_card(self.table())
