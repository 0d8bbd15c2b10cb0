"""What a family of expert densities phi(y; eta, nuisance) has to say: all that the numerics ask of it.

Pure NumPy. A family is called a block of rows at a time and knows nothing of gates, models or partitions.
Shapes: C linear predictors and D nuisances an expert; in arrays with leading axes (experts, components, runs)
the predictors stand before the rows, ``eta`` (..., C, B), and ``nuisance`` is (..., D); ``y`` is (B,),
of a family with O outputs (O, B), and so are means, variances and probabilities (..., O, B) then;
densities and divergences are (..., B). Pairs c <= c' of predictors are packed as by ``np.triu_indices(C)``,
CC of them, pairs of nuisances likewise, DD. Nuisances are positive numbers, optimized as logarithms nu =
log(nuisance); a family without any has D = 0 and need not define what concerns them.

A density is written as one of an exponential dispersion family is: with a working residual r and working
weight w the score of a predictor is r / a and its expected curvature, or what EM puts in its place, w / a, so
that a weighted fit is one (iteratively reweighted) least squares whatever the dispersion a is.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from daskmoe.numerics.base.buffers import Buffers
from daskmoe.numerics.base.coordinates import Coordinates, Scaling
from daskmoe.numerics.base.parameters import FloatArray, MoEParameters, Moments

Array = NDArray[np.floating[Any]]


class Seen(NamedTuple):
    """What people see of a nuisance: a function of it, either way, and the derivative of that."""

    value: Callable[[Array], Array]
    nuisance: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    # The ends of what is seen.
    least: float = 0.0
    most: float = np.inf


AS_IT_IS = Seen(np.asarray, np.asarray, np.ones_like)
RECIPROCAL = Seen(np.reciprocal, np.reciprocal, lambda nuisance: -1.0 / nuisance**2)
ROOT = Seen(np.sqrt, np.square, lambda nuisance: 0.5 / np.sqrt(nuisance))


class Nuisance(NamedTuple):
    """How a nuisance is labelled."""

    # Of its variable.
    name: str
    long_name: str
    # With ``{}`` in the place of the target's units; "1" where it has none.
    units: str
    # What people see of it, in the units above.
    seen: Seen = AS_IT_IS


class ResponsePrior(NamedTuple):
    """A family's part of the priors (see `likelihood.priors`), in the optimizers' coordinates."""

    # Strength of the penalty on linear predictors, and the predictor that it draws to; or (C,).
    coef: float | FloatArray
    location: float | FloatArray
    # (D,): Strength of the penalty on each nuisance, and the value that it draws to.
    nuisance: FloatArray
    spread: FloatArray
    # (D,): Where the nuisance of an expert ends that has collapsed on a value.
    floor: FloatArray


class NuisancePrior(Protocol):
    """What a family sees of the whole prior: the part of its nuisances."""

    @property
    def nuisance(self) -> FloatArray:
        """Strengths, shape (D,)."""

    @property
    def spread(self) -> FloatArray:
        """The values that the penalty draws to, shape (D,)."""

    @property
    def barrier(self) -> FloatArray:
        """Weight of the rows times the squared floors, shape (D,)."""


class NuisanceTerms(NamedTuple):
    """A `NuisancePrior` of some of the nuisances."""

    nuisance: FloatArray
    spread: FloatArray
    barrier: FloatArray


class Derivatives(NamedTuple):
    """Of log phi in the linear predictors and the log-nuisances, for K experts and B rows."""

    # (K, C, B)
    score: Array
    # (K, D, B)
    nuisance_score: Array
    # (K, CC, B): Minus the second derivatives in the predictors.
    curvature: Array
    # (K, CC, B): Their expectations given x; None where they are the same.
    expected: Array | None
    # (K, D, C, B): Minus the second derivatives in a nuisance and a predictor.
    cross: Array
    # (K, DD, B): Minus the second derivatives in the nuisances.
    nuisance_curvature: Array


# Under which a product of probabilities is as good as none.
_LEAST = 1e-16


def tied(product: Array) -> Array:
    """What a product p p' of probabilities counts as in the metric of steps: 1 / (4 + log(4 p p')^2).

    It is above the product, and falls so slowly that a step of length one is about the distance to where the
    one has the other's part.
    """
    return np.asarray(1.0 / (4.0 + np.log(4.0 * np.maximum(product, _LEAST)) ** 2))


def growing(slopes: Derivatives) -> Array:
    """The step curvature of one predictor whose mean is an exponential: at least the score's size.

    A mean next to zero has no curvature, and a row far above it would take a step without end; so it is about
    one, by which the mean grows e-fold.
    """
    expected = slopes.curvature if slopes.expected is None else slopes.expected
    return np.maximum(expected, np.abs(slopes.score))


class WorkingRows(NamedTuple):
    """What the sums over a block of rows are made of, with the experts' nuisances."""

    response: Array
    # (..., C, B)
    eta: Array
    # (..., D)
    nuisance: Array
    # (..., B): Times the rows' weights.
    memberships: Array
    # (..., C, B): Working residuals, and the same times memberships.
    residuals: Array
    weighted: Array


