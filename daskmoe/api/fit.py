"""`fit` and `fit_local`: from data to a model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict, Unpack, cast, overload

from dask.delayed import Delayed

from daskmoe.api.beside import delayed_request, fit_request, fit_request_here
from daskmoe.api.caller import short_errors
from daskmoe.api.columns import report_identifiers, report_undecoded
from daskmoe.engine import plan_request
from daskmoe.errors import InvalidOptionError
from daskmoe.features import Term
from daskmoe.model import MixtureOfExperts
from daskmoe.options import (
    Aggregation,
    FitOptions,
    OnError,
    OnMissingChunks,
    Progress,
    RandomState,
    Rounds,
    Scales,
    Support,
    WeightKind,
)
from daskmoe.rows import Data


class FitKeywords(TypedDict, total=False):
    """The other options of `fit`, for type checkers."""

    features: str | Term | Sequence[str | Term] | None
    gate_features: str | Term | Sequence[str | Term] | None
    offset: str | None
    categories: Mapping[str, Sequence[Any] | None] | None
    family: str
    atoms: Sequence[float] | str | None
    output_dim: str | None
    partitions: int | str | None
    aggregation: Aggregation
    support: Support | Data
    support_size: int
    n_local_experts: int | None
    refine: Rounds
    prior_strength: float
    min_scale: Scales | None
    random_state: RandomState
    checkpoint: str | os.PathLike[str] | None
    on_error: OnError
    min_success: int | float
    missing_chunks: OnMissingChunks
    sample_weight: str | None
    weight_kind: WeightKind
    progress: Progress
    n_init: int
    start_rows: int
    effort: float


@overload
def fit(
    data: Data, target: str, *, n_experts: int, compute: Literal[True] = ..., **options: Unpack[FitKeywords]
) -> MixtureOfExperts: ...
@overload
def fit(
    data: Data, target: str, *, n_experts: int, compute: Literal[False], **options: Unpack[FitKeywords]
) -> Delayed: ...
# The overloads only tell the two results apart.
@short_errors
def fit(
    data: Data,
    target: str,
    *,
    features: str | Term | Sequence[str | Term] | None = None,
    gate_features: str | Term | Sequence[str | Term] | None = None,
    offset: str | None = None,
    categories: Mapping[str, Sequence[Any] | None] | None = None,
    n_experts: int,
    family: str = "gaussian",
    atoms: Sequence[float] | str | None = None,
    output_dim: str | None = None,
    partitions: int | str | None = None,
    aggregation: Aggregation = "auto",
    support: Support | Data = "labelled",
    support_size: int = 2000,
    n_local_experts: int | None = None,
    refine: Rounds = 0,
    prior_strength: float = 1.0,
    min_scale: Scales | None = None,
    random_state: RandomState = None,
    checkpoint: str | os.PathLike[str] | None = None,
    on_error: OnError = "raise",
    min_success: int | float = 1,
    missing_chunks: OnMissingChunks = "warn",
    compute: bool = True,
    sample_weight: str | None = None,
    weight_kind: WeightKind = "frequency",
    progress: Progress = "auto",
    n_init: int = 12,
    start_rows: int = 2000,
    effort: float = 1.0,
) -> MixtureOfExperts | Delayed:
    """Fit a mixture of experts to partitioned data in one pass and one communication step.

    Every partition is fitted on its own by penalized maximum likelihood of
    f(y|x) = sum_k pi_k(x) phi_k(y|x); what the partitions send, kilobytes each, becomes one model.

    Parameters
    ----------
    data : xr.Dataset, pd.DataFrame or path
        The data, in memory or lazy, or the path or URL of a Zarr store, which tasks open themselves.
    target : str
        The response variable; its dimensions are the sample dimensions, but for ``output_dim``.
    features : str, Term, or a sequence of them, optional
        Feature variables; by default every other variable that fits, and the log says which did not. One has
        the sample dimensions or some of them, plus at most one more, whose labels name several features.
        Text, booleans, categories and variables with CF flags are treatment coded, 1 at a level and 0
        elsewhere, the first level without a column. Terms of `daskmoe.features` make features of variables.
    gate_features : str, Term, or a sequence of them, optional
        Those of the gates, where they are not the experts'; None means ``features``. ``[]`` makes the gates
        constant, a mixture of regressions; beside it ``features=[]`` makes experts that are constants.
    offset : str, optional
        Variable that is a part of every expert's linear predictor with a weight of one, in its units: of
        counts per exposure the logarithm of the exposure. For the families whose link is the logarithm.
    categories : mapping of str to sequence, optional
        Levels by variable, the reference first; None for those that are in the data, as of a number that is a
        code. By default those of the dtype or of ``flag_values``, or of text those that a pass over that
        variable alone finds, sorted. Of a target that is labels they are its classes.
    n_experts : int
        K.
    family : {"gaussian", "student_t", "poisson", "gamma", "categorical"}
        Density of the experts. ``"student_t"`` has heavy tails, so that outliers hardly move an expert. Of
        ``"poisson"``, for counts, and ``"gamma"``, for positive numbers, the logarithm of the mean is linear
        in the features; of ``"categorical"``, for labels, the log-odds of each class against the first are.
    atoms : sequence of float, "auto" or None
        Values that the target repeats, as 0 of rain: each has a probability of its own given the gates'
        features, and no density; the experts, of which there are ``n_experts`` beside them, are fitted to the
        other rows. ``"auto"`` finds those that repeat beyond chance and logs them with their shares. The
        result is a `MixtureWithAtoms` where there are any. For families of densities.
    output_dim : str, optional
        Dimension of the target along which it has several outputs, as ``"output"`` of ``y(sample, output)``:
        every expert has a linear predictor and a variance for each, and outputs are independent given the
        expert. For gaussian experts. A row that lacks any of its outputs is incomplete.
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
    prior_strength : float
        Factor of the weak priors, above 0. Each weighs a pseudo-row or less at 1; smaller goes to maximum
        likelihood, which may not exist where experts separate.
    min_scale : float, sequence or mapping, optional
        Least standard deviation of an expert, in the target's units: what keeps an expert from collapsing on
        a value that the target repeats. By default 0.0015 of the target's own. Of several outputs one for
        all, one each in the order of data, or one by the label of each; by default relative to each.
    random_state : int, SeedSequence, Generator or None
        Partition m draws from ``SeedSequence(seed, spawn_key=(m,))``, so the result does not depend on the
        scheduler or the number of workers.
    checkpoint : path, optional
        Folder, or URL that fsspec writes to, where finished work is kept; a rerun with the same options goes
        on from there. Partitions are known by their own rows, so that a store that grew costs what is new.
        With ``random_state=None`` the seed is then 0, as a rerun could not repeat a fresh one.
    on_error : {"raise", "skip"}
        "skip" leaves out rows with missing values and partitions that fail, and reports them in the log and
        in ``diagnostics``.
    min_success : int or float
        With ``on_error="skip"``, how many partitions must be fitted, or as a float up to 1.0 which share of
        those that have rows; with fewer the fit fails and says how they ended.
    missing_chunks : {"raise", "warn", "fill"}
        What to do about chunks of a store that were never written, which are read as fill values: refuse them
        before any work, warn with their counts, or take the fill values as data without a word.
    compute : bool
        False returns the `Delayed` model, its rounds of refinement in the same graph; building the graph
        computes nothing. Whoever computes it shows progress and reads `diagnostics` for what went wrong.
    sample_weight : str, optional
        Variable of row weights, zero or more.
    weight_kind : {"frequency", "importance"}
        ``"frequency"``: a weight counts repeated rows, so the scale of weights matters, as priors weigh a
        pseudo-row or less and errors follow from the number of rows. ``"importance"``: their scale does not;
        they are multiplied so that they sum to the number of rows of positive weight.
    progress : "auto", False or callable
        ``"auto"`` tells how far samples, shared start, partitions, scores and rounds are, with rate and time
        left: as bars in a notebook, a line in a terminal, lines of the log (level INFO) elsewhere. A function
        is called with every status: ``stage``, ``done``, ``total``, ``seconds``, ``note``.
    n_init, start_rows : int
        Starts of a local fit (more join where they end in several optima, fewer start where the features are
        many) and the rows they race on (more where the parameters are many).
    effort : float
        Factor of the starts, of the optima that are followed and of the jumps of a search, above 0: more may
        find a better optimum of a rugged likelihood, less is quicker.

    Returns
    -------
    MixtureOfExperts, MixtureWithAtoms or Delayed

    Raises
    ------
    InvalidOptionError, InvalidDataError, StoreError
        Before any work, for options or data that cannot be fitted.
    InvalidDataError, PartitionError
        From a task, naming the partition, unless ``on_error="skip"``, with which it takes all partitions to
        fail.

    Warns
    -----
    DataWarning
        If chunks of the store are missing, or the store changed while it was read.
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
    options = FitOptions(
        features=features,
        gate_features=gate_features,
        offset=offset,
        categories=categories,
        n_experts=n_experts,
        family=family,
        atoms=atoms,
        output_dim=output_dim,
        partitions=partitions,
        aggregation=aggregation,
        support=support,
        support_size=support_size,
        n_local_experts=n_local_experts,
        refine=refine,
        prior_strength=prior_strength,
        min_scale=min_scale,
        random_state=random_state,
        checkpoint=checkpoint,
        on_error=on_error,
        min_success=min_success,
        missing_chunks=missing_chunks,
        sample_weight=sample_weight,
        weight_kind=weight_kind,
        progress=progress,
        n_init=n_init,
        start_rows=start_rows,
        effort=effort,
    )
    if options.refine == "converged" and not compute:
        raise InvalidOptionError(
            "refine: expected a number of rounds with compute=False, got 'converged', and a graph cannot "
            "know how many that takes. Use refine=20: rounds that would gain nothing read nothing."
        )
    request = plan_request(data, target, options)
    report_identifiers(request)
    report_undecoded(request)
    # A model beside atoms answers to the same verbs.
    return cast(MixtureOfExperts, fit_request(request)) if compute else delayed_request(request)


