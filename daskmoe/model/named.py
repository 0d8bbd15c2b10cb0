"""Experts that keep their names and their places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from daskmoe.errors import InvalidDataError
from daskmoe.model import ordering
from daskmoe.model.base import LabelledModel
from daskmoe.model.store import ModelParts


class NamedExperts(LabelledModel):
    """A model whose experts can be put in order and be given names."""

    def permute(self, order: Sequence[int | str]) -> Self:
        """The same model with its experts in another order.

        Diagnostics and errors follow. Gating weights are relative to the last expert, whichever that is.

        Parameters
        ----------
        order : sequence of int or str
            Every expert once, by position or name. Names go along; numbers count anew.

        Returns
        -------
        MixtureOfExperts

        Raises
        ------
        InvalidOptionError
            If an expert is missing.
        InvalidDataError
            For a weighted average.

        Examples
        --------
        >>> import daskmoe
        >>> data, truth = daskmoe.simulate(100, n_features=2, n_experts=3, random_state=0)
        >>> turned = truth.permute([2, 0, 1])
        >>> bool(turned.params["intercept"][0] == truth.params["intercept"][2])
        True
        >>> bool((abs(turned.predict(data) - truth.predict(data)) < 1e-12).all())
        True
        """
        positions = ordering.check_order(order, self.params)
        return self._with(ordering.permuted(self._parts, self.parameters, positions))

    def match(self, other: LabelledModel) -> Self:
        """The same model with its experts in the order in which they agree best with those of another.

        Each is matched to one at the least expected Kullback-Leibler divergence, all together, over rows with
        the means and covariances of those of the fit, of this model or, if it has none, the other.

        Parameters
        ----------
        other : MixtureOfExperts
            Of the same family and features. Where it has fewer experts, those that are left come last.

        Returns
        -------
        MixtureOfExperts
            Names do not change: ``model.match(other).rename_experts(names)`` gives it those of the other.

        Raises
        ------
        InvalidDataError
            If the models have other features or families, or neither knows its rows.

        Examples
        --------
        >>> import daskmoe
        >>> data, truth = daskmoe.simulate(2000, n_features=2, n_experts=3, random_state=0)
        >>> model = daskmoe.fit_local(data, "y", n_experts=3, random_state=0)
        >>> back = model.permute([1, 2, 0]).match(model)
        >>> bool((back.params["coef"] == model.params["coef"]).all())
        True
        """
        if not isinstance(other, LabelledModel):
            raise InvalidDataError(
                f"other: expected a model, got {type(other).__name__}; of one with atoms take other.experts."
            )
        return self._with(
            ordering.permuted(
                self._parts,
                self.parameters,
                ordering.order_as(self._parts, self.parameters, other._parts),
            )
        )

    def rename_experts(self, names: Sequence[str]) -> Self:
        """The same model with names as labels of its experts, in all results, in texts, pictures and saved.

        Parameters
        ----------
        names : sequence of str
            One an expert, in their order, all different.

        Returns
        -------
        MixtureOfExperts

        Raises
        ------
        InvalidOptionError
            If the names are too few, too many, or not different.

        Examples
        --------
        >>> import daskmoe
        >>> data, truth = daskmoe.simulate(100, n_features=2, n_experts=2, random_state=0)
        >>> named = truth.rename_experts(["calm", "storm"])
        >>> named.gating_probabilities(data).sel(expert="storm").dims
        ('row',)
        >>> named.rename_experts(["a", "b"]).params["expert"].values.tolist()
        ['a', 'b']
        """
        return self._with(ordering.renamed(self._parts, ordering.check_names(names, self.n_experts)))

    def _with(self, parts: ModelParts) -> Self:
        return type(self)(
            parts.params,
            parts.diagnostics,
            parts.local_estimates,
            family=parts.family,
            rows=parts.rows,
            options=parts.options,
            weight=parts.weight,
            information=parts.information,
        )
