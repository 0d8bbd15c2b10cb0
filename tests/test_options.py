"""Every option of `fit` once: signatures, docstrings, tasks, records and flags follow its field."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Callable
from typing import Any

import click
import numpy as np
import pytest
import xarray as xr

import daskmoe
from daskmoe import InvalidOptionError
from daskmoe.api.fit import FitKeywords
from daskmoe.cli.commands import commands
from daskmoe.cli.fit_options import fit_options
from daskmoe.engine import plan_request
from daskmoe.engine.request import task_plan
from daskmoe.numerics.combine import registry
from daskmoe.options import AGGREGATIONS, METHODS, AtLeast, FitOptions, OneOf, option

FIELDS = {each.name: each for each in dataclasses.fields(FitOptions)}
KNOWN = FitOptions.known()
# Another value for every option, and options that it needs.
OTHERS: dict[str, Any] = {
    "features": ["b"],
    "gate_features": [],
    "offset": "b",
    "categories": {"a": [0, 1]},
    "n_experts": 3,
    "family": "gaussian",
    "atoms": [0.0],
    "output_dim": "row",
    "partitions": 2,
    "aggregation": "greedy",
    "support": "features",
    "support_size": 50,
    "n_local_experts": 3,
    "refine": "converged",
    "prior_strength": 0.5,
    "min_scale": 0.1,
    "random_state": 5,
    "checkpoint": "kept",
    "on_error": "skip",
    "min_success": 0.5,
    "missing_chunks": "raise",
    "sample_weight": "w",
    "weight_kind": "importance",
    "progress": False,
    "n_init": 3,
    "start_rows": 100,
    "effort": 0.5,
}


@pytest.fixture
def data() -> xr.Dataset:
    rng = np.random.default_rng(0)
    names = ("a", "b", "y")
    rows = xr.Dataset({name: ("row", rng.normal(size=200)) for name in names})
    return rows.assign(w=("row", np.ones(200))).chunk(row=50)


def parameters_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters by keyword alone: the options."""
    found = inspect.signature(function).parameters.items()
    return {name: known for name, known in found if known.kind is inspect.Parameter.KEYWORD_ONLY}


def documented(function: Callable[..., Any]) -> list[str]:
    """Names in the section Parameters of a docstring, in order."""
    section = inspect.cleandoc(str(function.__doc__)).split("\nParameters\n")[1].split("\n\nReturns\n")[0]
    lines = re.findall(r"^(\w+(?:, \w+)*) : ", section, flags=re.M)
    return [name for line in lines for name in line.split(", ")]


# In step.


def test_the_signature_of_fit_is_the_options() -> None:
    found = parameters_of(daskmoe.fit)
    del found["compute"]
    assert list(found) == list(FIELDS)
    for name, parameter in found.items():
        default = FIELDS[name].default
        assert parameter.default == (inspect.Parameter.empty if default is dataclasses.MISSING else default)


def test_the_signature_of_fit_local_is_the_options_of_one_partition() -> None:
    found = parameters_of(daskmoe.fit_local)
    # All rows at once are not divided, sampled for a support or kept.
    divided = {"partitions", "support_size", "checkpoint", "progress"}
    assert list(found) == [name for name in FIELDS if not KNOWN[name].joins and name not in divided]
    assert all(found[name] == parameters_of(daskmoe.fit)[name] for name in found)


def test_the_options_for_type_checkers_are_the_options() -> None:
    hints, signature = FitKeywords.__annotations__, parameters_of(daskmoe.fit)
    assert list(hints) == [name for name in FIELDS if name != "n_experts"]
    assert {name: hint.__forward_arg__ for name, hint in hints.items()} == {
        name: signature[name].annotation for name in hints
    }


def test_the_docstring_of_fit_tells_of_every_option_and_word() -> None:
    assert documented(daskmoe.fit) == list(inspect.signature(daskmoe.fit).parameters)
    for name, known in KNOWN.items():
        if isinstance(known.check, OneOf):
            for word in known.check.choices:
                assert f'"{word}"' in str(daskmoe.fit.__doc__), f"{name}: {word}"


