"""`fit` and `fit_local`: from data to a model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal, TypedDict, Unpack, cast, overload

from dask.base import tokenize
from dask.delayed import Delayed, delayed

from daskmoe.api.labelling import label_fit, label_fit_with_moments, label_refinement
from daskmoe.api.refine import Rounds, check_rounds
from daskmoe.api.reporting import report_fit, report_refinement
from daskmoe.engine import FitRequest, build_fit, fit_directly
from daskmoe.engine.planning import plan_request, recorded_options
from daskmoe.engine.rounds import refine_rounds
from daskmoe.errors import InvalidOptionError
from daskmoe.model import MixtureOfExperts
from daskmoe.numerics.base.parameters import Moments
from daskmoe.options import AGGREGATIONS, RandomState, check_choice, check_integer, local_fit_options
from daskmoe.rows import Data


class FitOptions(TypedDict, total=False):
    """The other options of `fit`, for type checkers."""

    features: str | Sequence[str] | None
    family: str
    partitions: int | str | None
    aggregation: str
    support: str | Data
    support_size: int
    n_local_experts: int | None
    refine: Rounds
    random_state: RandomState
    checkpoint: str | os.PathLike[str] | None
    on_error: str
    sample_weight: str | None
    n_init: int
    start_rows: int


@overload
def fit(
    data: Data, target: str, *, n_experts: int, compute: Literal[True] = ..., **options: Unpack[FitOptions]
) -> MixtureOfExperts: ...
@overload
def fit(
    data: Data, target: str, *, n_experts: int, compute: Literal[False], **options: Unpack[FitOptions]
) -> Delayed: ...
# The overloads only tell the two results apart.
def fit(
    data: Data,
    target: str,
    *,
    features: str | Sequence[str] | None = None,
    n_experts: int,
    family: str = "gaussian",
    partitions: int | str | None = None,
    aggregation: str = "auto",
    support: str | Data = "labelled",
    support_size: int = 2000,
    n_local_experts: int | None = None,
    refine: Rounds = 0,
    random_state: RandomState = None,
    checkpoint: str | os.PathLike[str] | None = None,
    on_error: str = "raise",
    compute: bool = True,
    sample_weight: str | None = None,
    n_init: int = 12,
    start_rows: int = 2000,
) -> MixtureOfExperts | Delayed:
    """Fit a mixture of experts to partitioned data in one pass and one communication step.

    Every partition is fitted on its own by penalized maximum likelihood of
    f(y|x) = sum_k pi_k(x) phi_k(y|x); what the partitions send, kilobytes each, becomes one model.

    Parameters
    ----------
    data : xr.Dataset or path
        The data, in memory or lazy, or the path or URL of a Zarr store, which tasks open themselves.
    target : str
        The response variable; its dimensions are the sample dimensions.
    features : str or sequence of str, optional
        Feature variables; by default every other variable that fits. One has the sample dimensions or some of
        them, plus at most one more, whose labels name several features.
    n_experts : int
        K.
    family : {"gaussian"}
        Density of the experts.
    partitions : int or str, optional
        None follows the target's chunks; an integer makes that many row ranges; the name of a coordinate
        makes one partition a value.
    aggregation : str
        How local estimators become one model. ``"auto"``: the best estimator of one communication step, an
        average by information. ``"reduction"``: the K-expert model at the least transportation divergence
        from the weighted average of the local estimators, by majorization-minimization; ``"whole"``: the same
        with a plan that moves every expert whole; ``"greedy"``: pairwise merging; ``"weighted"``: the
        weighted average itself; ``"middle"``: the local estimator nearest to all; ``"aligned"``: matching and
        averaging.
    support : {"labelled", "features", "synthetic"}, xr.Dataset or path
        What may leave a partition. ``"labelled"``: rows with responses, of which ``"auto"`` makes the shared
        start of all partitions; ``"features"``: rows of features only; ``"synthetic"``: no rows, those of the
        support are drawn from the partitions' moments. Or the caller's own rows, as in `aggregate`, and none
        of the partitions'.
    support_size : int
        S, rows of features at which expectations over x are taken.
    n_local_experts : int, optional
        Experts of the local estimators where they are not K; not for ``"auto"`` with a labelled support.
    refine : int or "converged"
        Most rounds over all partitions after the aggregation (see `daskmoe.refine`); "converged" goes on to
        the global estimator.
    random_state : int, SeedSequence, Generator or None
        Partition m draws from ``SeedSequence(seed, spawn_key=(m,))``, so the result does not depend on the
        scheduler or the number of workers.
    checkpoint : path, optional
        Folder where finished partitions are kept; a rerun with the same data and options goes on from there.
        With ``random_state=None`` the seed is then 0, as a rerun could not repeat a fresh one.
    on_error : {"raise", "skip"}
        "skip" leaves out rows with missing values and partitions that fail, and reports them in the log and
        in ``diagnostics``.
    compute : bool
        False returns the `Delayed` model; building the graph computes nothing.
    sample_weight : str, optional
        Variable of row weights, zero or more. They count as repeated rows, so their scale matters: priors
        weigh a pseudo-row or less.
    n_init, start_rows : int
        Starts of a local fit (more join where they end in several optima) and the rows they race on.

    Returns
    -------
    MixtureOfExperts or Delayed

    Raises
    ------
    InvalidOptionError, InvalidDataError, StoreError
        Before any work, for options or data that cannot be fitted.
    InvalidDataError, PartitionError
        From a task, naming the partition, unless ``on_error="skip"``, with which it takes all partitions to
        fail.

    Warns
    -----
    ConvergenceWarning
        If the aggregation, or a refinement that was to converge, did not.

    References
    ----------
    F. Chamroukhi and N. T. Pham, Optimal Transport Aggregation for Distributed Mixture-of-Experts,
    arXiv:2312.09877.

    Examples
    --------
    >>> import daskmoe
    >>> data, truth = daskmoe.simulate(2000, n_features=3, n_experts=2, chunks=500, random_state=0)
    >>> model = daskmoe.fit(data, "y", features="X", n_experts=2, random_state=0)
    >>> model.n_experts, model.diagnostics.sizes["partition"]
    (2, 4)
    """
    check_choice("aggregation", aggregation, AGGREGATIONS)
    rounds = check_rounds("refine", refine, 0)
    _check_refinement(rounds, aggregation, compute=compute)
    n_experts = check_integer("n_experts", n_experts, 1)
    local = n_experts if n_local_experts is None else check_integer("n_local_experts", n_local_experts, 1)
    options = local_fit_options(n_experts=local, family=family, n_init=n_init, start_rows=start_rows)
    request = plan_request(
        data, target, features, partitions, sample_weight, options, support_size, random_state, on_error,
        checkpoint, aggregation, n_experts, support,
    )  # fmt: skip
    kind = request.support if isinstance(request.support, str) else "given"
    recorded = recorded_options(
        request,
        n_experts=n_experts,
        n_local_experts=local,
        aggregation=aggregation,
        support=kind,
        refine=refine if rounds is None else rounds,
    )
    model = _build_model(request, rounds, recorded)
    if not compute:
        return model
    computed = model.compute()
    fitted, known = (computed, None) if rounds == 0 else cast(tuple[MixtureOfExperts, Moments], computed)
    report_fit(fitted)
    if rounds == 0:
        return fitted
    refined = label_refinement(fitted, refine_rounds(request, fitted.parameters, rounds, known))
    report_refinement(refined, rounds)
    return refined


def _check_refinement(rounds: int | None, aggregation: str, *, compute: bool) -> None:
    if rounds == 0:
        return
    if not compute:
        raise InvalidOptionError(
            "compute: expected True with refinement, whose rounds depend on each other, got False. "
            "Compute the model, then use daskmoe.refine."
        )
    if aggregation == "weighted":
        raise InvalidOptionError("refine: expected 0 with aggregation='weighted', whose gates are nested.")


def _build_model(request: FitRequest, rounds: int | None, recorded: dict[str, Any]) -> Delayed:
    """The delayed model; where refinement follows, with the moments that it wants to know."""
    label = delayed(label_fit if rounds == 0 else label_fit_with_moments, pure=False, traverse=False)
    result = build_fit(request)
    # The result's name tells apart what the request's token does not, as another support.
    key = f"moe-model-{tokenize(result.key, recorded)}"
    return cast(Delayed, label(result, request.schema, request.options.family, recorded, dask_key_name=key))


def fit_local(
    data: Data,
    target: str,
    *,
    features: str | Sequence[str] | None = None,
    n_experts: int,
    family: str = "gaussian",
    random_state: RandomState = None,
    on_error: str = "raise",
    sample_weight: str | None = None,
    n_init: int = 12,
    start_rows: int = 2000,
) -> MixtureOfExperts:
    """Fit all rows at once, in this process and in memory: the global estimator G of the paper.

    The parameters are those of `fit`, of which this is the case of one partition.

    Returns
    -------
    MixtureOfExperts

    Raises
    ------
    InvalidOptionError, InvalidDataError, StoreError
        For options or data that cannot be fitted.
    PartitionError
        With ``on_error="skip"``, if no row is complete.

    Warns
    -----
    ConvergenceWarning
        If the fit ended short of a maximum, as it may with more experts than the rows can tell apart.

    Examples
    --------
    >>> import daskmoe
    >>> data, truth = daskmoe.simulate(2000, n_features=3, n_experts=2, random_state=0)
    >>> model = daskmoe.fit_local(data, "y", n_experts=2, random_state=0)
    >>> bool(model.log_likelihood(data) > truth.log_likelihood(data))
    True
    """
    options = local_fit_options(n_experts=n_experts, family=family, n_init=n_init, start_rows=start_rows)
    request = plan_request(
        data, target, features, 1, sample_weight, options, 1, random_state, on_error, None
    )  # fmt: skip
    model = label_fit(fit_directly(request), request.schema, family, recorded_options(request))
    report_fit(model)
    return model
