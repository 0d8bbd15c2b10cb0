"""What a job leaves behind for programs: its log as JSON, a summary, Dask's report."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from distributed import performance_report

import daskmoe
from daskmoe import errors
from daskmoe.api.reporting import left_out

_WARNINGS = "|".join(name for name in vars(errors) if name.endswith("Warning"))
_OWN_WARNING = re.compile(rf"[^\n]+?:\d+: (?:{_WARNINGS}): (.*?)(?:\n  [^\n]*)?\n?", re.S)


class JsonLines(logging.Formatter):
    """Each record as a line of JSON: time, level, logger and message."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        message = self._inner.format(record)
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        content = {"time": at, "level": record.levelname, "logger": record.name, "message": message}
        return json.dumps(content)


def without_place(text: str) -> str:
    """A warning of the library without the line of code that Python says it was told at; any other text."""
    return found[1] if (found := _OWN_WARNING.fullmatch(text)) else text


def reported(path: str | None) -> AbstractContextManager[Any]:
    """Write Dask's performance report of what the block computes to a path, if there is one."""
    return nullcontext() if path is None else performance_report(filename=path)


def require_report(path: str | None) -> None:
    """Raise `click.UsageError` for a report that could not be made."""
    if path is not None and importlib.util.find_spec("bokeh") is None:
        raise click.UsageError("--report needs bokeh: pip install 'daskmoe[dashboard]'.")


@contextmanager
def summarized(path: str | None, job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Write what is known of a job when the block ends, however it does; the block adds to it."""
    began = datetime.now(UTC)
    known = {"daskmoe": daskmoe.__version__, **job, "began": began.isoformat(timespec="seconds")}
    known["ended"] = "failed"
    try:
        yield known
        known["ended"] = "done"
    except BaseException as error:
        known["error"] = f"{type(error).__name__}: {error}"
        raise
    finally:
        known["seconds"] = round((datetime.now(UTC) - began).total_seconds(), 3)
        if path is not None:
            _write(Path(path), known)


def facts_of(model: daskmoe.MixtureOfExperts) -> dict[str, Any]:
    """What a summary says of a model."""
    found = model.diagnostics
    assert found is not None
    return {
        "n_experts": model.n_experts,
        "partitions": int(found.sizes["partition"]),
        "left_out": left_out(model),
        "rows": int(found["rows"].sum()),
        "dropped_rows": int(found["dropped_rows"].sum()),
        "aggregation": str(found.attrs["aggregation"]),
        "options": dict(model.options),
    }


def _write(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.absolute().parent, prefix=f".{path.name}-")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=2, default=str)
        file.write("\n")
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)
