"""The options of `daskmoe fit`, made from those of the library."""

from __future__ import annotations

import re
from collections.abc import Callable, Container
from dataclasses import MISSING, Field, fields
from typing import Any, TypeVar

import click

from daskmoe.errors import InvalidOptionError
from daskmoe.options import AtLeast, FitOptions, Flag, OneOf, Option

Command = TypeVar("Command", bound=Callable[..., Any])


def fit_options(
    command: Command, options: type[FitOptions] = FitOptions, without: Container[str] = ()
) -> Command:
    """Add a flag for every option that has one, but for some."""
    for each in reversed(fields(options)):
        known: Option = each.metadata["option"]
        if known.flag is not None and each.name not in without:
            command = _flag(each, known, known.flag)(command)
    return command


def with_flags(text: str) -> str:
    """A message of the library with its options as flags: ``on_error='skip'`` as ``--on-error skip``."""
    flags = {name: _name_of(name, known.flag) for name, known in FitOptions.known().items() if known.flag}
    text = text.replace("overwrite=True", "--overwrite")
    # Levels by variable, as their flag takes them: ``categories={'c': [...]}`` as ``--categories c=...``.
    text = re.sub(r"categories=\{'(\w+)': \[(.*?)\]\}", r"--categories \1=\2", text)
    option = rf"(?<![\w-])({'|'.join(flags)})="
    text = re.sub(rf"{option}'([^']*)'", lambda found: f"{flags[found[1]]} {found[2]}", text)
    text = re.sub(rf"{option}([\w.]*\w|\.{{3}})", lambda found: f"{flags[found[1]]} {found[2]}", text)
    text = re.sub(option, lambda found: flags[found[1]], text)
    # A range of numbers of experts, as `daskmoe select` takes it.
    text = re.sub(r"range\((\d+), (\d+)\)", lambda found: f"{found[1]}-{int(found[2]) - 1}", text)
    # Where a message has both spellings.
    return re.sub(r"(--[\w-]+), \1\b", r"\1", text)


def _name_of(name: str, flag: Flag) -> str:
    return f"--{(flag.name or name).replace('_', '-')}"


def _flag(each: Field[Any], known: Option, flag: Flag) -> Callable[[Command], Command]:
    unset = f"  [default: {flag.default}]" if flag.default else ""
    settings: dict[str, Any] = {"help": known.help + unset, "metavar": flag.metavar or None}
    if each.default is MISSING:
        settings["required"] = True
    else:
        settings["default"] = each.default
    if isinstance(known.check, AtLeast):
        settings["type"] = click.IntRange(min=known.check.minimum)
    elif isinstance(known.check, OneOf):
        settings["type"] = click.Choice(known.check.choices)
    elif flag.parse is int:
        settings["type"] = int
    else:
        # Click would take the type of the default, which is that of the parsed value.
        settings |= {"type": str, "callback": _parsed(known, flag)}
    # By the library's name too, where the flag has another.
    names = dict.fromkeys([_name_of(each.name, flag), f"--{each.name.replace('_', '-')}"])
    return click.option(*names, each.name, **settings)


def _parsed(known: Option, flag: Flag) -> Callable[..., Any]:
    """The value of a flag; one that the option cannot have is an error that names the flag."""

    def parse(context: click.Context, parameter: click.Parameter, value: str | None) -> Any:
        try:
            parsed = None if value is None else flag.parse(value)
        except ValueError:
            # The check says what was expected.
            parsed = value
        try:
            known.check(str(parameter.name), parsed)
        except InvalidOptionError as error:
            raise click.BadParameter(str(error), context, parameter) from error
        return parsed

    return parse