def test_the_command_line_has_every_option_with_its_default_and_help() -> None:
    flags = {each.name: each for each in commands.commands["fit"].params if isinstance(each, click.Option)}
    expected = [name for name, known in KNOWN.items() if known.flag is not None]
    assert [name for name in flags if name in FIELDS] == expected == list(FIELDS)
    for name, flag in flags.items():
        if name in FIELDS:
            assert str(flag.help).startswith(KNOWN[name].help)
            default = FIELDS[name].default
            assert flag.required == (default is dataclasses.MISSING)
            assert flag.required or flag.default == default
    assert flags["random_state"].opts == ["--seed", "--random-state"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--features", "a,b"], {"features": ["a", "b"]}),
        (["--features", "", "--gate-features", "c"], {"features": [], "gate_features": ["c"]}),
        (["--gate-features", ""], {"gate_features": []}),
        (["--partitions", "3"], {"partitions": 3}),
        (["--atoms", "0,100"], {"atoms": [0.0, 100.0]}),
        (["--atoms", "auto"], {"atoms": "auto"}),
        (["--output-dim", "level"], {"output_dim": "level"}),
        (["--progress", "no"], {"progress": False}),
        (["--partitions", "site"], {"partitions": "site"}),
        (["--refine", "2"], {"refine": 2}),
        (["--refine", "converged"], {"refine": "converged"}),
        (
            ["--seed", "7", "--n-init", "3", "--start-rows", "50"],
            {"random_state": 7, "n_init": 3, "start_rows": 50},
        ),
        (["--support", "synthetic", "--on-error", "skip"], {"support": "synthetic", "on_error": "skip"}),
        ([], {}),
    ],
)
def test_flags_become_options(arguments: list[str], expected: dict[str, Any]) -> None:
    given: dict[str, Any] = {}
    command = click.command()(fit_options(lambda **options: given.update(options)))
    command.main(["--n-experts", "2", *arguments], standalone_mode=False)
    assert given == {name: each.default for name, each in FIELDS.items()} | {"n_experts": 2} | expected
    FitOptions(**given)


# What follows from a field.


def test_an_option_is_added_in_one_place(data: xr.Dataset) -> None:
    kind: Any = dataclasses.make_dataclass(
        "WithMore",
        [
            ("strength", int, option(1, "How much.", check=AtLeast(1))),
            ("shown", str, option("no", "Whether.", check=OneOf(("no", "yes")), token=False, record=False)),
        ],
        bases=(FitOptions,),
        frozen=True,
        kw_only=True,
    )
    with pytest.raises(InvalidOptionError, match="strength: expected an integer of at least 1, got 0"):
        kind(n_experts=2, strength=0)
    requests = {
        (strength, shown): plan_request(
            data, "y", kind(n_experts=2, random_state=0, strength=strength, shown=shown)
        )
        for strength in (1, 2)
        for shown in ("no", "yes")
    }
    tokens = {chosen: request.kept_token for chosen, request in requests.items()}
    assert tokens[1, "no"] == tokens[1, "yes"] != tokens[2, "no"] == tokens[2, "yes"]
    assert task_plan(requests[2, "yes"]).options.strength == 2  # type: ignore[attr-defined]
    assert requests[2, "yes"].recorded["strength"] == 2
    assert "shown" not in requests[2, "yes"].recorded
    command = click.command()(fit_options(lambda **options: None, kind))
    flags = {flag.opts[0]: flag for flag in command.params if isinstance(flag, click.Option)}
    assert flags["--strength"].help == "How much."
    assert (flags["--shown"].default, list(flags["--shown"].type.choices)) == ("no", ["no", "yes"])  # type: ignore[attr-defined]


def test_tasks_see_what_the_token_tells_apart_and_nothing_else(data: xr.Dataset) -> None:
    """A task could not depend on another option if it wanted to, so no checkpoint can be stale."""
    assert set(OTHERS) == set(FIELDS)
    base = FitOptions(n_experts=2, random_state=0).in_tasks()
    for name, value in OTHERS.items():
        if name == "family":
            continue
        changed = FitOptions(**({"n_experts": 2, "random_state": 0} | {name: value})).in_tasks()
        # The size of local fits follows that of the model.
        assert (changed != base) == (KNOWN[name].token or name == "n_experts"), name
        if not KNOWN[name].token and name != "n_experts":
            assert getattr(changed, name) == FIELDS[name].default


