"""Make the pictures of the documentation anew: ``python docs/pictures.py [FOLDER]``.

The Python blocks of a page are run one after the other, as its tests do. What a block has drawn is saved as
the image that follows it on the page. With the folder of the real data, the picture of README and of the
front page is made too: a fit to ``FOLDER/climate``.
"""

from __future__ import annotations

import re
import sys
import tempfile
from contextlib import chdir
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import xarray as xr

import daskmoe

DOCS = Path(__file__).parent
PAGES = [DOCS / "user_guide" / "look.md", DOCS / "user_guide" / "number_of_experts.md"]
STEP = re.compile(
    r"^```python\n(?P<code>.*?)^```|^```\{image\} (?P<image>\S+\.png)$", re.M | re.S
)
DPI = 90


def draw(page: Path) -> None:
    """Run a page's blocks and save its images."""
    namespace: dict[str, object] = {}
    for step in STEP.finditer(page.read_text(encoding="utf-8")):
        if step["image"] is None:
            plt.close("all")
            with tempfile.TemporaryDirectory() as folder, chdir(folder):
                exec(compile(step["code"], str(page), "exec"), namespace)
            continue
        target = (page.parent / step["image"]).resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        plt.gcf().set_size_inches(6.4, 4.4)
        plt.savefig(target, dpi=DPI)


def draw_climate(folder: Path) -> None:
    """The experts of January's air temperature along humidity, and where each of them rules."""
    data = xr.open_dataset(folder / "climate" / "wfde5_british_isles_201701.nc").load()
    data["Qair"] = (1e3 * data["Qair"]).assign_attrs(
        units="g kg-1", long_name="Specific humidity"
    )
    features = ["Qair", "Wind", "SWdown", "LWdown"]
    options = {
        "features": features,
        "n_experts": 3,
        "partitions": 16,
        "random_state": 0,
    }
    model = daskmoe.fit(data, "Tair", refine="converged", **options)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    model.plot.experts(data, "Qair", ax=left)
    model.plot.ruling_expert(data, ax=right)
    figure.savefig(DOCS / "_static" / "climate.png", dpi=DPI)


if __name__ == "__main__":
    for each in PAGES:
        draw(each)
    if sys.argv[1:]:
        draw_climate(Path(sys.argv[1]))
