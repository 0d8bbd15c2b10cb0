"""An executed notebook in a real browser: the bars, the card and a picture are there, on light and on dark.

Skipped with its reason where Chromium, or what runs notebooks, is not installed. Screenshots are kept in the
folder that the environment variable SCREENSHOTS names.
"""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CELLS = (
    "import daskmoe\n"
    "data, _ = daskmoe.simulate(1000, n_features=2, n_experts=2, chunks=250, random_state=0)\n"
    "model = daskmoe.fit(data, 'y', n_experts=2, refine=2, random_state=0)",
    "model",
    "model.plot.experts(data, 'x0');",
    "daskmoe.fit(data, 'y', n_experts=0)",
)
# What the page says of itself once it is drawn.
PROBE = """<script>addEventListener("load", () => {
  const seen = {
    bars: [...document.querySelectorAll("progress")].filter(e => e.offsetWidth > 50).length,
    full: [...document.querySelectorAll("progress")].filter(e => e.position === 1).length,
    card: document.querySelector(".daskmoe-card")?.offsetHeight ?? 0,
    picture: document.querySelector("img")?.naturalWidth ?? 0,
    wide: document.documentElement.scrollWidth,
  };
  document.title = Object.entries(seen).map(pair => pair.join("=")).join(" ");
})</script>"""


@pytest.fixture(scope="module")
def browser() -> str:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium: install it from the system's packages")
    return found


@pytest.fixture(scope="module")
def outputs() -> list[list[dict[str, Any]]]:
    """Of every cell of a notebook that was run."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    cells = [nbformat.v4.new_code_cell(cell) for cell in CELLS]
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3", allow_errors=True).execute()
    return [cell.outputs for cell in notebook.cells]


@pytest.mark.slow
def test_bars_are_one_output_and_errors_are_short(outputs: list[list[dict[str, Any]]]) -> None:
    (bars,), *_, (error,) = outputs
    assert bars["data"]["text/plain"].startswith("Samples read: 4 of 4")
    assert bars["data"]["text/html"].count("<progress") >= 5
    assert len("\n".join(error["traceback"]).splitlines()) < 15


def page_of(outputs: list[list[dict[str, Any]]], dark: bool) -> str:
    shown = []
    for output in (each for cell in outputs for each in cell):
        data = output.get("data", {})
        if "image/png" in data:
            shown.append(f"<img src='data:image/png;base64,{data['image/png']}'>")
        elif "text/html" in data:
            shown.append(data["text/html"])
        elif output["output_type"] == "error":
            text = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(output["traceback"]))
            shown.append(f"<pre>{html.escape(text)}</pre>")
    colours = "background:#111;color:#ddd;color-scheme:dark" if dark else "background:white"
    return f"<html><body style='{colours}'>{''.join(shown)}{PROBE}</body></html>"


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_notebook_shows_bars_card_and_picture(
    browser: str, outputs: list[list[dict[str, Any]]], dark: bool, tmp_path: Path
) -> None:
    page = tmp_path / "notebook.html"
    page.write_text(page_of(outputs, dark), encoding="utf-8")
    shots = Path(os.environ.get("SCREENSHOTS") or tmp_path)
    shots.mkdir(parents=True, exist_ok=True)
    shot = shots / f"notebook-{'dark' if dark else 'light'}.png"
    common = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1280,1400"]
    common += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=3000"]
    look = {"check": True, "capture_output": True, "text": True, "timeout": 100}
    drawn = subprocess.run([*common, "--dump-dom", page.as_uri()], **look).stdout
    title = re.search(r"<title>(.*?)</title>", drawn)
    assert title, drawn[:500]
    seen = {name: float(value) for name, value in (pair.split("=") for pair in title[1].split())}
    # Samples, shared start, partitions, scores, rounds, all done; nothing beyond the window.
    assert seen["bars"] == seen["full"] >= 5
    assert seen["card"] > 100
    assert seen["picture"] > 200
    assert seen["wide"] <= 1280
    assert "n_experts: expected an integer of at least 1, got 0." in html.unescape(drawn)
    subprocess.run([*common, f"--screenshot={shot}", page.as_uri()], **look)
    assert shot.stat().st_size > 20_000