def test_checkpoints_are_shared_between_ways_to_join(data: xr.Dataset) -> None:
    def token(**options: Any) -> str:
        wanted = FitOptions(**({"n_experts": 2, "random_state": 0, "aggregation": "reduction"} | options))
        return plan_request(data, "y", wanted).kept_token

    assert token() == token(aggregation="greedy") == token(refine=3) == token(checkpoint="kept")
    assert token() == token(n_experts=3, n_local_experts=2)
    # Other rows leave the partitions, or another shared start goes in.
    assert len({token(), token(support="synthetic"), token(aggregation="auto"), token(on_error="skip")}) == 4


def test_the_record_is_json_and_tells_what_was_asked(data: xr.Dataset) -> None:
    for support in ("synthetic", data[["a", "b", "w"]]):
        options = FitOptions(n_experts=np.int64(2), random_state=2**80, support=support, refine=np.int64(3))
        recorded = plan_request(data, "y", options).recorded
        assert json.loads(json.dumps(recorded)) == {
            "n_experts": 2,
            "atoms": None,
            "partitions": 4,
            "aggregation": "auto",
            "support": support if isinstance(support, str) else "given",
            "support_size": 2000,
            "n_local_experts": 2,
            "refine": 3,
            "prior_strength": 1.0,
            "min_scale": None,
            "random_state": str(2**80),
            "on_error": "raise",
            "min_success": 1,
            "weight_kind": "frequency",
            "n_init": 12,
            "start_rows": 2000,
            "effort": 1.0,
        }


# The checks.


def test_checked_once_is_checked_for_good() -> None:
    first = FitOptions(n_experts=2, random_state=np.random.default_rng(0), checkpoint="kept")
    assert dataclasses.replace(first) == first
    assert first.n_local_experts == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.n_experts = 3  # type: ignore[misc]


def test_a_seed_is_fresh_unless_a_rerun_must_find_its_checkpoints() -> None:
    assert FitOptions(n_experts=2).seed != FitOptions(n_experts=2).seed
    assert FitOptions(n_experts=2, checkpoint="kept").seed == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_experts": 0}, "n_experts: expected an integer of at least 1, got 0."),
        ({"n_local_experts": True}, "n_local_experts: expected an integer of at least 1, got True."),
        ({"n_init": 0}, "n_init: expected an integer of at least 1, got 0."),
        ({"start_rows": 9}, "start_rows: expected an integer of at least 10, got 9."),
        ({"n_experts": 30, "start_rows": 20}, "start_rows: expected at least the 30 experts, got 20."),
        ({"support_size": 1.5}, "support_size: expected an integer of at least 1, got 1.5."),
        ({"on_error": "ignore"}, "on_error: expected one of ['raise', 'skip'], got 'ignore'."),
        ({"refine": "often"}, "refine: expected a number of rounds or 'converged', got 'often'."),
        ({"refine": None}, "refine: expected an integer of at least 0, got None."),
        (
            {"refine": 1, "aggregation": "weighted"},
            "refine: expected 0 with aggregation='weighted', whose gates are nested.",
        ),
        ({"random_state": -1}, "random_state: expected an integer of at least 0, got -1."),
        ({"checkpoint": __file__}, f"checkpoint: expected a folder, got the file {__file__!r}."),
        (
            {"support": "nothing"},
            "support: expected one of ['labelled', 'features', 'synthetic'], a dataset or the path of a Zarr "
            "store, got 'nothing'.",
        ),
        (
            {"features": xr.DataArray([1.0], name="a")},
            "features: expected names of variables, got an xarray DataArray.",
        ),
    ],
)
def test_what_an_option_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOptionError) as caught:
        FitOptions(**({"n_experts": 2} | options))
    assert str(caught.value) == message


def test_the_words_are_those_of_the_registry() -> None:
    assert set(METHODS) == set(registry.AGGREGATORS)
    assert ("auto", *METHODS) == AGGREGATIONS
