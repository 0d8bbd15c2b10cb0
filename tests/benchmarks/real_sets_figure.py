"""The figure of docs/design/real_sets.md, drawn from the table on that page.

PYTHONPATH=tests python -m benchmarks.real_sets_figure docs/design/real_sets.md docs/_static/real_sets.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.real_sets import REFINED
from daskmoe.plotting.canvas import PALETTE

COLUMN = "held-out nats above LS"
WAYS = ("local", "auto", *REFINED)


def medians(page: str) -> dict[str, dict[str, float]]:
    """By way and case, the first number of the column."""
    lines = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    heads, *rows = lines
    cells = [dict(zip(heads, row, strict=False)) for row in rows]
    return {
        way: {
            f"{cell['set']}, K = {cell['K']}": float(cell[COLUMN].split(",")[0])
            for cell in cells
            if cell["way"] == way
        }
        for way in WAYS
    }


def draw(page: str, path: Path) -> None:
    """Save the figure."""
    from matplotlib.figure import Figure

    found = medians(page)
    figure = Figure(figsize=(7, 3), layout="constrained", dpi=110)
    axes = figure.subplots()
    for turn, (way, cases) in enumerate(found.items()):
        at = [number + 0.15 * (turn - 1.5) for number in range(len(cases))]
        axes.plot(at, list(cases.values()), "osD^"[turn], color=PALETTE[turn], label=way)
    axes.set_xticks(range(len(found["auto"])), list(found["auto"]))
    axes.set_ylim(0, 1.25 * max(max(cases.values()) for cases in found.values()))
    axes.set_ylabel("held-out nats a row\nabove least squares")
    axes.legend(ncols=len(WAYS), frameon=False)
    figure.savefig(path)


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("figure", type=Path)
    options = parser.parse_args()
    draw(options.page.read_text(encoding="utf-8"), options.figure)


if __name__ == "__main__":
    main()
