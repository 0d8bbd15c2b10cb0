"""Jobs in a file: ``daskmoe fit job.yaml`` is the command with the options that the file names."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import yaml

_ENDINGS = (".yaml", ".yml")


def with_job_file(arguments: Sequence[str], commands: click.Group) -> list[str]:
    """Arguments of the command line with a job file, if one is named, spelled out.

    The file is a mapping from names of options, with or without dashes, and of what the command works on, as
    ``store``, to values. What follows it on the command line goes before.

    Raises
    ------
    click.UsageError
        If there is no such file, it is no such mapping, or a key is no option of the command.
    """
    if len(arguments) < 2 or not arguments[1].endswith(_ENDINGS):
        return list(arguments)
    command = commands.commands.get(arguments[0])
    path = Path(arguments[1])
    if command is None:
        return list(arguments)
    if not path.is_file():
        raise click.UsageError(f"{path}: expected a file of options and their values; there is none")
    content = _read(path)
    named = {_key(name): param for param in command.params for name in (param.name or "", *param.opts)}
    given: list[str] = []
    positional: dict[str, list[str]] = {}
    for key, value in content.items():
        param = named.get(_key(str(key)))
        if param is None:
            near = difflib.get_close_matches(_key(str(key)), named, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"{path}: {key!r} is no option of {arguments[0]}{hint}")
        if isinstance(param, click.Argument):
            positional[str(param.name)] = [str(v) for v in (value if isinstance(value, list) else [value])]
        elif value is not None:
            given += _spelled(param, value)
    words = [
        word
        for param in command.params
        if isinstance(param, click.Argument)
        for word in positional.get(str(param.name), [])
    ]
    return [arguments[0], *given, *arguments[2:], *words]


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise click.UsageError(f"{path}: expected YAML, got {error}") from error
    if not isinstance(content, dict):
        raise click.UsageError(
            f"{path}: expected names of options and values, as 'n_experts: 4', got {type(content).__name__}"
        )
    return content


def _key(name: str) -> str:
    return name.lstrip("-").replace("-", "_")


def _spelled(param: click.Parameter, value: Any) -> list[str]:
    """An option as it is on the command line."""
    flag = next((name for name in param.opts if name.startswith("--")), param.opts[0])
    if isinstance(value, bool) and isinstance(param, click.Option) and param.is_flag:
        return [flag] if value else []
    return [flag, _text(value)]


def _text(value: Any) -> str:
    """Lists with commas; levels by variable as ``A=X|Y,B``."""
    if isinstance(value, dict):
        parts = (
            str(name) if levels is None else f"{name}={'|'.join(map(str, levels))}"
            for name, levels in value.items()
        )
        return ",".join(parts)
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
