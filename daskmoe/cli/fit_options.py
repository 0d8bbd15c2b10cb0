"""The options of `daskmoe fit`, made from those of the library."""

from __future__ import annotations

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
    return click.option(f"--{(flag.name or each.name).replace('_', '-')}", each.name, **settings)


def _parsed(known: Option, flag: Flag) -> Callable[..., Any]:
    """The value of a flag; one that the option cannot have is an error that names the flag."""

    def parse(context: click.Context, parameter: click.Parameter, value: str | None) -> Any:
        parsed = None if value is None else flag.parse(value)
        try:
            known.check(str(parameter.name), parsed)
        except InvalidOptionError as error:
            raise click.BadParameter(str(error), context, parameter) from error
        return parsed

    return parse
