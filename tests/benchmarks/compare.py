"""Two checkouts side by side: that they give the same answers, and at the same speed.

A change that is to change neither, as a new layout of the package, is held to both:

    PYTHONPATH=tests python -m benchmarks.compare answers BEFORE AFTER --data FOLDER --cache FOLDER
    PYTHONPATH=tests python -m benchmarks.compare speed BEFORE AFTER

``answers`` runs the cases of `golden` in a process for each checkout and compares all they give: numbers to
1e-10 of the largest of their array, counts and texts exactly. ``speed`` times the functions of
``tests/benchmarks/kernels.py`` of each checkout, in turn, in one process each. Both end with status 1 where a
bar is missed.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
GOLDEN = HERE / "golden.py"
EXAMPLE = HERE.parents[1] / "examples" / "beijing_air_quality.py"
# Of checkouts from before there were any.
FIRST_KERNELS = HERE / "kernels_0_1_0.py"

Results = Mapping[str, NDArray[Any]]

TOLERANCE = 1e-10
MAY_BE_MISSING = ("diagnostics.", "note.")

BAR = 1.03
IMPORT_BAR = 1.2
# Workers are started anew so often: where a process has its memory makes all of it faster or slower.
STARTS = 4
# Calls of the slow kernels are fewer, and those of the quick ones are timed some at a time.
SLOW_SECONDS, SLOW_SHARE = 0.5, 4
QUICK_SECONDS = 0.05
# The package, and what it cannot do without.
IMPORTS = ("import daskmoe", "import xarray, dask.array, distributed")


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def environment(checkout: Path) -> dict[str, str]:
    """That of a process that has the package of one checkout, and one thread."""
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    # The folder of a script that is run by its path is not to be searched for modules.
    search = {"PYTHONPATH": str(checkout.resolve()), "PYTHONSAFEPATH": "1", "PYTHONHASHSEED": "0"}
    return os.environ | single | search


# Answers.


class Verdict(NamedTuple):
    """What comparing a case found.

    Attributes
    ----------
    largest : float
        Largest difference of numbers, relative to the largest of their array.
    passes : str
        Whether the passes over the rows are equal; "-" where there are none.
    differing, notes : list of str
        What is wrong, and what only one of the checkouts has and may.
    """

    largest: float
    passes: str
    differing: list[str]
    notes: list[str]


def difference(before: NDArray[Any], after: NDArray[Any]) -> float:
    """Largest difference over the largest absolute value; infinite where other things than numbers differ."""
    if before.shape != after.shape or before.dtype.kind != after.dtype.kind:
        return np.inf
    if before.dtype.kind != "f":
        return 0.0 if np.array_equal(before, after) else np.inf
    finite = np.isfinite(before)
    if not np.array_equal(before[~finite], after[~finite], equal_nan=True):
        return np.inf
    if not np.isfinite(after[finite]).all():
        return np.inf
    first, second = before[finite].astype(np.float64), after[finite].astype(np.float64)
    gap = np.abs(first - second).max(initial=0.0)
    return float(gap / max(np.abs(first).max(), np.abs(second).max())) if gap > 0 else 0.0


def shown(value: NDArray[Any]) -> str:
    """A short form of a result."""
    text = repr(value.item()) if value.ndim == 0 else f"{value.dtype} {value.shape}"
    return text if len(text) < 200 else text[:200] + "..."


def compare_case(before: Results, after: Results) -> Verdict:
    """Compare the results of one case."""
    differing = [
        f"{side}: {values['error'].item()}"
        for side, values in (("before", before), ("after", after))
        if "error" in values
    ]
    if differing:
        return Verdict(np.inf, "-", differing, [])
    notes, largest = [], 0.0
    for name in sorted(set(before) ^ set(after)):
        where = "before" if name in before else "after"
        (notes if name.startswith(MAY_BE_MISSING) else differing).append(f"{name}: only {where}")
    shared = sorted(set(before) & set(after))
    for name in shared:
        first, second = before[name], after[name]
        found = difference(first, second)
        if name.startswith("note."):
            notes += [f"{name}: {shown(first)}, then {shown(second)}"] if found else []
            continue
        largest = max(largest, found if np.isfinite(found) else 0.0)
        if found > TOLERANCE:
            what = f"by {found:.1e}" if np.isfinite(found) else f"{shown(first)}, then {shown(second)}"
            differing.append(f"{name}: {what}")
    counted = [name for name in shared if name.endswith(".passes")]
    equal = all(np.array_equal(before[name], after[name]) for name in counted)
    passes = "-" if not counted else "equal" if equal else "not equal"
    return Verdict(largest, passes, differing, notes)


def committed(checkout: Path) -> str | None:
    """What git calls the package's content; None where there are changes that are not committed."""

    def git(*arguments: str) -> str | None:
        done = subprocess.run(["git", "-C", str(checkout), *arguments], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else None

    return git("rev-parse", "HEAD:./daskmoe") if git("status", "--porcelain", "--", "daskmoe") == "" else None


def results_folder(checkout: Path, scratch: Path, options: argparse.Namespace) -> Path:
    """Where a checkout's results go: to the cache if they are those of a commit."""
    content = committed(checkout) if options.cache else None
    if content is None:
        return scratch
    how = hashlib.sha256(GOLDEN.read_bytes() + EXAMPLE.read_bytes())
    versions = [metadata.version(name) for name in ("numpy", "scipy", "dask", "xarray", "zarr")]
    how.update(f"{sys.version} {versions} {options.data and options.data.resolve()} {options.tiny}".encode())
    return Path(options.cache) / f"{content[:16]}-{how.hexdigest()[:16]}"


def collect(checkout: Path, cases: list[str], folder: Path, data: Path | None, tiny: bool) -> None:
    """Run the cases that have no file of results yet, in a process of the checkout's own."""
    paths = {name: folder / f"{name}.npz" for name in cases}
    missing = [name for name, path in paths.items() if not path.exists() or "error" in load(path)]
    if not missing:
        return
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        str(GOLDEN),
        "collect",
        str(checkout.resolve()),
        str(folder.resolve()),
        *missing,
    ]
    command += ["--tiny"] if tiny else []
    command += ["--data", str(data.resolve())] if data else []
    with tempfile.TemporaryDirectory() as elsewhere:
        done = subprocess.run(command, cwd=elsewhere, env=environment(checkout))
    if done.returncode:
        raise SystemExit(f"{checkout}: the golden set ended with status {done.returncode}")


