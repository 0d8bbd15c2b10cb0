"""What a study of each size looks at, and about how long that takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from fitting import ESTIMATORS, OF_LOCAL_FITS
from scenarios import FAMILIES, SCENARIOS, Cell

IN_COMMON = tuple(name for name in ESTIMATORS if name not in OF_LOCAL_FITS)
# Seconds of one core: a search from scratch, of any rows; each row of it; a partition from the shared start.
SEARCH_SECONDS, ROW_SECONDS, STEP_SECONDS = 0.4, 2e-5, 0.02


class Size(NamedTuple):
    """The grids of a study."""

    rows: tuple[int, ...]
    partitions: tuple[int, ...]
    # Where the other of the two varies.
    at_rows: int
    at_partitions: int
    replicates: int
    # Scenarios beside the paper's, of fewer rows and replicates.
    beside: tuple[str, ...] = ()
    beside_rows: int = 0
    beside_replicates: int = 0
    beside_partitions: int = 0
    # (N, M) of cells without independent local fits.
    large: tuple[tuple[int, int], ...] = ()
    # Numbers of local estimates that are drawn and not fitted.
    drawn: tuple[int, ...] = ()
    # Of MMASH, every so many rows.
    thinning: int = 1
    # In how many replicates there are estimators of independent local fits.
    searched_replicates: int = 1_000_000
    # Whether families other than gaussian go without independent local fits, whose reduction takes long.
    families_in_common: bool = False
    estimators: tuple[str, ...] = ESTIMATORS
    whole_grid: bool = False
    # Options of all fits.
    options: dict[str, Any] = {}  # noqa: RUF012


BESIDE = SCENARIOS[1:]
SIZES = {
    "tiny": Size((2_000,), (4,), 2_000, 4, 1, estimators=("global", "auto"), options={"effort": 0.2}),
    "short": Size(
        (10_000, 20_000, 40_000),
        (4, 16, 32),
        at_rows=40_000,
        at_partitions=16,
        replicates=3,
        searched_replicates=1,
        beside=BESIDE,
        beside_rows=20_000,
        beside_partitions=16,
        beside_replicates=1,
        large=((1_000_000, 128),),
        drawn=(200,),
        thinning=20,
        families_in_common=True,
        options={"effort": 0.2, "n_init": 4},
    ),
    # Local fits of 128 partitions need rows: of 20,000 they would have fewer than parameters.
    "small": Size(
        (100_000, 200_000, 400_000),
        (4, 16, 32, 64, 128),
        at_rows=100_000,
        at_partitions=128,
        replicates=5,
        beside=BESIDE,
        beside_rows=50_000,
        beside_partitions=32,
        beside_replicates=3,
        large=((1_000_000, 128),),
        drawn=(1_000, 10_000),
    ),
    "paper": Size(
        (100_000, 500_000, 1_000_000),
        (4, 16, 32, 64, 128),
        at_rows=1_000_000,
        at_partitions=128,
        replicates=100,
        beside=BESIDE,
        beside_rows=100_000,
        beside_partitions=128,
        beside_replicates=100,
        drawn=(1_000, 10_000),
        whole_grid=True,
    ),
}


def cells_of(size: Size) -> Iterator[tuple[Cell, tuple[str, ...]]]:
    """Every cell of a study with its estimators, replicate by replicate, each once."""
    grid = {(n, m) for n in size.rows for m in size.partitions}
    if not size.whole_grid:
        grid = {(n, m) for n, m in grid if n == size.at_rows or m == size.at_partitions}
    few = tuple(name for name in size.estimators if name in IN_COMMON)
    for replicate in range(size.replicates):
        names = size.estimators if replicate < size.searched_replicates else few
        for n, m in sorted(grid):
            yield Cell("exchangeable", n, m, replicate), names
        if replicate < size.beside_replicates:
            for scenario in size.beside:
                without = size.families_in_common and scenario in FAMILIES
                cell = Cell(scenario, size.beside_rows, size.beside_partitions, replicate)
                yield cell, few if without else names
    for n, m in size.large:
        yield Cell("exchangeable", n, m, 0), few


def expected_seconds(cell: Cell, names: tuple[str, ...]) -> float:
    """About how long a cell takes on one core."""
    seconds = 2 * SEARCH_SECONDS + 3 * ROW_SECONDS * cell.rows + STEP_SECONDS * cell.partitions
    if set(names) & set(OF_LOCAL_FITS):
        seconds += SEARCH_SECONDS * cell.partitions + ROW_SECONDS * cell.rows
    return seconds
