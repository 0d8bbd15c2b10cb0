"""The `daskmoe` command: demo, fit, select, predict, aggregate, summary.

Results go to stdout, logs to stderr. Exit codes: 0 done; 2 bad usage or input; 3 done, but some partitions
were left out; 4 failed; 75 stopped, and the same command goes on; 130 interrupted.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

import daskmoe
from daskmoe.api.hooks import HOOKS
from daskmoe.api.reporting import left_out
from daskmoe.api.select import plan_selection, select_among
from daskmoe.cli.cluster import ClusterChoice, connect, resumable
from daskmoe.cli.demo import DemoOptions, free_folder, run_demo
from daskmoe.cli.exit_codes import BAD_INPUT, DONE, FAILED, INTERRUPTED, PARTITIONS_LEFT_OUT, STOPPED
from daskmoe.cli.fit_options import fit_options, with_flags
from daskmoe.cli.job_file import with_job_file
from daskmoe.cli.stopping import Stopped, stoppable, within
from daskmoe.engine import plan_request
from daskmoe.engine import run as run_fit
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
from daskmoe.model.store import require_new, save_zarr
from daskmoe.options import METHODS, FitOptions, Method

logger = logging.getLogger(__name__)

_INPUT_ERRORS = (InvalidDataError, InvalidOptionError, OutputExistsError, SchemaError, StoreError)

_FILE = click.Path(exists=True, dir_okay=False)

Command = TypeVar("Command", bound=Callable[..., Any])


def main() -> None:
    """Run the command line and exit with its code."""
    _log_to_stderr()
    sys.exit(run(sys.argv[1:]))


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
    except Exception:
        logger.exception("The job failed; the traceback says where.")
        return FAILED
    return int(code or DONE)


def _log_details(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        logging.getLogger("daskmoe").setLevel(logging.DEBUG)


verbose_option = click.option(
    "-v", "--verbose", is_flag=True, expose_value=False, callback=_log_details, help="Log details too."
)


def cluster_options(command: Command) -> Command:
    """Add the options that say where a command runs and how much it says."""
    for option in (
        verbose_option,
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


def _choose_cluster(workers: int | None, scheduler: str | None, scheduler_file: str | None) -> ClusterChoice:
    choice = ClusterChoice(workers, scheduler, scheduler_file)
    if sum(value is not None for value in choice) > 1:
        raise click.UsageError("Expected at most one of --workers, --scheduler and --scheduler-file.")
    return choice


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
        return with_flags(super().format(record))


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_WithFlags("%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"))
    # Python's warnings reach the log of a job too.
    logging.captureWarnings(True)
    for name in ("daskmoe", "py.warnings"):
        named = logging.getLogger(name)
        named.handlers = [handler]
        named.setLevel(logging.INFO)
        named.propagate = False


@commands.command()
@click.option("--output", type=click.Path(path_type=Path), help="Folder to make.  [default: daskmoe-demo]")
@click.option("--rows", type=click.IntRange(min=100), default=1_000_000, help="Rows to simulate and fit.")
@click.option("--partitions", type=click.IntRange(min=1), default=32, help="Chunks of the store.")
@click.option("--seed", type=int, default=0, help="Seed of the simulation and the fit.")
@cluster_options
def demo(output: Path | None, rows: int, partitions: int, seed: int, **cluster: Any) -> None:
    """Simulate a store, fit it on worker processes, compare with the truth: a minute on two cores."""
    choice = _choose_cluster(**cluster)
    folder = free_folder(Path("daskmoe-demo")) if output is None else output
    require_new(folder)
    logger.info("The demo goes to the folder %s.", folder)
    with connect(choice):
        result = run_demo(DemoOptions(folder, rows, partitions, seed))
    click.echo(result)


@commands.command()
@click.argument("store")
@click.option("--target", required=True, help="Variable to predict.")
@fit_options
@click.option(
    "--output", type=click.Path(), required=True, help="Model to write: Zarr, or netCDF if it ends in .nc."
)
@click.option("--overwrite", is_flag=True, help="Replace the output once the new one is written.")
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
    output: str,
    overwrite: bool,
    time_budget: float | None,
    workers: int | None,
    scheduler: str | None,
    scheduler_file: str | None,
    **options: Any,
) -> int:
    """Fit a model to a Zarr STORE and write it."""
    choice = _choose_cluster(workers, scheduler, scheduler_file)
    if not overwrite:
        require_new(output)
    # Planned before the cluster starts, so that bad input is said at once.
    request = plan_request(store, target, FitOptions(**options))
    with resumable(options["checkpoint"]), within(time_budget), connect(choice):
        model = run_fit(request, HOOKS)
    _save(model, output, overwrite)
    return PARTITIONS_LEFT_OUT if left_out(model) else DONE


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
@cluster_options
def select(
    store: str,
    target: str,
    n_experts: list[int],
    criterion: str,
    held_out: float | None,
    output: str | None,
    workers: int | None,
    scheduler: str | None,
    scheduler_file: str | None,
    **options: Any,
) -> int:
    """Fit models of several numbers of experts to a Zarr STORE and print how they compare."""
    choice = _choose_cluster(workers, scheduler, scheduler_file)
    if output is not None:
        require_new(output)
    plan = plan_selection(store, target, n_experts, criterion, held_out, options)
    with resumable(options["checkpoint"]), connect(choice):
        selection = select_among(plan)
    click.echo(selection)
    if output is not None:
        _save(selection.model, output)
    return PARTITIONS_LEFT_OUT if left_out(selection.model) else DONE


@commands.command()
@click.argument("model")
@click.argument("store")
@click.option("--output", type=click.Path(), required=True, help="Zarr store to write.")
@click.option("--clip", is_flag=True, help="Keep to the target's range in the fit.")
@click.option("--dtype", type=click.Choice(FLOAT_TYPES), default="float64", help="Of the predictions.")
@cluster_options
def predict(model: str, store: str, output: str, clip: bool, dtype: FloatType, **cluster: Any) -> None:
    """Predict the target of MODEL on the rows of STORE, chunk by chunk."""
    choice = _choose_cluster(**cluster)
    require_new(output)
    prediction = daskmoe.open_model(model).predict(store, clip=clip, dtype=dtype)
    with connect(choice):
        save_zarr(prediction.to_dataset(), output)
    click.echo(output)


@commands.command()
@click.argument("models", metavar="MODEL...", nargs=-1, required=True)
@click.option("--support", required=True, metavar="STORE", help="Store whose rows are the support sample.")
@click.option(
    "--n-experts", type=click.IntRange(min=1), help="Experts of the result.  [default: as the models]"
)
@click.option("--method", type=click.Choice(METHODS), default="reduction", help="Estimator of the result.")
@click.option("--seed", type=int, help="Seed of all randomness.")
@click.option(
    "--output", type=click.Path(), required=True, help="Model to write: Zarr, or netCDF if it ends in .nc."
)
def aggregate(
    models: tuple[str, ...],
    support: str,
    n_experts: int | None,
    method: Method,
    seed: int | None,
    output: str,
) -> None:
    """Join models that were fitted elsewhere into one."""
    require_new(output)
    joined = daskmoe.aggregate(models, support, n_experts=n_experts, method=method, random_state=seed)
    _save(joined, output)


@commands.command()
@click.argument("model")
def summary(model: str) -> None:
    """Print what is in a saved MODEL."""
    click.echo(daskmoe.open_model(model).summary())


def _save(model: daskmoe.MixtureOfExperts, output: str, overwrite: bool = False) -> None:
    if output.endswith(".nc"):
        model.to_netcdf(output, overwrite=overwrite)
    else:
        model.to_zarr(output, overwrite=overwrite)
    click.echo(output)