def load(path: Path) -> Results:
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def choose_cases(checkout: Path, only: list[str] | None, data: Path | None, tiny: bool) -> list[str]:
    """Names of the cases to run; those of real data where there are some."""
    command = [sys.executable, str(GOLDEN), "list"]
    known = json.loads(subprocess.check_output(command, env=environment(checkout)))
    cases: list[str] = known["tiny" if tiny else "all"]
    if only:
        unknown = [pattern for pattern in only if not any(fnmatch(name, pattern) for name in cases)]
        if unknown:
            raise SystemExit(f"--only: expected some of {cases}, got {unknown}")
        cases = [name for name in cases if any(fnmatch(name, pattern) for pattern in only)]
    real = [name for name in cases if name in known["of real data"]]
    if real and data is None:
        say(f"{', '.join(real)}: left out, as there is no --data")
        cases = [name for name in cases if name not in real]
    return cases


def answers(options: argparse.Namespace) -> bool:
    """Whether both checkouts give the same results in all cases."""
    cases = choose_cases(options.before, options.only, options.data, options.tiny)
    failed = []
    with tempfile.TemporaryDirectory() as scratch:
        folders = []
        for side in ("before", "after"):
            checkout = getattr(options, side)
            folder = results_folder(checkout, Path(scratch) / side, options)
            collect(checkout, cases, folder, options.data, options.tiny)
            folders.append(folder)
        say(f"{'case':26}{'difference':>11}  {'passes':10}")
        for name in cases:
            found = compare_case(*(load(folder / f"{name}.npz") for folder in folders))
            verdict = "DIFFERS" if found.differing else "ok"
            say(f"{name:26}{found.largest:11.1e}  {found.passes:10}{verdict}")
            for line in found.differing:
                say(f"    {line}")
            for line in found.notes:
                say(f"    note: {line}")
            failed += [name] if found.differing else []
    say(f"{len(cases) - len(failed)} of {len(cases)} cases agree")
    return not failed


# Speed.


def serve(kernels: Path, rows: int | None) -> None:
    """Time kernels on request: a line ``NAME<tab>CALLS`` in, seconds of processor time out."""
    spec = importlib.util.spec_from_file_location("kernels", kernels)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = module.make_kernels() if rows is None else module.make_kernels(rows)
    import daskmoe

    say(json.dumps({"package": str(Path(daskmoe.__file__).resolve().parent), "kernels": list(made)}))
    for line in sys.stdin:
        name, calls = line.rstrip("\n").split("\t")
        kernel = made[name]
        began = time.process_time()
        for _ in range(int(calls)):
            kernel()
        say(repr(time.process_time() - began))


