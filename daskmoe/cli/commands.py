"""The `daskmoe` command: demo, fit, preview, select, predict, refine, update, aggregate, summary, sweep.

Results go to stdout, logs to stderr. Exit codes: 0 done; 2 bad usage or input; 3 done, but some partitions
were left out; 4 failed; 75 stopped, and the same command goes on; 130 interrupted.
"""

from __future__ import annotations

import copy
import errno
import logging
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

import daskmoe
from daskmoe.api.beside import Model, experts_of, fit_request
from daskmoe.api.preview import preview_of
from daskmoe.api.refine import plan_refinements, refined_by
from daskmoe.api.reporting import left_out
from daskmoe.api.select import plan_selection, select_among
from daskmoe.api.update import plan_updates, updated_by
from daskmoe.cli.cluster import ClusterChoice, connect, resumable
from daskmoe.cli.demo import DemoOptions, free_folder, run_demo
from daskmoe.cli.exit_codes import BAD_INPUT, DONE, FAILED, INTERRUPTED, PARTITIONS_LEFT_OUT, STOPPED
from daskmoe.cli.fit_options import fit_options, with_flags
from daskmoe.cli.job_file import with_job_file
from daskmoe.cli.records import JsonLines, facts_of, reported, require_report, summarized, without_place
from daskmoe.cli.stopping import Stopped, stoppable, within
from daskmoe.engine import plan_request
from daskmoe.engine.checkpoint import require_folder
from daskmoe.errors import (
    DaskMoEError,
    InvalidDataError,
    InvalidOptionError,
    OutputExistsError,
    SchemaError,
    StoreError,
)
from daskmoe.model.blockwise import FLOAT_TYPES, FloatType
from daskmoe.model.selection import CRITERIA
from daskmoe.model.store import require_new, require_writable, save_zarr
from daskmoe.options import AGGREGATIONS, ON_ERROR, Aggregation, FitOptions, OnError, Rounds, check_rounds

logger = logging.getLogger(__name__)

_INPUT_ERRORS = (InvalidDataError, InvalidOptionError, OutputExistsError, SchemaError, StoreError)

_LOGGERS = ("daskmoe", "py.warnings")
_FILE = click.Path(exists=True, dir_okay=False)

# Of the options of a fit those that say nothing of a pass over the rows of a model.
_NOT_OF_PASSES = set(FitOptions.known()) - {"partitions", "on_error", "missing_chunks", "progress"}

Command = TypeVar("Command", bound=Callable[..., Any])


def main() -> None:
    """Run the command line and exit with its code."""
    _log_to_stderr()
    sys.exit(run(sys.argv[1:]))