class Targets(NamedTuple):
    """The experts that a plan sends components to."""

    # (..., B): Which of them each component is sent to, by rows.
    expert: NDArray[np.integer[Any]]
    # (K, C, B) and (K, D)
    eta: Array
    nuisance: Array


class Change(NamedTuple):
    """How a sum of squares changes with a step: it ``falls`` by a linear and ``rises`` by a quadratic part.

    They nearly cancel what they are taken from, and are kept apart until then. Where nuisances are the
    predictors' own there is one for each predictor, along a last axis.
    """

    falls: Array
    rises: Array


class ExpertStep(NamedTuple):
    """An EM step of one expert: of its log-nuisances (D,), and the gain of its bound."""

    nuisance: FloatArray
    gain: float


class Family(ABC):
    """A family of expert densities."""

    name: str
    # Whether an M-step ends at the conditional maximum, as where working weights are one.
    exact_m_step: bool = False
    # Whether responses are whole numbers, with mass instead of density.
    discrete: bool = False
    # Whether responses are codes of labels, which have no order: no intervals, but class probabilities.
    nominal: bool = False
    n_predictors: int = 1
    # O, how many numbers a response is.
    n_outputs: int = 1
    # Whether every linear predictor has a nuisance of its own, D = C: sums of squares are by predictor then.
    by_predictor: bool = False
    # As in `Nuisance`.
    predictor_units: str = "{}"
    nuisances: tuple[Nuisance, ...] = ()
    # Whether `of_size` gives a family of so many outputs.
    takes_outputs: bool = False
    # How many moments of y `barycentre` needs.
    n_plan_moments: int = 1
    # Whether linear predictors may have an offset; then `without_offset` is defined.
    takes_offset: bool = False

    @property
    def n_nuisances(self) -> int:
        """D."""
        return len(self.nuisances)

    def of_size(self, size: int) -> Family:
        """The family for responses of so many classes or outputs, where it has those; else what it is."""
        return self

    @property
    def of_output(self) -> Family:
        """That of one of several outputs alone."""
        return self

    def class_probabilities(self, eta: Array) -> Array:
        """P(Y = j) of every class of a nominal family, shape (..., J, B)."""
        raise NotImplementedError(f"{self.name} responses have no classes.")

    # What responses have to be, as "counts".
    expects: str = "numbers"

    def fits(self, y: Array) -> NDArray[np.bool_]:
        """Which finite responses can be."""
        return np.ones(y.shape, np.bool_)

    def misfit(self, y: Array) -> str | None:
        """What finite responses ``y`` were expected to be, and what was got instead; None if they fit."""
        fits = self.fits(y)
        return None if fits.all() else f"{self.expects}, got {float(y[~fits][0]):g}"

    @abstractmethod
    def scaling(self, moments: Moments) -> Scaling:
        """The map of the response under which rows with these moments are fitted; `Scaling.none` if none."""

    @abstractmethod
    def prior(self, moments: Moments, coordinates: Coordinates, min_scale: Any = None) -> ResponsePrior:
        """Weak priors of rows with these moments; a function of the moments only.

        ``min_scale`` is the caller's least standard deviation of an expert, in the response's units; of a
        family of several outputs one for all or (O,).
        """

    def start_predictor(self, y: Array) -> Array:
        """The linear predictor that a response alone suggests, shape (C, B): what starts are fitted to."""
        return y[None]

    @abstractmethod
    def log_density(
        self, y: Array, eta: Array, nuisance: Array, out: Array | None = None, plus: Array | None = None
    ) -> Array:
        """log phi(y), shape (..., B), with ``plus`` added and written to ``out`` where they are given."""

    @abstractmethod
    def derivatives(
        self, y: Array, eta: Array, nuisance: Array, buffers: Buffers, *, second_order: bool
    ) -> Derivatives:
        """Derivatives of log phi; those of second order may be left empty where they are not asked for."""

    def step_curvature(self, slopes: Derivatives, eta: Array) -> Array:
        """What steps are measured by, shape (K, CC, B): the expected curvature, or more where it vanishes."""
        return slopes.curvature if slopes.expected is None else slopes.expected

    def nuisance_information(self, nuisance: Array) -> FloatArray:
        """Expected curvature of log phi in the log-nuisances of one row, shape (..., DD)."""
        return np.zeros((*nuisance.shape[:-1], 0))

    def dispersion(self, nuisance: Array) -> Array:
        """The dispersion a, shape (...)."""
        return np.ones(nuisance.shape[:-1])

    @abstractmethod
    def working(self, y: Array, eta: Array, nuisance: Array, out: Array) -> Array | None:
        """Write the working residuals (..., C, B) to ``out``; the weights (..., CC, B), None for one."""

    def nuisance_sums(self, rows: WorkingRows) -> FloatArray:
        """Sums over rows that `update_nuisance` needs, shape (..., D)."""
        return np.zeros(rows.nuisance.shape)

    def update_nuisance(
        self, nuisance: Array, mass: Array, sums: Array, step: Change, prior: NuisancePrior
    ) -> Array:
        """The nuisances (..., D) that maximize the expected penalized log-likelihood given `nuisance_sums`.

        Or nearer to them. ``step`` says how a step of the coefficients changes the sum of squared working
        residuals, over the working weights.
        """
        return nuisance

    def start_nuisance(self, squares: FloatArray, mass: FloatArray, prior: NuisancePrior) -> Array:
        """Nuisances (n, D) of starting experts from their sums of squared distances to `start_predictor`."""
        return np.zeros((len(mass), 0))

    def expert_step(
        self,
        gradient: FloatArray,
        curvature: FloatArray,
        step: Change,
        nuisance: FloatArray,
        prior: NuisancePrior,
    ) -> ExpertStep:
        """An EM step of one expert's nuisances after that of its coefficients.

        Parameters
        ----------
        gradient, curvature : ndarray of shapes (D,) and (D, D)
            Of the penalized log-likelihood in the log-nuisances, the latter of the complete data.
        step : Change
            Of the sum of squared residuals over the dispersion, by the coefficients' step.
        nuisance : ndarray of shape (D,)
        """
        return ExpertStep(np.zeros(0), 0.5 * float(step.falls - step.rises))

    @abstractmethod
    def mean(self, eta: Array, nuisance: Array) -> Array:
        """E[y|x], shape (..., B)."""

    @abstractmethod
    def variance(self, eta: Array, nuisance: Array) -> Array:
        """Var[y|x], shape (..., B)."""

    def width(self, eta: Array, nuisance: Array) -> Array:
        """How wide a density is, (..., B), in finite numbers: in units of it a quantile is looked for."""
        return np.sqrt(self.variance(eta, nuisance))

    def told(self, nuisance: Array) -> NDArray[np.bool_]:
        """Which nuisances have errors, (..., D): not those that are at an end of what they can be."""
        return np.ones(nuisance.shape, np.bool_)

    @abstractmethod
    def cdf(self, y: Array, eta: Array, nuisance: Array) -> Array:
        """P(Y <= y), shape (..., B)."""

    @abstractmethod
    def quantile(self, probability: float | Array, eta: Array, nuisance: Array) -> Array:
        """The inverse of `cdf`, shape (..., B); a probability may be every row's own, (B,)."""

    @abstractmethod
    def sample(self, rng: np.random.Generator, eta: Array, nuisance: Array) -> Array:
        """Draw y for rows with nuisances of their own: ``eta`` (C, n) and ``nuisance`` (n, D) give (n,)."""

    @abstractmethod
    def divergence(
        self,
        eta_from: Array,
        nuisance_from: Array,
        eta_to: Array,
        nuisance_to: Array,
        out: Array | None = None,
    ) -> Array:
        """KL(phi_from || phi_to), leading axes broadcast together, in ``out`` where it is given."""

    def plan_moments(
        self, eta: Array, nuisance: Array, mass: Array, targets: Targets, out: Array
    ) -> Iterator[Array]:
        """Mass times each moment of y that `barycentre` needs, in ``out`` (..., B) one after the other.

        Of a family without sufficient statistics, moments at the experts that components are sent to.
        """
        np.multiply(mass, self.mean(eta, nuisance), out=out)
        yield out

    @abstractmethod
    def barycentre(
        self,
        design: FloatArray,
        mass: FloatArray,
        moments: FloatArray,
        expert: tuple[FloatArray, FloatArray],
        floor: FloatArray,
    ) -> tuple[FloatArray, FloatArray]:
        """The expert at the least divergence from what a plan sends to it, or one on the way there.

        Parameters
        ----------
        design : ndarray of shape (q, S)
        mass : ndarray of shape (S,)
        moments : ndarray of shape (n_plan_moments, S)
            Sums over components of mass times their moments.
        expert : tuple of ndarrays of shapes (C, q) and (D,)
            Coefficients and nuisances that the plan was made with: where an iteration starts.
        floor : ndarray of shape (D,)
            Least nuisances.

        Returns
        -------
        coef, nuisance : ndarray of shapes (C, q) and (D,)
        """

    def without_offset(
        self, offset: FloatArray, mass: FloatArray, moments: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Mass (S,) and moments of a plan for which `barycentre` finds the expert beside an offset (S,)."""
        raise NotImplementedError(f"{self.name} experts take no offset.")

    def noise(self, nuisance: Array) -> Array:
        """What a component adds to the mean squared working residual of an expert that it joins, (...).

        By predictor, (..., C), where nuisances are.
        """
        return np.zeros(nuisance.shape[:-1])

    def merging_loss(self, mass: FloatArray, squares: FloatArray) -> FloatArray:
        """What experts made of merged components lose, up to terms that merging leaves alone, (n,).

        With their ``mass`` and mean squared working residuals ``squares``, noise included.
        """
        return 0.5 * mass * squares

    def nuisance_from(self, squares: Array) -> FloatArray:
        """Nuisances (n, D) of experts with these mean squared working residuals."""
        return np.zeros((*squares.shape, 0))

    def from_moments(self, moments: Moments) -> MoEParameters | None:
        """The single expert of all rows with these moments, where it follows from them alone."""
        return None

    def log_likelihood_from(self, moments: Moments) -> float | None:
        """The log-likelihood of that expert, where there is one."""
        return None


def weighted_regression(design: FloatArray, weight: FloatArray, moment: FloatArray) -> FloatArray:
    """argmin_b sum_s (weight_s b'u_s - 2 moment_s) b'u_s, of minimum norm where it is not unique."""
    gram = (design * weight) @ design.T
    return np.asarray(np.linalg.lstsq(gram, design @ moment, rcond=1e-13)[0])


def convex_regression(
    design: FloatArray,
    sums: Callable[[FloatArray], tuple[float, FloatArray, FloatArray]],
    coef: FloatArray,
    *,
    max_steps: int = 50,
    tolerance: float = 1e-10,
) -> FloatArray:
    """argmin_b of a convex loss of the linear predictors b'u_s, by Newton with halved steps from ``coef``.

    Parameters
    ----------
    design : ndarray of shape (q, S)
    sums : callable
        From linear predictors (S,) to the loss, minus its first derivatives (S,) and its second ones (S,); of
        several predictors (C, S) to these of shapes (C, S) and (CC, S).
    coef : ndarray of shape (q,) or (C, q)
    max_steps : int
    tolerance : float
        Gain of a step relative to the loss, below which it is the last.
    """
    loss, score, curvature = sums(coef @ design)
    for _ in range(max_steps):
        gradient = (score @ design.T).ravel()
        step = np.linalg.lstsq(_hessian(design, curvature), gradient, rcond=1e-13)[0]
        gain, size, step = float(gradient @ step), 1.0, step.reshape(coef.shape)
        while size > 1e-6:
            found = sums((coef + size * step) @ design)
            if found[0] <= loss - 1e-4 * size * gain:
                break
            size *= 0.5
        if not found[0] < loss:
            break
        coef, (loss, score, curvature) = coef + size * step, found
        if gain <= tolerance * (abs(loss) + 1.0):
            break
    return coef


def _hessian(design: FloatArray, curvature: FloatArray) -> FloatArray:
    """Second derivatives in all coefficients, from those in one predictor (S,) or in pairs (CC, S)."""
    if curvature.ndim == 1:
        return np.asarray((design * curvature) @ design.T)
    # CC = C (C + 1) / 2.
    n_predictors, q = math.isqrt(2 * len(curvature)), len(design)
    out = np.empty((n_predictors, q, n_predictors, q))
    for pair, (row, column) in enumerate(zip(*np.triu_indices(n_predictors), strict=True)):
        out[row, :, column] = out[column, :, row] = (design * curvature[pair]) @ design.T
    return out.reshape(n_predictors * q, n_predictors * q)
