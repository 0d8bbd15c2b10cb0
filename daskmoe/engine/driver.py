"""The one way from a request to its model, whoever asks: the library, the command line, the demo.

The engine knows nothing of labels. A room above says in `Hooks` what becomes of results; progress is shown as
the options of the request say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar, cast

from dask.base import tokenize
from dask.delayed import Delayed, delayed

from daskmoe.engine.checkpoint import require_folder
from daskmoe.engine.graph import build_fit, fit_directly
from daskmoe.engine.keeping import build_contents
from daskmoe.engine.limits import require_room
from daskmoe.engine.outcomes import Ending
from daskmoe.engine.progress import Watch, watching
from daskmoe.engine.request import FitRequest
from daskmoe.engine.results import FitResult
from daskmoe.engine.rounds import Refinement, build_rounds, refine_rounds
from daskmoe.engine.sizes import build_sizes
from daskmoe.engine.updates import Update, update_rounds
from daskmoe.numerics.base.parameters import MoEParameters, Moments
from daskmoe.numerics.combine.memory import Memory
from daskmoe.rows import RowSchema

Model = TypeVar("Model")
Result = TypeVar("Result")

_LAST_ROUNDS = 3


@dataclass(frozen=True)
class Hooks(Generic[Model]):
    """What becomes of results."""

    # Of a fit's rows, family and options; runs as a task.
    label: Callable[[FitResult, RowSchema, str, dict[str, Any]], Model]
    # Where refinement starts.
    start: Callable[[Model], MoEParameters]
    refined: Callable[[Model, Refinement], Model]
    # Says how a fit went, and how its partitions ended.
    report: Callable[[Model, Sequence[Ending]], None]
    # Says how a refinement went that was to take so many rounds, or to converge.
    report_rounds: Callable[[Model, int | str], None]
    # Says what is wrong with the data of a request, before any work.
    report_data: Callable[[FitRequest], None] = lambda request: None
    # Says that the store of a request changed while it was read.
    report_change: Callable[[FitRequest], None] = lambda request: None


class Fitted(NamedTuple):
    """What comes back of a fit, the rest of whose result is larger; moments only where refinement follows."""

    model: Any
    endings: list[Ending]
    moments: Moments | None


def build_model(request: FitRequest, hooks: Hooks[Any]) -> Delayed:
    """The delayed model, with a number of rounds if the options ask for them; nothing is computed."""
    request = _with_last_rounds(request)
    hooks.report_data(request)
    if not request.options.refine:
        return _labelled(request, build_fit(request), hooks.label)
    fitted = _labelled(request, build_fit(request), partial(_fitted, hooks.label, True), "run")

    def task(function: Callable[..., Any], key: str, *arguments: Any) -> Delayed:
        call = delayed(function, pure=False, traverse=False)
        return cast(Delayed, call(*arguments, dask_key_name=f"moe-{key}-{tokenize(fitted.key)}"))

    start = task(_start_of, "start", hooks.start, fitted)
    return task(_refined, "refined", hooks.refined, fitted, build_rounds(request, start))


def run(request: FitRequest, hooks: Hooks[Model]) -> Model:
    """Fit in one computation, report, and refine if the options say so."""
    request = _with_last_rounds(request)
    refine = bool(request.options.refine)

    def work(watch: Watch) -> Model:
        known = _with_contents(request, watch) if refine else request
        job = _labelled(known, build_fit(known), partial(_fitted, hooks.label, refine), "run")
        require_room(request, len(job.__dask_graph__()))
        fitted: Fitted = watch.compute(job)
        model = cast(Model, fitted.model)
        hooks.report(model, fitted.endings)
        return _run_rounds(known, hooks, model, fitted.moments, watch) if refine else model

    return _watched(request, hooks, work)


def run_sizes(requests: Sequence[FitRequest], hooks: Hooks[Model]) -> list[tuple[Model, list[Ending]]]:
    """Fit requests of several numbers of experts in one computation, in which a partition is read once.

    Nothing is reported but how partitions ended: most of the models are not the one that is wanted. Rounds of
    refinement follow one model after the other.
    """
    requests = [_with_last_rounds(request) for request in requests]
    refine = any(request.options.refine for request in requests)
    label = partial(_fitted, hooks.label, refine)

    def work(watch: Watch) -> list[tuple[Model, list[Ending]]]:
        results = zip(requests, build_sizes(requests), strict=True)
        labelled = [_labelled(request, result, label, "run") for request, result in results]
        gather = delayed(list, pure=False)
        job = gather(labelled, dask_key_name=f"moe-models-{tokenize(*(each.key for each in labelled))}")
        require_room(max(requests, key=lambda each: each.options.n_experts), len(job.__dask_graph__()))
        fitted: list[Fitted] = watch.compute(job)
        silent = replace(hooks, report=_say_nothing, report_rounds=_say_nothing)
        models = [
            _run_rounds(request, silent, each.model, each.moments, watch)
            if request.options.refine
            else each.model
            for request, each in zip(requests, fitted, strict=True)
        ]
        return [(model, each.endings) for model, each in zip(models, fitted, strict=True)]

    return _watched(requests[0], hooks, work)


def _with_contents(request: FitRequest, watch: Watch) -> FitRequest:
    """The request with the contents of its partitions, which every round would find again."""
    if request.options.checkpoint is None:
        return request
    return replace(request, contents=tuple(watch.compute(build_contents(request))))


def _with_last_rounds(request: FitRequest) -> FitRequest:
    """The request, with the rounds that a single expert from a shared start lacks.

    Its only maximum is next to where one step ends, unless that is least squares, which is exact.
    """
    options = request.options
    stepped = bool(request.sample) and options.n_experts == 1 and not request.family.exact_m_step
    if not stepped or options.refine:
        return request
    return replace(request, options=replace(options, refine=_LAST_ROUNDS))


def _say_nothing(*told: Any) -> None:
    pass


def run_here(request: FitRequest, hooks: Hooks[Model]) -> Model:
    """Fit without a graph, in this thread, and report."""
    schema, family, recorded = _named(request)
    joins = {name for name, option in request.options.known().items() if option.joins}
    recorded = {name: value for name, value in recorded.items() if name not in joins}
    result = _watched(request, hooks, lambda watch: fit_directly(request))
    model = hooks.label(result, schema, family, recorded)
    hooks.report(model, result.endings)
    return model


def run_rounds(request: FitRequest, hooks: Hooks[Model], model: Model) -> Model:
    """Refine a model by the request's rounds, and report."""
    return _watched(request, hooks, lambda watch: _run_rounds(request, hooks, model, None, watch))


