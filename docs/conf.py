"""Sphinx configuration: MyST pages, some of them notebooks that the build runs, numpydoc docstrings."""

from __future__ import annotations

import tomllib
from pathlib import Path

_PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())[
    "project"
]

project = "daskmoe"
author = "daskmoe developers"
copyright = f"2026, {author}"
version = release = _PROJECT["version"]

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "numpydoc",
    "sphinxcontrib.bibtex",
    "myst_nb",
]
bibtex_bibfiles = ["references.bib"]
exclude_patterns = ["_build"]
source_suffix = {".md": "myst-nb"}
# A cell that fails fails the build.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_in_temp = True
nb_execution_timeout = 120
# What a cell says on stderr, as a warning, is no part of the page.
nb_output_stderr = "remove"
nb_merge_streams = True
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
autodoc_typehints = "none"
# numpydoc loads autosummary, which the pages do not use.
autosummary_generate = False
numpydoc_show_class_members = False
default_role = "literal"

_TUTORIALS = [
    f"tutorials/{page.stem}" for page in Path(__file__).parent.glob("tutorials/*.md")
]
_WIDE = ["index", "gallery", "comparison", *_TUTORIALS]

html_theme = "pydata_sphinx_theme"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_title = "daskmoe"
html_theme_options = {
    "show_toc_level": 2,
    "navigation_with_keys": False,
    # Notebooks and pictures have the width of the page.
    "secondary_sidebar_items": {"**": ["page-toc"]} | {page: [] for page in _WIDE},
}
