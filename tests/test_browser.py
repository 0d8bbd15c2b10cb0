"""In a real browser: an executed notebook, the dashboard of a running fit, and the documentation.

Skipped with its reason where Chromium, or what runs notebooks, is not installed. Screenshots are kept in the
folder that the environment variable SCREENSHOTS names.
"""

from __future__ import annotations

import asyncio
import base64
import html
import json
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from distributed import Client
from tornado.httpclient import AsyncHTTPClient
from tornado.websocket import websocket_connect

import daskmoe

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CELLS = (
    "import daskmoe\n"
    "data, _ = daskmoe.simulate(1000, n_features=2, n_experts=2, chunks=250, random_state=0)\n"
    "model = daskmoe.fit(data, 'y', n_experts=2, refine=2, random_state=0)",
    "model",
    "model.plot.experts(data, 'x0');",
    "daskmoe.preview(data, 'y', n_experts=2)",
    "daskmoe.MoERegressor(n_experts=2)",
    "daskmoe.fit(data, 'y', n_experts=0)",
)
# What the page says of itself once it is drawn.
PROBE = """<script>addEventListener("load", () => {
  const seen = {
    bars: [...document.querySelectorAll("progress")].filter(e => e.offsetWidth > 50).length,
    full: [...document.querySelectorAll("progress")].filter(e => e.position === 1).length,
    card: document.querySelector(".daskmoe-card")?.offsetHeight ?? 0,
    cards: document.querySelectorAll(".daskmoe-card").length,
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
    # Of the model, of the preview and of an estimator that is not fitted.
    assert seen["cards"] == 3
    assert seen["picture"] > 200
    assert seen["wide"] <= 1280
    assert "n_experts: expected an integer of at least 1, got 0." in html.unescape(drawn)
    subprocess.run([*common, f"--screenshot={shot}", page.as_uri()], **look)
    assert shot.stat().st_size > 20_000


# Of the chart of progress: tasks by the first part of their names, with how many are done.
DONE = """JSON.stringify(Object.fromEntries((window.Bokeh?.documents ?? [])
  .flatMap(d => [...d._all_models.values()]).filter(m => m.type === "ColumnDataSource")
  .map(m => m.data instanceof Map ? Object.fromEntries(m.data) : m.data)
  .filter(data => data.name && data.done)
  .flatMap(data => [...data.name].map((name, i) => [name, String([...data.done][i])]))))"""
# Blocks of code and output with something beyond their right edge.
WIDE = """[...document.querySelectorAll("pre")]
  .filter(block => block.offsetParent && block.scrollWidth > block.clientWidth)
  .map(block => block.innerText.slice(0, 60))"""
PREFIXES = ("moe-pilot", "moe-local-fit")


class Tab:
    """A page in a browser, asked by the DevTools protocol."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._number = socket, 0

    async def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a command; events that come before it are passed over."""
        self._number += 1
        await self._socket.write_message(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            answer = json.loads(await self._socket.read_message())
            if answer.get("id") == self._number:
                return dict(answer["result"])

    async def started(self) -> set[str]:
        """Tasks of which the chart of progress has some done."""
        found = await self.ask("Runtime.evaluate", expression=DONE, returnByValue=True)
        done: dict[str, str] = json.loads(found["result"].get("value", "{}"))
        return {name for name, text in done.items() if not text.startswith("0 ")}

    async def is_drawn(self) -> bool:
        """Whether the charts are there."""
        found = await self.ask("Runtime.evaluate", expression="!!window.Bokeh?.documents?.length")
        return bool(found["result"].get("value"))


@asynccontextmanager
async def open_tab(profile: Path, url: str) -> AsyncIterator[Tab]:
    """The page of a browser that was just started."""
    port_file = profile / "DevToolsActivePort"
    while not port_file.exists() or not port_file.read_text():
        await asyncio.sleep(0.1)
    port = port_file.read_text().split()[0]
    found: list[dict[str, Any]] = []
    while not found:
        await asyncio.sleep(0.1)
        pages = json.loads((await AsyncHTTPClient().fetch(f"http://127.0.0.1:{port}/json")).body)
        found = [page for page in pages if page["type"] == "page" and page["url"].startswith(url)]
    socket = await websocket_connect(found[0]["webSocketDebuggerUrl"], max_message_size=2**28)
    try:
        yield Tab(socket)
    finally:
        socket.close()
        # The answer to the farewell.
        while await socket.read_message() is not None:
            pass


async def watch_fit(tab: Tab, data: Any, shots: Path) -> set[str]:
    """Which tasks were seen done while a fit still ran."""

    async def take(name: str) -> None:
        image = await tab.ask("Page.captureScreenshot", format="png")
        (shots / f"dashboard-{name}.png").write_bytes(base64.b64decode(image["data"]))

    while not await tab.is_drawn():
        await asyncio.sleep(0.1)
    known: dict[str, Any] = {"n_experts": 3, "n_init": 4, "random_state": 0, "progress": False}
    running = asyncio.create_task(asyncio.to_thread(daskmoe.fit, data, "y", **known))
    seen: set[str] = set()
    while not running.done() and len(seen) < len(PREFIXES):
        await asyncio.sleep(0.1)
        started = await tab.started()
        if running.done():
            break
        for prefix in (each for each in PREFIXES if each in started - seen):
            seen.add(prefix)
            await take(prefix)
    await running
    await asyncio.sleep(1.0)
    await take("done")
    return seen


async def watch_dashboard(profile: Path, url: str, data: Any, shots: Path) -> set[str]:
    """The same, of the dashboard at an address."""
    async with open_tab(profile, url) as tab:
        return await watch_fit(tab, data, shots)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_dashboard_of_a_running_fit_shows_its_tasks(browser: str, client: Client, tmp_path: Path) -> None:
    pytest.importorskip("bokeh")
    data, _ = daskmoe.simulate(
        120_000, n_features=4, n_experts=3, design="overlap", chunks=5_000, random_state=0
    )
    shots = Path(os.environ.get("SCREENSHOTS") or tmp_path)
    shots.mkdir(parents=True, exist_ok=True)
    profile = tmp_path / "profile"
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1280,900"]
    command += ["--remote-debugging-port=0", f"--user-data-dir={profile}", client.dashboard_link]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            seen = asyncio.run(watch_dashboard(profile, client.dashboard_link, data, shots))
        finally:
            process.terminate()
    assert seen == set(PREFIXES)
    assert all((shots / f"dashboard-{name}.png").stat().st_size > 10_000 for name in (*PREFIXES, "done"))


@pytest.mark.slow
def test_no_code_or_output_of_the_documentation_is_cut_off(browser: str, tmp_path: Path) -> None:
    """Of pages that CI has built before, in the folder that the environment variable DOCS_HTML names."""
    built = os.environ.get("DOCS_HTML")
    if built is None:
        pytest.skip("no built documentation: DOCS_HTML names the folder that sphinx-build wrote")
    pages = sorted(page for page in Path(built).rglob("*.html") if "_static" not in page.parts)
    assert pages
    profile = tmp_path / "profile"
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1280,900"]
    command += ["--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            cut = asyncio.run(cut_off(profile, pages))
        finally:
            process.terminate()
    assert cut == {}


async def cut_off(profile: Path, pages: list[Path]) -> dict[str, list[str]]:
    """Pages -> the beginnings of their blocks that are wider than what shows of them."""
    found = {}
    async with open_tab(profile, "about:blank") as tab:
        for page in pages:
            await tab.ask("Page.navigate", url=page.as_uri())
            while True:
                await asyncio.sleep(0.05)
                state = await tab.ask("Runtime.evaluate", expression="location.href + document.readyState")
                if state["result"].get("value") in (
                    f"{page.as_uri()}interactive",
                    f"{page.as_uri()}complete",
                ):
                    break
            wide = await tab.ask("Runtime.evaluate", expression=WIDE, returnByValue=True)
            if wide["result"]["value"]:
                found[page.name] = wide["result"]["value"]
    return found
