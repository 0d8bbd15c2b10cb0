"""What a picture shows of a model: one output of several, or experts with the atoms behind them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from daskmoe.errors import InvalidOptionError
from daskmoe.model import MixtureOfExperts, MixtureWithAtoms
from daskmoe.model.labels import expert_names
from daskmoe.numerics.base.parameters import FloatArray, Mixture
from daskmoe.numerics.families import Family
from daskmoe.numerics.predictive.mixture import expert_means, linear_predictor, log_gating, mixture_cdf
from daskmoe.numerics.predictive.outputs import marginal
from daskmoe.plotting.canvas import colours, quantity
from daskmoe.rows import RowSchema


@dataclass(frozen=True)
class Shown:
    """A model and what of it is drawn. Atoms are experts without a density, behind the others."""

    model: MixtureOfExperts | MixtureWithAtoms
    # Position of the output; None where the target has one, and in pictures of all.
    output: int | None = None

    @classmethod
    def of(cls, model: MixtureOfExperts | MixtureWithAtoms, output: str | float | None) -> Self:
        """One output, by label or else by position; `InvalidOptionError` unless that says which."""
        rows, labels = model.rows, list(model.rows.outputs)
        if rows.output_dim is None:
            if output is None:
                return cls(model)
            raise InvalidOptionError(
                f"output: expected none, as the target {rows.target!r} has one output, got {output!r}."
            )
        if isinstance(output, str | float | int | np.number):
            if output in labels:
                return cls(model, labels.index(output))
            if output in range(len(labels)):
                return cls(model, int(output))
        raise InvalidOptionError(
            f"output: expected one of the outputs {labels} of {rows.target!r}, by label or position, got "
            f"{output!r}. Use output={labels[0]!r}."
        )

    @property
    def experts(self) -> MixtureOfExperts:
        """The model, or the one beside its atoms."""
        return self.model.experts if isinstance(self.model, MixtureWithAtoms) else self.model

    @property
    def rows(self) -> RowSchema:
        """What a row is."""
        return self.model.rows

    @property
    def family(self) -> Family:
        """Of the experts."""
        return self.experts.densities if self.output is None else self.experts.densities.of_output

    @property
    def names(self) -> list[str]:
        """What experts and atoms are called."""
        model = self.model
        return model.expert_names if isinstance(model, MixtureWithAtoms) else expert_names(model.params)

    @property
    def palette(self) -> list[str]:
        """A colour each."""
        return colours(len(self.names))

    @property
    def target(self) -> str:
        """Name of the response."""
        rows = self.rows
        return rows.target if self.output is None else f"{rows.target}[{rows.outputs[self.output]}]"

    @property
    def label(self) -> str:
        """Axis label of the response."""
        attrs = self.rows.target_attrs
        return quantity(self.target, attrs if self.output is None else {"units": attrs.get("units")})

    def gates(self, features: FloatArray) -> FloatArray:
        """Probabilities of experts and atoms, (K, n)."""
        if isinstance(self.model, MixtureWithAtoms):
            return self.model.mixture.gating(features)
        return np.exp(log_gating(self.model.mixture, features))

    def means(self, features: FloatArray) -> FloatArray:
        """E[y|x, expert k], of labels the probability of the last class, (K, n); an atom's is its value."""
        mixture, family = self._mixture, self.family
        if family.nominal:
            eta = linear_predictor(mixture.coef, features)
            return np.asarray(family.class_probabilities(eta)[:, -1])
        found = expert_means(mixture, family, features)
        if not isinstance(self.model, MixtureWithAtoms):
            return found
        return np.concatenate([found, np.outer(self.model.atoms, np.ones(len(features)))])

    def mean(self, features: FloatArray) -> FloatArray:
        """What the mixture makes of `means`, (n,)."""
        return np.asarray((self.gates(features) * self.means(features)).sum(axis=0))

    def cdf(self, features: FloatArray, response: FloatArray) -> tuple[FloatArray, FloatArray]:
        """P(Y < y|x) and P(Y <= y|x), which differ where y has mass, (n,) each."""
        if isinstance(self.model, MixtureWithAtoms):
            beside = self.model.mixture
            upto = beside.cdf(features, response)
            return upto - (beside.chances(features)[1:] * beside.places(response)).sum(axis=0), upto
        upto = mixture_cdf(self._mixture, self.family, features, response)
        if not self.family.discrete:
            return upto, upto
        return mixture_cdf(self._mixture, self.family, features, response - 1.0), upto

    @property
    def _mixture(self) -> Mixture:
        mixture = self.experts.mixture
        return mixture if self.output is None else marginal(mixture, self.output)