class Worker:
    """A process that has one checkout's package and times its kernels.

    Parameters
    ----------
    checkout : Path
    rows : int, optional
        Fewer rows than usual.
    """

    def __init__(self, checkout: Path, rows: int | None) -> None:
        own = checkout.resolve() / "tests" / "benchmarks" / "kernels.py"
        kernels = own if own.exists() else FIRST_KERNELS
        command = [sys.executable, str(HERE / "compare.py"), "serve", str(kernels)]
        command += [] if rows is None else ["--rows", str(rows)]
        self._folder = tempfile.TemporaryDirectory()
        self._process = subprocess.Popen(
            command, cwd=self._folder.name, env=environment(checkout), text=True, bufsize=1,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        about = json.loads(self._answer())
        self.kernels: list[str] = about["kernels"]
        if Path(about["package"]) != checkout.resolve() / "daskmoe":
            raise SystemExit(f"expected the package of {checkout}, got {about['package']}")

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("a worker ended early; its error is above")
        return line

    def seconds(self, kernel: str, calls: int) -> float:
        """Processor time of so many calls."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{kernel}\t{calls}\n")
        return float(self._answer())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # It ends with its input.
        self._process.__exit__(None, None, None)
        self._folder.cleanup()


Timer = Callable[[], float]


def pairs(before: Timer, after: Timer, repeats: int) -> Iterator[tuple[float, float]]:
    """Seconds of both, close in time, the one to go first changing each time."""
    for repeat in range(repeats):
        if repeat % 2:
            second = after()
            yield before(), second
        else:
            first = before()
            yield first, after()


def report(name: str, found: list[tuple[float, float]], bar: float | None) -> bool:
    """Say how the second of each pair compares with the first; whether the median is within the bar."""
    table = np.array(found)
    ratios = table[:, 1] / table[:, 0]
    median, least = float(np.median(ratios)), table.min(axis=0)
    fine = bar is None or median <= bar
    verdict = "" if bar is None else f"{'ok' if fine else 'OVER'} (bar {bar})"
    say(f"{name:26}{median:8.3f}{ratios.min():8.3f}{least[1] / least[0]:8.3f}{1e3 * least[1]:12.2f}"
        f"{len(found):9d}  {verdict}")  # fmt: skip
    return fine


@contextmanager
def both_workers(options: argparse.Namespace) -> Iterator[tuple[Worker, Worker]]:
    with Worker(options.before, options.rows) as before, Worker(options.after, options.rows) as after:
        yield before, after


def time_kernels(options: argparse.Namespace) -> dict[str, list[tuple[float, float]]]:
    """Pairs of seconds a call of every kernel that both checkouts have."""
    found: dict[str, list[tuple[float, float]]] = {}
    starts = min(STARTS, options.repeats)
    for _ in range(starts):
        with both_workers(options) as (before, after):
            for name in before.kernels:
                if name not in after.kernels or not wanted(name, options.only):
                    continue
                after.seconds(name, 1)
                once = before.seconds(name, 1)
                calls = max(1, int(QUICK_SECONDS / max(once, 1e-6)))
                repeats = -(-options.repeats // starts)
                if once > SLOW_SECONDS:
                    repeats = -(-repeats // SLOW_SHARE)
                timers = (_timer(worker, name, calls) for worker in (before, after))
                found.setdefault(name, []).extend(pairs(*timers, repeats))
    return found


def _timer(worker: Worker, kernel: str, calls: int) -> Timer:
    return lambda: worker.seconds(kernel, calls) / calls


def wanted(name: str, only: list[str] | None) -> bool:
    return not only or any(fnmatch(name, pattern) for pattern in only)


def import_timer(checkout: Path, statement: str) -> Timer:
    """Processor time of an import in a process of its own."""
    code = f"import time; began = time.process_time(); {statement}; print(time.process_time() - began)"
    command = [sys.executable, "-c", code]

    def once() -> float:
        return float(subprocess.check_output(command, env=environment(checkout), cwd=HERE, text=True))

    return once


def speed(options: argparse.Namespace) -> bool:
    """Whether no kernel of the second checkout is slower than that of the first by more than the bar."""
    say(f"{'after over before':26}{'median':>8}{'least':>8}{'of least':>8}{'ms a call':>12}{'pairs':>9}")
    fine = [report(name, found, BAR) for name, found in time_kernels(options).items()]
    if wanted("import", options.only):
        for side, bar in (("before", None), ("after", IMPORT_BAR)):
            ours, theirs = (import_timer(getattr(options, side), statement) for statement in IMPORTS)
            # The first import compiles.
            ours(), theirs()
            found = list(pairs(theirs, ours, max(2, options.repeats // 4)))
            fine.append(report(f"import {side}, over others", found, bar))
    return all(fine)


def main(arguments: list[str] | None = None) -> None:
    """Compare what the command line asks for; ends with status 1 where a bar is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(required=True)
    for function in (answers, speed):
        verb = verbs.add_parser(function.__name__, help=(function.__doc__ or "").partition("\n")[0])
        verb.set_defaults(run=function)
        verb.add_argument("before", type=Path, help="checkout with the package as it was")
        verb.add_argument("after", type=Path, help="checkout with the package as it is")
        verb.add_argument("--only", nargs="+", metavar="NAME", help="names or patterns of what to compare")
    verb.add_argument("--repeats", type=int, default=40, help="pairs of timings a kernel, a quarter if slow")
    verb.add_argument("--rows", type=int, help="of the kernels' data, to try it out")
    verb = verbs.choices["answers"]
    verb.add_argument("--data", type=Path, help="folder of the Beijing stations' tables")
    verb.add_argument("--cache", type=Path, help="folder that keeps the results of commits")
    verb.add_argument("--tiny", action="store_true", help="some cases at a small size, for the test suite")
    verb = verbs.add_parser("serve")
    verb.set_defaults(run=None)
    verb.add_argument("kernels", type=Path)
    verb.add_argument("--rows", type=int)
    options = parser.parse_args(arguments)
    if options.run is None:
        serve(options.kernels, options.rows)
    elif not options.run(options):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
