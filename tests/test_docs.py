"""The documentation is run: every Python block of README and docs.

Blocks of one page share a namespace, as a reader would type them one after the other. One that starts worker
processes is a script of its own: ``<!-- a script -->`` above it. Examples of docstrings are run too. Cells of
notebooks (``{code-cell}``) are run by the build of the documentation, which fails where one does.
"""

from __future__ import annotations

import ast
import doctest
import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import daskmoe
from daskmoe import errors
from daskmoe.plotting import Pictures

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(p for p in (ROOT / "docs").rglob("*.md") if "_build" not in p.parts),
]
BLOCK = re.compile(
    r"(?P<script>^<!-- a script -->\n)?^```(?:\{code-block\} )?python\n(?P<code>.*?)^```", re.M | re.S
)
LINK = re.compile(r"!?\[[^\]]*\]\((?!https?:|#)(?P<target>[^)#]+)[^)]*\)")


# The modules of the package as it is installed, which `pytest --doctest-modules` takes for a mismatch.
WITH_EXAMPLES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "daskmoe").rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in BLOCK.finditer(text):
        if block["script"] is not None:
            run_script(block["code"])
            continue
        # Blank lines in front give the line numbers of the page in a traceback.
        lines_before = text.count("\n", 0, block.start("code"))
        exec(compile("\n" * lines_before + block["code"], str(page), "exec"), namespace)


def run_script(code: str) -> None:
    """A script that starts worker processes, beside the rows that it reads."""
    Path("script.py").write_text(code, encoding="utf-8")
    if not Path("rows.zarr").exists():
        data, _ = daskmoe.simulate(600, n_features=2, n_experts=2, chunks=200, random_state=0)
        data.to_zarr("rows.zarr", zarr_format=2)
    subprocess.run([sys.executable, "script.py"], check=True, timeout=120)


NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]\d+)?")


def test_readme_shows_what_its_lines_print(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"^```text\n(.*?)\n```", text, flags=re.M | re.S)
    code = BLOCK.search(text)
    assert code
    namespace: dict[str, Any] = {}
    exec(code["code"], namespace)
    printed = namespace["model"].summary()
    (told,) = shown
    same = printed[: printed.index("\n\ncoefficients of the gating")]
    assert re.sub(" +", " ", NUMBER.sub("#", same)) == re.sub(" +", " ", NUMBER.sub("#", told))
    numbers = [[float(number) for number in NUMBER.findall(part)] for part in (same, told)]
    # The last digits are the machine's.
    assert numbers[0] == pytest.approx(numbers[1], rel=0.02, abs=1e-3)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_of_docstrings_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_between_files_lead_somewhere(page: Path) -> None:
    for link in LINK.finditer(page.read_text(encoding="utf-8")):
        assert (page.parent / link["target"]).exists(), link[0]


def test_every_public_name_is_in_the_reference() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    reference = set(
        re.findall(r"^\.\. auto(?:function|class|module):: (?:daskmoe\.)?(\w+)$", page, flags=re.M)
    )
    # The page takes all of `daskmoe.errors` by itself.
    public = {name for name in daskmoe.__all__ if name != "__version__" and not hasattr(errors, name)}
    assert public <= reference


def test_the_block_pattern_sees_blocks_and_scripts() -> None:
    page = "```python\na = 1\n```\n<!-- a script -->\n```python\nb = 1\n```\n```bash\nls\n```\n"
    assert [(b["code"], b["script"] is not None) for b in BLOCK.finditer(page)] == [
        ("a = 1\n", False),
        ("b = 1\n", True),
    ]


def code_of(page: Path) -> list[str]:
    """The lines of all blocks of code of a page."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^ *```(?:python|\{code-cell\} ipython3)\n(.*?)^ *```", text, flags=re.M | re.S)
    return [line for block in blocks for line in block.splitlines()]


def test_lines_of_code_fit_the_column() -> None:
    pages = [page for page in PAGES if "docs" in page.parts]
    assert [line for page in pages for line in code_of(page) if len(line) > 88] == []


def test_the_gallery_has_every_picture() -> None:
    page = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"^`(?:plot|Selection)\.(\w+)\(", page, flags=re.M))
    public = {name for name in vars(Pictures) if not name.startswith("_")}
    assert shown == public | {"plot"}
    for image in re.findall(r"\{figure\} (\S+)$", page, flags=re.M):
        assert (ROOT / "docs" / image).exists()


def test_how_to_pages_and_tutorials_are_in_their_tables_of_contents() -> None:
    for folder in ("how_to", "tutorials", "explanation", "user_guide"):
        pages = {page.stem for page in (ROOT / "docs" / folder).glob("*.md")} - {"index"}
        index = (ROOT / "docs" / folder / "index.md").read_text(encoding="utf-8")
        assert pages <= set(index.split())


# The reference has the docstrings' examples with their outputs, the bibliography has nothing to show.
WITHOUT_OUTPUT = {"api.md", "references.md"}
SHOWS = re.compile(r"^ *(?:```|:::)\{(?:image|figure)\}", re.M)
CELL = re.compile(r"^```\{code-cell\} ipython3\n(.*?)^```", re.M | re.S)


def has_output(code: str) -> bool:
    """Whether a cell prints, draws, or ends on a value."""
    last = ast.parse(code).body[-1]
    return "print(" in code or ".plot" in code or isinstance(last, ast.Expr)


def test_every_page_shows_a_picture_or_an_output() -> None:
    pages = [page for page in PAGES if "docs" in page.parts and page.name not in WITHOUT_OUTPUT]
    texts = {page_id(page): page.read_text(encoding="utf-8") for page in pages}
    bare = [
        name for name, text in texts.items()
        if not SHOWS.search(text) and not any(map(has_output, CELL.findall(text)))
    ]  # fmt: skip
    assert bare == []


def test_pages_cite_what_the_bibliography_has() -> None:
    bibliography = (ROOT / "docs" / "references.bib").read_text(encoding="utf-8")
    known = set(re.findall(r"^@\w+\{(\w+),", bibliography, flags=re.M))
    texts = [page.read_text(encoding="utf-8") for page in PAGES if "docs" in page.parts]
    cited = {
        key for text in texts for keys in re.findall(r"\{cite:\w\}`([^`]+)`", text) for key in keys.split(",")
    }
    assert cited == known
    assert not [text[:80] for text in texts if "arxiv.org" in text]