@short_errors
def fit_local(
    data: Data,
    target: str,
    *,
    features: str | Term | Sequence[str | Term] | None = None,
    gate_features: str | Term | Sequence[str | Term] | None = None,
    offset: str | None = None,
    categories: Mapping[str, Sequence[Any] | None] | None = None,
    n_experts: int,
    family: str = "gaussian",
    atoms: Sequence[float] | str | None = None,
    output_dim: str | None = None,
    prior_strength: float = 1.0,
    min_scale: Scales | None = None,
    random_state: RandomState = None,
    on_error: OnError = "raise",
    missing_chunks: OnMissingChunks = "warn",
    sample_weight: str | None = None,
    weight_kind: WeightKind = "frequency",
    n_init: int = 12,
    start_rows: int = 2000,
    effort: float = 1.0,
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
    options = FitOptions(
        features=features,
        gate_features=gate_features,
        offset=offset,
        categories=categories,
        n_experts=n_experts,
        family=family,
        atoms=atoms,
        output_dim=output_dim,
        partitions=1,
        aggregation="reduction",
        support_size=1,
        prior_strength=prior_strength,
        min_scale=min_scale,
        random_state=random_state,
        on_error=on_error,
        missing_chunks=missing_chunks,
        sample_weight=sample_weight,
        weight_kind=weight_kind,
        n_init=n_init,
        start_rows=start_rows,
        effort=effort,
    )
    request = plan_request(data, target, options)
    report_identifiers(request)
    report_undecoded(request)
    return cast(MixtureOfExperts, fit_request_here(request))
