"""The study of the paper, arXiv:2312.09877, by the package, and the same where the paper does not look.

A job that can be stopped: finished cells are in the store, and a rerun goes on from there.

    python examples/paper/study.py --size small --output study.zarr
    python examples/paper/study.py --size short --output study.zarr --data FOLDER
    python examples/paper/study.py --job examples/paper/job.yaml --scheduler tcp://10.0.0.1:8786
    python examples/paper/figures.py study.zarr --output figures

FOLDER has the real sets, ``mmash`` and ``beijing``; `real` says where they are from. The options of a job
file are those of the command line, and what stands there goes before.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import drawn
import fitting
import judging
import real
import scenarios
import xarray as xr
import yaml
from distributed import Client, as_completed
from scenarios import Cell
from sizes import SIZES, Size, cells_of, expected_seconds
from store import append, read_group, settle

logger = logging.getLogger("study")

Work = list[tuple[Cell, tuple[str, ...]]]


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line, above the job file that it names, above the defaults."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--job", type=Path, help="YAML file with names and values of these options")
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--output", type=Path, default=Path("study.zarr"), help="store of the results")
    parser.add_argument("--data", type=Path, help="folder of the real sets")
    parser.add_argument("--scheduler", help="address of a Dask scheduler, whose workers take a cell each")
    parser.add_argument("--seed", type=int, default=0)
    job = parser.parse_args(arguments).job
    if job is not None:
        content = yaml.safe_load(job.read_text(encoding="utf-8"))
        known = {action.dest for action in parser._actions}
        if not isinstance(content, dict) or not content.keys() <= known:
            parser.error(f"{job}: expected a mapping of some of {sorted(known)}, got {content}")
        parser.set_defaults(**content)
    options = parser.parse_args(arguments)
    options.output = Path(options.output)
    return options


def unfinished(path: Path, size: Size) -> Work:
    """The cells that the store does not have."""
    known = read_group(path, "simulated")
    done: set[Cell] = set()
    if known is not None:
        columns = (known[name].values.tolist() for name in Cell._fields)
        done = {Cell(*row) for row in zip(*columns, strict=True)}
    return [(cell, names) for cell, names in cells_of(size) if cell not in done]


def results(work: Work, seed: int, options: dict[str, Any], address: str | None) -> Iterator[xr.Dataset]:
    """The figures of all cells as they are done, here one after the other or on a cluster's workers."""
    if address is None:
        yield from (judging.judge_cell(cell, names, seed, options) for cell, names in work)
        return
    # No default: what is written here must not wait for a worker that judges.
    with Client(address, set_as_default=False) as client:
        # The cluster has the package, not these files; each imports those before it.
        for module in (scenarios, fitting, judging):
            client.upload_file(module.__file__)
        futures = [client.submit(judging.judge_cell, *one, seed, options, pure=False) for one in work]
        for future in as_completed(futures, loop=client.loop):
            yield future.result()
            future.release()


def progressing(done: Iterable[xr.Dataset], work: Work) -> Iterator[xr.Dataset]:
    """The same, and the log says how far it is."""
    began, total = time.monotonic(), sum(expected_seconds(*one) for one in work)
    expected = dict(work)
    behind = 0.0
    for number, found in enumerate(done, 1):
        cell = Cell(*(found[name].values.item() for name in Cell._fields))
        behind += expected_seconds(cell, expected[cell])
        left = (time.monotonic() - began) * (total - behind) / behind
        logger.info("%d of %d cells, %s; about %.0f min left", number, len(work), cell, left / 60)
        yield found


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study from the command line."""
    options = options_of(arguments)
    size = SIZES[options.size]
    settle(options.output, {"size": options.size, "seed": options.seed})
    work = unfinished(options.output, size)
    hours = sum(expected_seconds(*one) for one in work) / 3600
    print(f"{len(work)} cells to do, about {hours:.2f} hours of one core", flush=True)
    for found in progressing(results(work, options.seed, size.options, options.scheduler), work):
        append(options.output, "simulated", found)
    if options.data is None:
        logger.info("No real data: --data FOLDER names where they are")
    else:
        real.study(options.output, Path(options.data), size, options.seed)
    drawn.study(options.output, size, options.seed)
    logger.info("The study is done: %s", options.output)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    # Fits that end short are a part of the study.
    logging.getLogger("daskmoe").setLevel(logging.ERROR)
    main()