def run_update(request: FitRequest, hooks: Hooks[Any], memory: Memory, forget: float) -> Update:
    """What the request's rows make of a model of which this is what it remembers."""
    return _watched(request, hooks, lambda watch: update_rounds(request, memory, forget, watch))


def _watched(request: FitRequest, hooks: Hooks[Any], work: Callable[[Watch], Result]) -> Result:
    """Report what the data are like, work, watched, and report if their store is not the same in the end."""
    require_folder(request.options.checkpoint)
    hooks.report_data(request)
    before = request.fingerprint()
    try:
        with watching(request.token, request.options.progress) as watch:
            result = work(watch)
    except Exception:
        # What changed may be why.
        if request.fingerprint() != before:
            hooks.report_change(request)
        raise
    if request.fingerprint() != before:
        hooks.report_change(request)
    return result


def _run_rounds(
    request: FitRequest, hooks: Hooks[Model], model: Model, known: Moments | None, watch: Watch
) -> Model:
    """Refine and report; a pass finds the moments if they are not known."""
    options = request.options
    refined = hooks.refined(model, refine_rounds(request, hooks.start(model), known, watch))
    hooks.report_rounds(refined, options.refine)
    return refined


def _start_of(start: Callable[[Any], MoEParameters], fitted: Fitted) -> tuple[MoEParameters, Moments | None]:
    return start(fitted.model), fitted.moments


def _refined(refined: Callable[[Any, Refinement], Any], fitted: Fitted, refinement: Refinement) -> Any:
    return refined(fitted.model, refinement)


def _fitted(label: Callable[..., Any], with_moments: bool, result: FitResult, *named: Any) -> Fitted:
    return Fitted(label(result, *named), result.endings, result.moments if with_moments else None)


def _labelled(request: FitRequest, result: Delayed, label: Callable[..., Any], *marks: str) -> Delayed:
    """The task that labels a result; ``marks`` tell apart what it gives."""
    # The result's name tells apart what the request's token does not, as another support.
    key = f"moe-model-{tokenize(result.key, request.recorded, *marks)}"
    task = delayed(label, pure=False, traverse=False)
    return cast(Delayed, task(result, *_named(request), dask_key_name=key))


def _named(request: FitRequest) -> tuple[RowSchema, str, dict[str, Any]]:
    return request.schema, request.options.family, request.recorded
