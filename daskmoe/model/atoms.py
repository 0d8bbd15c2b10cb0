"""A fitted mixture of experts beside atoms: values that the target repeats, with their probabilities."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, Literal, Self

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from daskmoe.errors import InvalidDataError
from daskmoe.model import criteria, distribution, prediction
from daskmoe.model import store as storage
from daskmoe.model.beside import figures_of, joined_html, joined_summary, joined_tables, with_atoms
from daskmoe.model.blockwise import Evaluation, FloatType, RowFunction
from daskmoe.model.labels import expert_names
from daskmoe.model.moe import MixtureOfExperts, pictures_of
from daskmoe.model.moments import target_range
from daskmoe.model.summary import Summary
from daskmoe.numerics.base.parameters import FloatArray
from daskmoe.numerics.predictive.atoms import MixtureBesideAtoms
from daskmoe.numerics.predictive.mixture import Features, block_rows
from daskmoe.options import OnError, RandomState, check_choice, check_share
from daskmoe.rows import Data, RowSchema
from daskmoe.rows.names import EXPERT


class MixtureWithAtoms:
    """A mixture of experts and, beside them, atoms: P(y = a_j|x) = p_j(x), and elsewhere p_0(x) f(y|x).

    Made by `daskmoe.fit` and its siblings with ``atoms=``, or `daskmoe.open_model`. It consists of two models
    whose likelihoods multiply, so that each is the best there is by itself: the gates of the atoms, a softmax
    over "elsewhere" and the atoms, of all rows; and the experts, of the rows at no atom. In results over
    ``expert`` the atoms are behind the experts. Methods take ``data`` and give results as those of
    `MixtureOfExperts` do, which says what their arguments are.

    Parameters
    ----------
    atom_gates : MixtureOfExperts
        One categorical expert: at which atom the target is, if any.
    experts : MixtureOfExperts
        What the target is elsewhere.

    Raises
    ------
    InvalidDataError
        If the two are not of the same target and atoms.

    Examples
    --------
    >>> import daskmoe
    >>> data, _ = daskmoe.simulate(2000, n_features=2, n_experts=2, random_state=0)
    >>> data["rain"] = data["y"].clip(0)
    >>> model = daskmoe.fit_local(data, "rain", features="X", n_experts=2, atoms=[0.0], random_state=0)
    >>> model
    <MixtureWithAtoms: 2 gaussian experts of 'rain' given 2 features, beside the atom 0>
    >>> chances = model.gating_probabilities(data)
    >>> chances["expert"].values.tolist(), bool((abs(chances.sum("expert") - 1) < 1e-9).all())
    (['0', '1', 'atom 0'], True)
    """

    def __init__(self, atom_gates: MixtureOfExperts, experts: MixtureOfExperts) -> None:
        if experts.rows.of_presence().classes != atom_gates.rows.classes or not experts.rows.atoms:
            raise InvalidDataError(
                "MixtureWithAtoms: expected gates of atoms and experts of one target, got classes "
                f"{atom_gates.rows.classes} for the atoms {list(experts.rows.atoms)}."
            )
        self.atom_gates = atom_gates
        self.experts = experts

    @cached_property
    def mixture(self) -> MixtureBesideAtoms:
        """The parameters of both as plain arrays."""
        known = self.experts.rows
        return MixtureBesideAtoms(
            known.atoms,
            self.atom_gates.mixture,
            known.gate_positions,
            self.experts.mixture,
            self.experts.densities,
        )

    @property
    def atoms(self) -> tuple[float, ...]:
        """The atoms, sorted."""
        return self.experts.rows.atoms

    @property
    def rows(self) -> RowSchema:
        """Which variables make the rows of the experts."""
        return self.experts.rows

    @property
    def family(self) -> str:
        """Name of the experts' density."""
        return self.experts.family

    @property
    def target(self) -> str:
        """Name of the response variable."""
        return self.experts.target

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Labels of the features, in column order."""
        return self.experts.feature_names

    @property
    def n_experts(self) -> int:
        """K, the number of experts, without the atoms."""
        return self.experts.n_experts

    @property
    def n_parameters(self) -> int:
        """Number of free parameters of both models."""
        return self.experts.n_parameters + self.atom_gates.n_parameters

    @property
    def weight(self) -> float | None:
        """Sum of the row weights of the last fit, rows at atoms too."""
        return self.atom_gates.weight

    @property
    def options(self) -> dict[str, Any]:
        """A copy of the options of the fit."""
        return self.experts.options

    @property
    def diagnostics(self) -> xr.Dataset | None:
        """How the fit of the experts went; that of the atoms is ``atom_gates.diagnostics``."""
        return self.experts.diagnostics

    @property
    def params(self) -> xr.Dataset:
        """Those of the experts, beside ``atom_intercept(atom)`` and ``atom_coef(atom, feature)``.

        The latter are log-odds of an atom against no atom.
        """
        return with_atoms(self.experts.params, self.atom_gates.params, self.atoms, "params")

    def standard_errors(self, kind: str = "model") -> xr.Dataset:
        """Standard errors shaped like ``params``; see `MixtureOfExperts.standard_errors`.

        As the likelihoods multiply, estimates of the two models do not covary.
        """
        gates = self.atom_gates.standard_errors(kind)
        return with_atoms(self.experts.standard_errors(kind), gates, self.atoms, "standard_errors")

    def confidence_interval(self, level: float = 0.95, kind: str = "model") -> xr.Dataset:
        """Confidence intervals shaped like ``params``; see `MixtureOfExperts.confidence_interval`."""
        gates = self.atom_gates.confidence_interval(level, kind)
        experts = self.experts.confidence_interval(level, kind)
        return with_atoms(experts, gates, self.atoms, "confidence_interval")

    def __getattr__(self, name: str) -> Any:
        if hasattr(MixtureOfExperts, name) and not name.startswith("_"):
            raise AttributeError(
                f"{name}: expected one model, got one beside atoms: use model.experts.{name}, of the rows at "
                f"no atom, or model.atom_gates.{name}."
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def plot(self) -> Any:
        """Pictures of the model, atoms among its experts: see `daskmoe.plotting.Pictures`."""
        return pictures_of(self)

    def predict(
        self, data: Data, *, clip: bool = False, on_error: OnError = "raise", dtype: FloatType = "float64"
    ) -> xr.DataArray:
        """E[y|x] = sum_j p_j(x) a_j + p_0(x) E[y|x, no atom]."""
        limits = None
        if clip:
            ends = np.array([*target_range(self.experts.diagnostics), *self.atoms])
            limits = float(ends.min()), float(ends.max())
        function = prediction.within(limits, self.mixture.mean)
        return self._evaluate(function, data, on_error, dtype, name=self.target, attrs=self.rows.target_attrs)

    def predict_interval(
        self, data: Data, level: float = 0.95, *, on_error: OnError = "raise", dtype: FloatType = "float64"
    ) -> xr.Dataset:
        """The interval between the quantiles (1 - level) / 2 and (1 + level) / 2 of y given x.

        Where a quantile is at an atom, the interval holds y with more probability than ``level``.
        """
        level = check_share("level", level)
        ends = 0.5 - 0.5 * level, 0.5 + 0.5 * level
        found = prediction.interval_of(
            partial(self.mixture.quantiles, probabilities=ends), data, self._all_rows,
            block_rows(self.mixture.n_experts), Evaluation(on_error, dtype),
        )  # fmt: skip
        return found.assign_attrs(level=level)

    def quantile(
        self,
        data: Data,
        q: float | Sequence[float] = 0.5,
        *,
        on_error: OnError = "raise",
        dtype: FloatType = "float64",
    ) -> xr.DataArray:
        """The least y with P(Y <= y|x) >= q, often an atom; see `MixtureOfExperts.quantile`."""
        return distribution.quantile(self._distribution, data, q, Evaluation(on_error, dtype))

    def cdf(
        self,
        data: Data,
        y: float | Sequence[float] | xr.DataArray | None = None,
        *,
        on_error: OnError = "raise",
        dtype: FloatType = "float64",
    ) -> xr.DataArray:
        """P(Y <= y|x), which jumps at atoms; see `MixtureOfExperts.cdf`."""
        return distribution.cdf(self._distribution, data, y, Evaluation(on_error, dtype))

    def gating_probabilities(
        self, data: Data, *, on_error: OnError = "raise", dtype: FloatType = "float64"
    ) -> xr.DataArray:
        """p_0(x) pi_k(x) of every expert, and behind them p_j(x) of every atom."""
        attrs = {"long_name": "probability of the expert given the features", "units": "1"}
        named = {"name": "gating_probability", "attrs": attrs, "leading": self._leading}
        return self._named(self._evaluate(self.mixture.gating, data, on_error, dtype, **named))

    def responsibilities(
        self, data: Data, *, on_error: OnError = "raise", dtype: FloatType = "float64"
    ) -> xr.DataArray:
        """One of an atom where the target is at it, and elsewhere those of the experts."""
        attrs = {"long_name": "probability of the expert given the features and the target", "units": "1"}
        named = {"name": "responsibility", "attrs": attrs, "leading": self._leading, "with_target": True}
        function = self._of_target(self.mixture.responsibilities)
        return self._named(self._evaluate(function, data, on_error, dtype, **named))

    def assign_experts(
        self,
        data: Data,
        by: Literal["gate", "responsibility"] | None = None,
        *,
        on_error: OnError = "raise",
    ) -> xr.DataArray:
        """The expert or atom that is most likely for every row, by position."""
        if by is not None:
            check_choice("by", by, ("gate", "responsibility"))
        dataset, _ = prediction.match_data(data, self._all_rows)
        with_target = self.target in dataset.variables if by is None else by == "responsibility"
        function = self._of_target(self.mixture.responsibilities) if with_target else self.mixture.gating
        return prediction.assignments_by(
            function, dataset, self._all_rows, with_target, self.expert_names, Evaluation(on_error)
        )

    @property
    def expert_names(self) -> list[str]:
        """What the experts and, behind them, the atoms are called."""
        return [*expert_names(self.experts.params), *self._atom_names]

    def expert_shares(self, data: Data) -> xr.DataArray:
        """The share of the complete rows that each expert and atom speaks for."""
        dataset, _ = prediction.match_data(data, self._all_rows)
        how: OnError = "skip"
        known = self.target in dataset.variables
        found = (self.responsibilities if known else self.gating_probabilities)(dataset, on_error=how)
        over = [dim for dim in found.dims if dim != EXPERT]
        attrs = {"long_name": "share of the rows that the expert speaks for", "units": "1"}
        return found.mean(over, skipna=True).rename("expert_share").assign_attrs(attrs)

    def log_density(
        self, data: Data, *, on_error: OnError = "raise", dtype: FloatType = "float64"
    ) -> xr.DataArray:
        """log p_j(x) at an atom, a mass, and log p_0(x) f(y|x) elsewhere, a density, in nats."""
        attrs = {"long_name": "log of the density of the target given the features, of its mass at atoms"}
        named = {"name": "log_density", "attrs": attrs, "with_target": True}
        return self._evaluate(self._of_target(self.mixture.log_density), data, on_error, dtype, **named)

    def sample(
        self,
        data: Data,
        random_state: RandomState = None,
        *,
        on_error: OnError = "raise",
        dtype: FloatType = "float64",
    ) -> xr.DataArray:
        """Draw y given x for every row, an atom with its probability."""
        size, how = block_rows(self.mixture.n_experts), Evaluation(on_error, dtype)
        return prediction.draw_by(self.mixture.sample, data, self._all_rows, random_state, size, how)

    def log_likelihood(self, data: Data | None = None, *, on_error: OnError = "raise") -> float:
        """Sum of `log_density` over all rows; without data those of the fit, where both models know it."""
        return self._likelihood(data, on_error).value

    def aic(self, data: Data | None = None, *, on_error: OnError = "raise") -> float:
        """Akaike's criterion 2 P - 2 log L; the less the better."""
        return criteria.aic(self._likelihood(data, on_error), self.n_parameters)

    def bic(self, data: Data | None = None, *, on_error: OnError = "raise") -> float:
        """Schwarz' criterion P log n - 2 log L, with n all rows, those at atoms too."""
        return criteria.bic(self._likelihood(data, on_error), self.n_parameters)

    def icl(self, data: Data | None = None, *, on_error: OnError = "raise") -> float:
        """BIC + 2 E, with E the entropy of all responsibilities: at atoms there is none."""
        if data is None:
            # The same rows: those at atoms have none.
            own = self.experts
            entropy = 0.5 * (own.icl() - own.bic())
        else:
            entropy = self._totals(self.mixture.entropy, data, on_error)["sum"]
        return criteria.icl(self._likelihood(data, on_error), self.n_parameters, entropy)

    def score(self, data: Data, *, on_error: OnError = "raise") -> float:
        """R² of `predict` over all rows of ``data``."""
        totals = self._totals(self.mixture.squared_error, data, on_error)
        return prediction.r_squared_from(totals)

    def extrapolation(self, data: Data, *, on_error: OnError = "raise") -> xr.DataArray:
        """How far features are from those of all rows of the fit; see `MixtureOfExperts.extrapolation`."""
        return self.atom_gates.extrapolation(data, on_error=on_error)

    def permute(self, order: Sequence[int | str]) -> Self:
        """The same model with its experts in another order; atoms stay behind them."""
        return type(self)(self.atom_gates, self.experts.permute(order))

    def match(self, other: MixtureWithAtoms) -> Self:
        """The same model with its experts in the order of those of another; see `MixtureOfExperts.match`.

        The other may have other atoms: experts are what the target is at none.
        """
        if not isinstance(other, MixtureWithAtoms):
            raise InvalidDataError(
                f"other: expected a model with atoms, got {other!r}. Match model.experts with it."
            )
        return type(self)(self.atom_gates, self.experts.match(other.experts))

    def rename_experts(self, names: Any) -> Self:
        """The same model with names for its experts; see `MixtureOfExperts.rename_experts`."""
        return type(self)(self.atom_gates, self.experts.rename_experts(names))

    def table(self, data: Data | None = None, *, level: float = 0.95, kind: str = "model") -> xr.Dataset:
        """The table of the experts, beside that of the atoms' gates with ``atoms.`` before all names.

        Figures of the whole, as ``log_likelihood`` and ``bic``, are those of both models together, where
        they are known; ``share`` and what follows from ``data`` are of the rows at no atom.
        """
        experts = self.experts.table(self._off_atoms(data), level=level, kind=kind)
        gates = self.atom_gates.table(level=level, kind=kind)
        return joined_tables(experts, gates, figures_of(self), self.atoms)

    def summary(self, data: Data | None = None) -> Summary:
        """The model as text: of the whole, of the experts, of the gates of the atoms."""
        of_experts = self.experts.summary(self._off_atoms(data))
        return joined_summary(repr(self), figures_of(self), of_experts, self.atom_gates.summary())

    def to_dataset(self) -> xr.Dataset:
        """Everything in both models as one dataset, as `to_zarr` stores it."""
        return self._flat(True)

    def to_zarr(
        self, path: str | os.PathLike[str], overwrite: bool = False, *, keep_information: bool = True
    ) -> None:
        """Save the model as a Zarr store; see `MixtureOfExperts.to_zarr`."""
        storage.save_zarr(storage.stamped(self._flat(keep_information)), path, overwrite=overwrite)

    def to_netcdf(
        self, path: str | os.PathLike[str], overwrite: bool = False, *, keep_information: bool = True
    ) -> None:
        """Save the model as a netCDF file; see `MixtureOfExperts.to_netcdf`."""
        storage.save_netcdf(storage.stamped(self._flat(keep_information)), path, overwrite=overwrite)

    def _flat(self, keep_information: bool) -> xr.Dataset:
        parts = (each.flat(keep_information) for each in (self.experts, self.atom_gates))
        return storage.with_gates(*parts)

    def __eq__(self, other: object) -> bool:
        """Whether all parts are the same, the story of the fit too."""
        if not isinstance(other, MixtureWithAtoms):
            return NotImplemented
        return self.atom_gates == other.atom_gates and self.experts == other.experts

    def __hash__(self) -> int:
        return hash((self.atom_gates, self.experts))

    def __dask_tokenize__(self) -> Any:
        # Data in memory need no Dask.
        from dask.base import normalize_token

        return normalize_token((type(self).__qualname__, self.atom_gates, self.experts))

    def __repr__(self) -> str:
        beside = ", ".join(f"{value:g}" for value in self.atoms)
        inner = repr(self.experts).removeprefix(f"<{type(self.experts).__name__}: ").removesuffix(">")
        return f"<{type(self).__name__}: {inner}, beside the atom{'s' * (len(self.atoms) > 1)} {beside}>"

    def _repr_html_(self) -> str:
        return joined_html(repr(self), figures_of(self), self.experts, self.atom_gates)

    @property
    def _atom_names(self) -> list[str]:
        return [f"atom {value:g}" for value in self.atoms]

    @property
    def _leading(self) -> tuple[str, int]:
        return EXPERT, self.mixture.n_experts

    @cached_property
    def _all_rows(self) -> RowSchema:
        """Rows at atoms too."""
        return replace(self.experts.rows, atoms=())

    @property
    def _distribution(self) -> distribution.Distribution:
        mixture = self.mixture
        return distribution.Distribution(mixture.quantiles, mixture.cdf, mixture.n_experts, self._all_rows)

    def _off_atoms(self, data: Data | None) -> Data | None:
        """The data with nothing in place of the target at atoms, in which the experts have no part."""
        if data is None:
            return None
        dataset, _ = prediction.match_data(data, self._all_rows)
        return prediction.without_atoms(dataset, self.rows)

    def _named(self, found: xr.DataArray) -> xr.DataArray:
        """A result with the labels of experts and atoms."""
        names = [*map(str, self.experts.params[EXPERT].values), *self._atom_names]
        return found.assign_coords({EXPERT: names})

    def _evaluate(
        self, function: RowFunction, data: Data, on_error: OnError, dtype: FloatType, **named: Any
    ) -> xr.DataArray:
        size, how = block_rows(self.mixture.n_experts), Evaluation(on_error, dtype)
        return prediction.evaluate(function, data, self._all_rows, block_size=size, how=how, **named)

    def _of_target(self, function: RowFunction) -> RowFunction:
        """The function of features and targets, which refuses targets that the family cannot have."""
        return partial(_checked, self.mixture, function)

    def _totals(self, function: RowFunction, data: Data, on_error: OnError) -> dict[str, float]:
        checked, size = self._of_target(function), block_rows(self.mixture.n_experts)
        return prediction.totals(checked, data, self._all_rows, size, on_error)

    def _likelihood(self, data: Data | None, on_error: OnError) -> criteria.Likelihood:
        if data is not None:
            totals = self._totals(self.mixture.log_density, data, on_error)
            return criteria.Likelihood(totals["sum"], totals["count"])
        assert self.weight is not None or self.atom_gates.log_likelihood() is not None
        value = self.atom_gates.log_likelihood() + self.experts.log_likelihood()
        return criteria.Likelihood(value, float(self.weight or 0.0))


def _checked(
    mixture: MixtureBesideAtoms, function: RowFunction, features: Features, response: NDArray[Any]
) -> FloatArray:
    free = ~mixture.places(response).any(axis=0)
    if misfit := mixture.family.misfit(response[free]):
        raise InvalidDataError(
            f"data: expected the target of {mixture.family.name} experts to be {misfit}, or at an atom."
        )
    return function(features, response)