@click.command("moe", add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def plug_in(arguments: tuple[str, ...]) -> None:
    """Mixture-of-experts regression: the commands of daskmoe."""
    _log_to_stderr()
    sys.exit(run(arguments))


def run(arguments: Sequence[str]) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str
        What follows the name of the program.

    Returns
    -------
    int
        The exit code.
    """
    try:
        spelled = with_job_file(arguments, commands)
        with stoppable():
            code = commands.main(spelled, prog_name="daskmoe", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return BAD_INPUT
    except (click.Abort, KeyboardInterrupt) as error:
        # Click makes an Abort of an interrupt and keeps it as the cause.
        cause = error.__cause__ if isinstance(error, click.Abort) else error
        told = [] if isinstance(cause, Stopped) else ["Interrupted."]
        logger.error("%s", " ".join([*told, *map(str, getattr(cause, "args", ()))]))
        return STOPPED if isinstance(cause, Stopped) and cause.resumable else INTERRUPTED
    except _INPUT_ERRORS as error:
        logger.error("%s", with_flags(str(error)))
        return BAD_INPUT
    except (DaskMoEError, TimeoutError) as error:
        logger.error("%s", with_flags(str(error)))
        return FAILED
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            logger.exception("The job failed; the traceback says where.")
        else:
            logger.error("Nothing more can be written: %s", error)
        return FAILED
    except Exception:
        logger.exception("The job failed; the traceback says where.")
        return FAILED
    return int(code or DONE)


def _log_details(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        logging.getLogger("daskmoe").setLevel(logging.DEBUG)


def _log_as(context: click.Context, parameter: click.Parameter, value: str) -> None:
    if value == "json":
        for name in _LOGGERS:
            for handler in logging.getLogger(name).handlers:
                handler.setFormatter(JsonLines(_WithFlags()))


log_format_option = click.option(
    "--log-format",
    type=click.Choice(("text", "json")),
    default="text",
    expose_value=False,
    callback=_log_as,
    help="How the log is written: for people, or a line of JSON a message.",
)
verbose_option = click.option(
    "-v", "--verbose", is_flag=True, expose_value=False, callback=_log_details, help="Log details too."
)


overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Replace the output once the new one is written."
)


def cluster_options(command: Command) -> Command:
    """Add the options that say where a command runs and how much it says."""
    for option in (
        verbose_option,
        log_format_option,
        click.option(
            "--timeout",
            type=click.FloatRange(min=0, min_open=True),
            metavar="SECONDS",
            help="End after so long without workers that take tasks.",
        ),
        click.option(
            "--wait-workers",
            type=click.IntRange(min=1),
            default=1,
            metavar="NUMBER",
            help="Workers of a running scheduler to wait for.",
        ),
        click.option("--tls-key", type=_FILE, help="Key of this machine, where --tls-cert has none."),
        click.option("--tls-cert", type=_FILE, help="Certificate of this machine for a tls:// scheduler."),
        click.option("--tls-ca-file", type=_FILE, help="Certificates of who signs those of the cluster."),
        click.option("--scheduler-file", type=_FILE, help="Use the scheduler of this file."),
        click.option("--scheduler", metavar="ADDRESS", help="Use the scheduler at this address."),
        click.option(
            "--workers",
            type=click.IntRange(min=1),
            help="Start as many worker processes on this machine.  [default: one a core]",
        ),
    ):
        command = option(command)
    return command


def _choose_cluster(**given: Any) -> ClusterChoice:
    """The cluster of the options that `cluster_options` adds."""
    if sum(given[name] is not None for name in ("workers", "scheduler", "scheduler_file")) > 1:
        raise click.UsageError("Expected at most one of --workers, --scheduler and --scheduler-file.")
    if any(given[f"tls_{name}"] for name in ("ca_file", "cert", "key")) and not (
        given["tls_ca_file"] and given["tls_cert"] and (given["scheduler"] or given["scheduler_file"])
    ):
        raise click.UsageError(
            "Expected --tls-ca-file and --tls-cert together, with --scheduler or --scheduler-file."
        )
    return ClusterChoice(**given)


def _split(options: dict[str, Any]) -> tuple[ClusterChoice, dict[str, Any]]:
    """The cluster, and the options that are not about it."""
    cluster = {name: options[name] for name in ClusterChoice._fields}
    return _choose_cluster(**cluster), {n: v for n, v in options.items() if n not in cluster}


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="daskmoe", message="%(prog)s %(version)s")
@verbose_option
def commands() -> None:
    """Mixture-of-experts regression on data that do not fit in memory.

    Results go to stdout, logs to stderr. Exit codes: 0 done, 2 bad usage or input, 3 done but some partitions
    were left out, 4 failed, 75 stopped by SIGTERM or a time budget (the same command goes on), 130
    interrupted. A job file, `daskmoe fit job.yaml`, names the options of a command and their values.
    """


class _WithFlags(logging.Formatter):
    """What the library says, with its options spelled as those of the command line."""

    def format(self, record: logging.LogRecord) -> str:
        if record.name == "py.warnings":
            record = copy.copy(record)
            record.msg, record.args = without_place(record.getMessage()), None
        return with_flags(super().format(record))


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_WithFlags("%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"))
    # Python's warnings reach the log of a job too.
    logging.captureWarnings(True)
    for name in _LOGGERS:
        named = logging.getLogger(name)
        named.handlers = [handler]
        named.setLevel(logging.INFO)
        named.propagate = False


@commands.command()
@click.option("--output", type=click.Path(path_type=Path), help="Folder to make.  [default: daskmoe-demo]")
@click.option("--rows", type=click.IntRange(min=100), default=1_000_000, help="Rows to simulate and fit.")
@click.option("--partitions", type=click.IntRange(min=1), default=32, help="Chunks of the store.")
@click.option(
    "--seed", "--random-state", "seed", type=int, default=0, help="Seed of the simulation and the fit."
)
@cluster_options
def demo(output: Path | None, rows: int, partitions: int, seed: int, **cluster: Any) -> None:
    """Simulate a store, fit it on worker processes, compare with the truth: a minute on two cores."""
    choice = _choose_cluster(**cluster)
    folder = free_folder(Path("daskmoe-demo")) if output is None else output
    _require_output(folder)
    logger.info("The demo goes to the folder %s.", folder)
    with connect(choice):
        result = run_demo(DemoOptions(folder, rows, partitions, seed))
    click.echo(result)


@commands.command()
@click.argument("store")
@click.option("--target", required=True, help="Variable to predict.")
@fit_options
@click.option("--output", type=click.Path(), help="Model to write: Zarr, or netCDF if it ends in .nc.")
@click.option("--dry-run", is_flag=True, help="Print what would be done, as `daskmoe preview`, and end.")
@overwrite_option
@click.option("--summary", type=click.Path(), metavar="FILE", help="Write how the job went as JSON.")
@click.option("--report", type=click.Path(), metavar="FILE", help="Write Dask's performance report as HTML.")
@click.option(
    "--time-budget",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Stop after so long.",
)
@cluster_options
def fit(
    store: str,
    target: str,
    output: str | None,
    dry_run: bool,
    overwrite: bool,
    summary: str | None,
    report: str | None,
    time_budget: float | None,
    **options: Any,
) -> int:
    """Fit a model to a Zarr STORE and write it."""
    choice, options = _split(options)
    if dry_run:
        _show_preview(store, target, choice, options)
        return DONE
    if output is None:
        raise click.UsageError("Missing option '--output'.")
    require_report(report)
    for path in (summary, report):
        if path is not None:
            require_writable(path)
    with summarized(summary, {"store": store, "target": target, "output": output}) as known:
        # Planned before the cluster starts, so that bad input is said at once.
        _require_output(output, overwrite, read=[store])
        request = plan_request(store, target, FitOptions(**options))
        require_folder(request.options.checkpoint)
        with resumable(options["checkpoint"]), within(time_budget), connect(choice), reported(report):
            model = fit_request(request)
        # Of a model beside atoms, what became of the partitions in the fit of the experts.
        known |= facts_of(experts_of(model))
        _save(model, output, overwrite)
    return PARTITIONS_LEFT_OUT if left_out(experts_of(model)) else DONE


@commands.command()
@click.argument("store")
@click.option("--target", required=True, help="Variable to predict.")
@fit_options
@cluster_options
def preview(
    store: str,
    target: str,
    **options: Any,
) -> None:
    """Print what a fit to a Zarr STORE would do: partitions, tasks, reads, memory. No rows are read."""
    choice, options = _split(options)
    _show_preview(store, target, choice, options)


def _show_preview(store: str, target: str, choice: ClusterChoice, options: dict[str, Any]) -> None:
    """Beside the limits of a cluster that runs already; none is started for it."""
    request = plan_request(store, target, FitOptions(**options))
    running = choice.scheduler is not None or choice.scheduler_file is not None
    with connect(choice) if running else nullcontext():
        click.echo(preview_of(request))


def _sizes(context: click.Context, parameter: click.Parameter, text: str) -> list[int]:
    """Of ``1-6`` or ``1,2,4``."""
    try:
        ends = [part.partition("-") for part in text.split(",")]
        return [size for low, _, high in ends for size in range(int(low), int(high or low) + 1)]
    except ValueError:
        raise click.BadParameter(f"expected numbers as 1-6 or 1,2,4, got {text!r}.") from None


@commands.command()
@click.argument("store")
@click.option("--target", required=True, help="Variable to predict.")
@click.option("--n-experts", callback=_sizes, default="1-6", metavar="1-6|1,2,4", help="Candidates.")
@click.option("--criterion", type=click.Choice([*CRITERIA]), default="bic", help="What decides.")
@click.option(
    "--held-out",
    type=float,
    metavar="SHARE",
    help="Share of the partitions to compare on.  [default: 0.25 where that decides]",
)
@partial(fit_options, without=("n_experts", "n_local_experts"))
@click.option("--output", type=click.Path(), help="The chosen model: Zarr, or netCDF if it ends in .nc.")
@overwrite_option
@cluster_options
def select(
    store: str,
    target: str,
    n_experts: list[int],
    criterion: str,
    held_out: float | None,
    output: str | None,
    overwrite: bool,
    **options: Any,
) -> int:
    """Fit models of several numbers of experts to a Zarr STORE and print how they compare."""
    choice, options = _split(options)
    if output is not None:
        _require_output(output, overwrite, read=[store])
    plan = plan_selection(store, target, n_experts, criterion, held_out, options)
    with resumable(options["checkpoint"]), connect(choice):
        selection = select_among(plan)
    click.echo(selection)
    if output is not None:
        _save(selection.model, output, overwrite)
    return PARTITIONS_LEFT_OUT if left_out(experts_of(selection.model)) else DONE


@commands.command()
@click.argument("model")
@click.argument("store")
@click.option("--output", type=click.Path(), required=True, help="Zarr store to write.")
@click.option("--clip", is_flag=True, help="Keep to the target's range in the fit.")
@click.option("--dtype", type=click.Choice(FLOAT_TYPES), default="float64", help="Of the predictions.")
@click.option(
    "--on-error",
    type=click.Choice(ON_ERROR),
    default="raise",
    help="What a level that the fit did not have is: an error, or a missing value.",
)
@overwrite_option
@cluster_options
def predict(
    model: str,
    store: str,
    output: str,
    clip: bool,
    dtype: FloatType,
    on_error: OnError,
    overwrite: bool,
    **cluster: Any,
) -> None:
    """Predict the target of MODEL on the rows of STORE, chunk by chunk."""
    choice = _choose_cluster(**cluster)
    _require_output(output, overwrite, read=[model, store])
    prediction = daskmoe.open_model(model).predict(store, clip=clip, dtype=dtype, on_error=on_error)
    with connect(choice):
        save_zarr(prediction.to_dataset(), output, overwrite=overwrite)
    click.echo(output)


def _rounds(context: click.Context, parameter: click.Parameter, text: str) -> Rounds:
    """Of ``3`` or ``converged``."""
    try:
        return check_rounds("rounds", int(text) if text.strip().isdecimal() else text, 1)
    except InvalidOptionError as error:
        raise click.BadParameter(str(error), context, parameter) from error


@commands.command()
@click.argument("model")
@click.argument("store")
@click.option("--rounds", callback=_rounds, default="3", metavar="NUMBER|converged", help="Most rounds.")
@click.option(
    "--cluster",
    metavar="NAME",
    help="Variable whose values tell dependent rows, for errors.  [default: the partitions]",
)
@partial(fit_options, without=_NOT_OF_PASSES)
@click.option(
    "--output", type=click.Path(), required=True, help="Model to write: Zarr, or netCDF if it ends in .nc."
)
@overwrite_option
@cluster_options
def refine(
    model: str,
    store: str,
    rounds: Rounds,
    cluster: str | None,
    output: str,
    overwrite: bool,
    **options: Any,
) -> None:
    """Take MODEL to the maximum of the likelihood of the rows of STORE, a pass a round, and write it."""
    choice, options = _split(options)
    _require_output(output, overwrite, read=[store])
    # Planned before the cluster starts, so that bad input is said at once.
    plans = plan_refinements(model, store, rounds=rounds, cluster=cluster, **options)
    with connect(choice):
        refined = refined_by(plans)
    _save(refined, output, overwrite)


@commands.command()
@click.argument("model")
@click.argument("store")
@click.option("--forget", type=float, default=0.0, metavar="SHARE", help="Share of the past to discount.")
@partial(fit_options, without=_NOT_OF_PASSES)
@click.option(
    "--output", type=click.Path(), required=True, help="Model to write: Zarr, or netCDF if it ends in .nc."
)
@overwrite_option
@cluster_options
def update(
    model: str,
    store: str,
    forget: float,
    output: str,
    overwrite: bool,
    **options: Any,
) -> None:
    """Add the new rows of STORE to MODEL and write it; the old rows are not needed."""
    choice, options = _split(options)
    _require_output(output, overwrite, read=[store])
    # Planned before the cluster starts, so that bad input is said at once.
    plans = plan_updates(model, store, forget=forget, **options)
    with connect(choice):
        updated = updated_by(plans)
    _save(updated, output, overwrite)


@commands.command()
@click.argument("models", metavar="MODEL...", nargs=-1, required=True)
@click.option("--support", required=True, metavar="STORE", help="Store whose rows are the support sample.")
@click.option(
    "--n-experts", type=click.IntRange(min=1), help="Experts of the result.  [default: as the models]"
)
@click.option(
    "--method", type=click.Choice(AGGREGATIONS), default="reduction", help="Estimator of the result."
)
@click.option("--seed", "--random-state", "seed", type=int, help="Seed of all randomness.")
@click.option(
    "--output", type=click.Path(), required=True, help="Model to write: Zarr, or netCDF if it ends in .nc."
)
@overwrite_option
@log_format_option
@verbose_option
def aggregate(
    models: tuple[str, ...],
    support: str,
    n_experts: int | None,
    method: Aggregation,
    seed: int | None,
    output: str,
    overwrite: bool,
) -> None:
    """Join models that were fitted elsewhere into one."""
    _require_output(output, overwrite, read=[support])
    joined = daskmoe.aggregate(models, support, n_experts=n_experts, method=method, random_state=seed)
    _save(joined, output, overwrite)


@commands.command()
@click.argument("model")
def summary(model: str) -> None:
    """Print what is in a saved MODEL."""
    click.echo(daskmoe.open_model(model).summary())


@commands.command()
@click.argument("checkpoint")
@click.option("--unused-days", type=float, required=True, help="Days since an entry was last used.")
@click.option("--dry-run", is_flag=True, help="Only count what would be removed.")
def sweep(checkpoint: str, unused_days: float, dry_run: bool) -> None:
    """Remove entries of a CHECKPOINT folder that no run has used for some days."""
    swept = daskmoe.sweep_checkpoint(checkpoint, unused_days=unused_days, dry_run=dry_run)
    done = "would be removed" if dry_run else "removed"
    click.echo(
        f"{swept.removed} entries of {swept.removed_bytes / 1e6:.1f} MB {done}, "
        f"{swept.left} of {swept.left_bytes / 1e6:.1f} MB left"
    )


def _require_output(output: str | Path, overwrite: bool = False, *, read: Sequence[str] = ()) -> None:
    """Raise before any work for what could not be written after it, or would replace what is read."""
    if not overwrite:
        require_new(output)
    new = Path(output).resolve()
    for path in read:
        known = Path(path).resolve()
        if new == known or new in known.parents or known in new.parents:
            raise InvalidOptionError(
                f"--output: expected a path apart from {path!r}, which is read, got {str(output)!r}."
            )
    require_writable(output)


def _save(model: Model, output: str, overwrite: bool = False) -> None:
    if output.endswith(".nc"):
        model.to_netcdf(output, overwrite=overwrite)
    else:
        model.to_zarr(output, overwrite=overwrite)
    click.echo(output)
