"""Which expert speaks for which row."""

from __future__ import annotations

from typing import Literal

import xarray as xr

from daskmoe.errors import InvalidDataError
from daskmoe.model import prediction
from daskmoe.model.base import LabelledModel
from daskmoe.model.blockwise import Evaluation, FloatType
from daskmoe.model.labels import expert_names
from daskmoe.model.table import shares_of
from daskmoe.options import OnError, check_choice
from daskmoe.rows import Data
from daskmoe.rows.names import EXPERT


class Assigning(LabelledModel):
    """A model that tells whose a row is."""

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

    def _named(self, found: xr.DataArray) -> xr.DataArray:
        """A result with the labels of the experts."""
        return found.assign_coords({EXPERT: self.params[EXPERT].values})
