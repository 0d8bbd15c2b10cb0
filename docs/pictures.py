"""Make the pictures of the user guide anew: ``python docs/pictures.py``.

The Python blocks of a page are run one after the other, as its tests do. What a block has drawn is saved as
the image that follows it on the page.
"""

from __future__ import annotations

import re
import tempfile
from contextlib import chdir
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PAGES = [Path(__file__).parent / "user_guide" / "look.md"]
STEP = re.compile(r"^```python\n(?P<code>.*?)^```|^```\{image\} (?P<image>\S+\.png)$", re.M | re.S)
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


if __name__ == "__main__":
    for each in PAGES:
        draw(each)
