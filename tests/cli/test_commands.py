"""The command line as a user meets it: what it writes, where, and with which exit code."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import dask
import numpy as np
import pytest
import xarray as xr
from distributed import Client, LocalCluster, default_client

import daskmoe
from daskmoe.cli.cluster import ClusterChoice, connect
from daskmoe.cli.commands import commands, run
from daskmoe.cli.demo import Row, format_table, free_folder
from daskmoe.cli.demo_figure import draw_demo_figure
from daskmoe.cli.exit_codes import BAD_INPUT, DONE, FAILED, INTERRUPTED, PARTITIONS_LEFT_OUT
from daskmoe.cli.fit_options import with_flags
from daskmoe.cli.records import without_place
from daskmoe.engine import rounds
from daskmoe.errors import FitWarning


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data, _ = daskmoe.simulate(2_000, n_features=3, n_experts=2, chunks=500, design="overlap", random_state=0)
    path = tmp_path_factory.mktemp("cli") / "rows.zarr"
    data.to_zarr(path, zarr_format=2)
    return path


@pytest.fixture(scope="module")
def model_path(store: Path) -> Path:
    model = daskmoe.fit_local(store, "y", n_experts=2, random_state=0)
    path = store.with_name("model.zarr")
    model.to_zarr(path)
    return path


@pytest.fixture(scope="module")
def gap_store(store: Path) -> Path:
    """The store with no response in its first partition."""
    data = xr.open_zarr(store).load()
    data["y"][:500] = np.nan
    path = store.with_name("gap.zarr")
    data.drop_encoding().chunk(row=500).to_zarr(path, zarr_format=2, write_empty_chunks=True)
    return path


def fit_arguments(store: Path, output: Path, *more: str) -> list[str]:
    return [
        "fit",
        str(store),
        "--target",
        "y",
        "--n-experts",
        "2",
        "--seed",
        "0",
        "--output",
        str(output),
        *more,
    ]


@pytest.mark.cluster
def test_fit_writes_the_model_that_the_library_gives(
    cluster: LocalCluster, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "model.zarr"
    assert run(fit_arguments(store, output, "--scheduler", cluster.scheduler_address)) == DONE
    assert capsys.readouterr().out == f"{output}\n"
    expected = daskmoe.fit(store, "y", n_experts=2, random_state=0)
    xr.testing.assert_identical(daskmoe.open_model(output).params, expected.params)


@pytest.mark.cluster
def test_fit_refines_as_the_library_does(
    cluster: LocalCluster, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the moments that the fit has found: no pass is made for them."""
    passes: list[str] = []
    original = rounds.run_counted_sum

    def counted(request: Any, name: str, *args: Any, **more: Any) -> Any:
        passes.append(name)
        return original(request, name, *args, **more)

    monkeypatch.setattr(rounds, "run_counted_sum", counted)
    output = tmp_path / "model.zarr"
    options = ("--refine", "2", "--n-init", "3", "--scheduler", cluster.scheduler_address)
    assert run(fit_arguments(store, output, *options)) == DONE
    found = daskmoe.open_model(output)
    assert found.diagnostics is not None
    # The shared start of so few rows is at their maximum: a round says so, and a pass finds the scores.
    assert passes == ["moe-refine", "moe-scores"]
    assert found.diagnostics.sizes["round"] == 1
    expected = daskmoe.fit(store, "y", n_experts=2, n_init=3, refine=2, random_state=0)
    assert expected.diagnostics is not None
    xr.testing.assert_identical(found.params, expected.params)
    clocks = ["seconds", "round_seconds"]
    xr.testing.assert_identical(found.diagnostics.drop_vars(clocks), expected.diagnostics.drop_vars(clocks))
    assert found.options == expected.options


@pytest.mark.cluster
def test_fit_takes_row_weights(cluster: LocalCluster, store: Path, tmp_path: Path) -> None:
    weighted = xr.open_zarr(store).load().assign(w=("row", np.arange(2_000.0) % 2))
    path, output = tmp_path / "weighted.zarr", tmp_path / "model.zarr"
    weighted.drop_encoding().chunk(row=500).to_zarr(path, zarr_format=2)
    options = ("--features", "X", "--sample-weight", "w", "--scheduler", cluster.scheduler_address)
    assert run(fit_arguments(path, output, *options)) == DONE
    expected = daskmoe.fit(path, "y", features="X", n_experts=2, sample_weight="w", random_state=0)
    found = daskmoe.open_model(output)
    xr.testing.assert_identical(found.params, expected.params)
    assert found.diagnostics is not None
    assert found.diagnostics["rows"].values.tolist() == [250] * 4


@pytest.mark.cluster
def test_fit_takes_partitions_features_and_netcdf(cluster: LocalCluster, store: Path, tmp_path: Path) -> None:
    output = tmp_path / "model.nc"
    options = ("--partitions", "3", "--features", "X", "--scheduler", cluster.scheduler_address)
    assert run(fit_arguments(store, output, *options)) == DONE
    model = daskmoe.open_model(output)
    assert model.diagnostics is not None
    assert model.diagnostics.sizes["partition"] == 3


@pytest.mark.cluster
def test_fit_takes_text_and_terms(cluster: LocalCluster, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, wind = rng.normal(size=400), rng.choice(list("NES"), 400).astype(object)
    y = x**2 + (wind == "N") + 0.3 * rng.normal(size=400)
    table = xr.Dataset({"x": ("row", x), "wind": ("row", wind), "y": ("row", y)})
    encoding = {name: {"chunks": (100,)} for name in table.data_vars}
    table.to_zarr(tmp_path / "data.zarr", consolidated=False, encoding=encoding)
    arguments = fit_arguments(
        tmp_path / "data.zarr",
        tmp_path / "model.zarr",
        *("--features", "x,powers(x,2),wind", "--categories", "wind=S|N|E"),
        *("--scheduler", cluster.scheduler_address),
    )
    assert run(arguments) == DONE
    model = daskmoe.open_model(tmp_path / "model.zarr")
    assert model.feature_names == ("x", "x^2", "wind_N", "wind_E")
    expected = daskmoe.fit(
        table.chunk(row=100),
        "y",
        features=["x", daskmoe.features.powers("x", 2), "wind"],
        categories={"wind": ["S", "N", "E"]},
        n_experts=2,
        random_state=0,
    )
    xr.testing.assert_identical(model.params, expected.params)


def test_predict_writes_a_store_like_the_target(
    cluster: LocalCluster, store: Path, model_path: Path, tmp_path: Path
) -> None:
    output = tmp_path / "predictions.zarr"
    arguments = ["predict", str(model_path), str(store), "--output", str(output)]
    assert run([*arguments, "--scheduler", cluster.scheduler_address]) == DONE
    with xr.open_zarr(output) as predictions:
        expected = daskmoe.open_model(model_path).predict(store)
        assert predictions["y"].chunks == expected.chunks
        np.testing.assert_array_equal(predictions["y"], expected)


def test_aggregate_and_summary(
    store: Path, model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "joined.zarr"
    models = [str(model_path), str(model_path)]
    assert (
        run(["aggregate", *models, "--support", str(store), "--seed", "0", "--output", str(output)]) == DONE
    )
    assert run(["summary", str(output)]) == DONE
    assert daskmoe.open_model(output).summary() in capsys.readouterr().out


def test_sweep_says_what_it_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry = tmp_path / f"moe-part-0-{32 * 'a'}.npz"
    entry.write_bytes(bytes(200_000))
    os.utime(entry, (0, 0))
    arguments = ["sweep", str(tmp_path), "--unused-days", "30"]
    assert run([*arguments, "--dry-run"]) == DONE
    assert run(arguments) == DONE
    assert run(["sweep", str(tmp_path / "nowhere"), "--unused-days", "30"]) == BAD_INPUT
    assert capsys.readouterr().out.splitlines() == [
        "1 entries of 0.2 MB would be removed, 0 of 0.0 MB left",
        "1 entries of 0.2 MB removed, 0 of 0.0 MB left",
    ]


def test_refine_is_that_of_the_library(
    cluster: LocalCluster, store: Path, model_path: Path, tmp_path: Path
) -> None:
    output = tmp_path / "refined.nc"
    arguments = ["refine", str(model_path), str(store), "--partitions", "2", "--output", str(output)]
    assert run([*arguments, "--rounds", "2", "--scheduler", cluster.scheduler_address]) == DONE
    refined = daskmoe.open_model(output)
    expected = daskmoe.refine(model_path, store, rounds=2, partitions=2)
    xr.testing.assert_identical(refined.params, expected.params)
    assert refined.diagnostics is not None
    assert refined.diagnostics.sizes["round"] <= 2
    # Nothing is replaced unasked, and bad input is said before a cluster starts.
    assert run([*arguments, "--rounds", "2"]) == BAD_INPUT
    assert run([*arguments, "--overwrite", "--rounds", "some"]) == BAD_INPUT
    assert run([*arguments, "--overwrite", "--rounds", "0"]) == BAD_INPUT
    assert run([*arguments, "--overwrite", "--cluster", "nowhere"]) == BAD_INPUT


def test_update_with_atoms(cluster: LocalCluster, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=400)
    y = np.where(rng.random(400) < 0.5, 0.0, 2.0 + x + rng.normal(size=400))
    data = xr.Dataset({"x": ("row", x), "y": ("row", y)}).chunk(row=100)
    data.to_zarr(tmp_path / "rows.zarr", consolidated=False)
    old, new = str(tmp_path / "old.nc"), str(tmp_path / "new.nc")
    daskmoe.fit(data, "y", n_experts=1, atoms=[0.0], random_state=0).to_netcdf(old)
    arguments = ["update", old, str(tmp_path / "rows.zarr"), "--output", new]
    assert run([*arguments, "--scheduler", cluster.scheduler_address]) == DONE
    assert daskmoe.open_model(new).weight == 800.0


def test_update(cluster: LocalCluster, store: Path, model_path: Path, tmp_path: Path) -> None:
    model = daskmoe.refine(model_path, store, rounds=1)
    model.to_netcdf(tmp_path / "old.nc")
    output = tmp_path / "new.nc"
    arguments = ["update", str(tmp_path / "old.nc"), str(store), "--forget", "0.1", "--partitions", "2"]
    where = ["--output", str(output), "--scheduler", cluster.scheduler_address]
    assert run([*arguments, *where]) == DONE
    assert daskmoe.open_model(output).weight == pytest.approx(1.9 * 2_000)
    # One that keeps no information is bad input, and nothing is written.
    model.to_netcdf(tmp_path / "lean.nc", keep_information=False)
    lean = ["update", str(tmp_path / "lean.nc"), str(store), "--output", str(tmp_path / "none.nc")]
    assert run(lean) == BAD_INPUT
    assert not (tmp_path / "none.nc").exists()


def test_aggregate_by_another_method(store: Path, model_path: Path, tmp_path: Path) -> None:
    output = tmp_path / "joined.zarr"
    arguments = ["aggregate", *[str(model_path)] * 2, "--support", str(store), "--output", str(output)]
    assert run([*arguments, "--method", "weighted"]) == DONE
    joined = daskmoe.open_model(output)
    assert joined.options["aggregation"] == "weighted"
    assert joined.n_experts == 2 * daskmoe.open_model(model_path).n_experts
    assert run([*arguments, "--method", "mean"]) == BAD_INPUT


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit"], "Missing argument 'STORE'"),
        (["nothing"], "No such command 'nothing'"),
        (["summary", "nowhere.zarr"], "nowhere.zarr"),
        (["fit", "nowhere.zarr", "--target", "y", "--n-experts", "2", "--output", "m.zarr"], "nowhere.zarr"),
        (["fit", "a.zarr", "--target", "y", "--n-experts", "0", "--output", "m.zarr"], "--n-experts"),
        (
            ["fit", "a.zarr", "--target", "y", "--n-experts", "2", "--prior-strength", "weak"],
            "prior_strength: expected a finite number above 0, got 'weak'",
        ),
        (
            ["fit", "a.zarr", "--target", "y", "--n-experts", "2", "--min-scale", "0.1,small"],
            "min_scale: expected a finite number above 0, got '0.1,small'",
        ),
        (
            ["demo", "--workers", "1", "--scheduler", "tcp://127.0.0.1:1"],
            "at most one of --workers, --scheduler",
        ),
    ],
)
def test_bad_usage_and_bad_input_exit_with_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == BAD_INPUT
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err + caplog.text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["fit", "predict", "aggregate", "demo"])
def test_an_output_that_exists_is_left_alone(
    command: str, store: Path, model_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = {
        "fit": fit_arguments(store, tmp_path),
        "predict": ["predict", str(model_path), str(store), "--output", str(tmp_path)],
        "aggregate": ["aggregate", str(model_path), "--support", str(store), "--output", str(tmp_path)],
        "demo": ["demo", "--output", str(tmp_path)],
    }
    assert run(arguments[command]) == BAD_INPUT
    assert "exists already and is not overwritten" in caplog.text
    assert "use --overwrite," in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_every_output_may_be_replaced(store: Path, model_path: Path, tmp_path: Path, client: Client) -> None:
    where = ["--output", str(tmp_path / "out.zarr"), "--overwrite"]
    on = ["--scheduler", client.scheduler.address]
    assert run(["predict", str(model_path), str(store), *where, *on]) == DONE
    support = ["--support", str(store), "--random-state", "0"]
    assert run(["aggregate", str(model_path), *support, *where]) == DONE
    assert daskmoe.open_model(tmp_path / "out.zarr").n_experts == 2
    for name in ("fit", "select", "refine", "update"):
        assert {"overwrite", "progress"} <= {param.name for param in commands.commands[name].params}


def test_predict_takes_unknown_levels_as_missing(
    tmp_path: Path, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(0)
    data = xr.Dataset({"c": ("row", rng.choice(["a", "b"], 300)), "y": ("row", rng.normal(size=300))})
    daskmoe.fit_local(data, "y", n_experts=1).to_zarr(tmp_path / "model.zarr")
    data[["c"]].assign(c=data["c"].where(data["y"] < 1, "z")).to_zarr(tmp_path / "new.zarr", zarr_format=2)
    arguments = ["predict", str(tmp_path / "model.zarr"), str(tmp_path / "new.zarr")]
    arguments += ["--output", str(tmp_path / "out.zarr"), "--scheduler", client.scheduler.address]
    assert run(arguments) == BAD_INPUT
    assert "--on-error skip takes them as missing" in caplog.text
    assert run([*arguments, "--on-error", "skip"]) == DONE
    with xr.open_zarr(tmp_path / "out.zarr") as found:
        np.testing.assert_array_equal(found["y"].isnull(), data["y"] >= 1)


def test_a_missing_target_is_bad_input(store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    arguments = fit_arguments(store, tmp_path / "model.zarr")
    arguments[arguments.index("y")] = "rain"
    assert run(arguments) == BAD_INPUT
    assert "'rain'" in caplog.text


@pytest.mark.cluster
def test_missing_values_are_bad_input(
    cluster: LocalCluster, gap_store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "model.zarr"
    assert run(fit_arguments(gap_store, output, "--scheduler", cluster.scheduler_address)) == BAD_INPUT
    assert "--on-error skip drops such rows" in caplog.text
    assert "on_error" not in caplog.text
    assert not output.exists()


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        ("on_error='skip' drops such rows.", "--on-error skip drops such rows."),
        (
            "name them (categories={'c': [...]}) or use overwrite=True,",
            "name them (--categories c=...) or use --overwrite,",
        ),
        ("Use min_scale=0.1. Or random_state=0.", "Use --min-scale 0.1. Or --seed 0."),
        ("Go on with n_experts=range(3, 8).", "Go on with --n-experts 3-7."),
        ("Set min_scale= to the precision", "Set --min-scale to the precision"),
        (
            "Use fewer (n_experts=...), refine (refine=, --refine).",
            "Use fewer (--n-experts ...), refine (--refine).",
        ),
        *[(text, text) for text in ("diagnostics['status']", "my_refine=2", "--refine=3")],
    ],
)
def test_messages_have_options_as_flags(said: str, heard: str) -> None:
    assert with_flags(said) == heard


def test_a_warning_of_the_library_is_told_without_its_line_of_code() -> None:
    places = ("/a b/core.py", 9, "return callback(*args)")
    for kind, kept in ((FitWarning, False), (UserWarning, True)):
        text = warnings.formatwarning("more may\nbe better", kind, *places)
        assert without_place(text) == (text if kept else "more may\nbe better")


@pytest.mark.cluster
def test_partitions_left_out_exit_with_3(
    cluster: LocalCluster, gap_store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "model.zarr"
    options = ("--on-error", "skip", "--scheduler", cluster.scheduler_address)
    assert run(fit_arguments(gap_store, output, *options)) == PARTITIONS_LEFT_OUT
    assert caplog.text.count("1 of 4 partitions were left out: 0 (left out: ") == 1
    assert caplog.text.count("500 of 2000 rows were dropped") == 1
    assert output.exists()


@pytest.mark.parametrize("given", ["address", "file"])
def test_a_scheduler_that_is_not_there(
    given: str, store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    address, file = "tcp://127.0.0.1:9", tmp_path / "scheduler.json"
    file.write_text(json.dumps({"address": address}))
    option = ("--scheduler", address) if given == "address" else ("--scheduler-file", str(file))
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        caplog.at_level(logging.INFO, "daskmoe"),
    ):
        assert run(fit_arguments(store, tmp_path / "model.zarr", *option)) == FAILED
    first, last = [record for record in caplog.records if record.name.startswith("daskmoe.cli")]
    assert first.getMessage() == f"Connecting to {address}"
    assert f"The scheduler at {address} does not answer. Check" in last.getMessage()
    assert last.exc_info is None


def test_a_folder_is_no_scheduler_file(store: Path, tmp_path: Path) -> None:
    arguments = fit_arguments(store, tmp_path / "m.zarr", "--scheduler-file", str(tmp_path))
    assert run(arguments) == BAD_INPUT


@pytest.mark.parametrize("text", ["", "{}", "[]"])
def test_a_scheduler_file_without_an_address(
    text: str, store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "scheduler.json"
    file.write_text(text)
    assert run(fit_arguments(store, tmp_path / "m.zarr", "--scheduler-file", str(file))) == BAD_INPUT
    assert f"{file}: expected the file that `dask scheduler --scheduler-file` writes" in caplog.text


@pytest.mark.parametrize("address", ["localhost", "", "http://10.0.0.1:8786"])
def test_an_address_that_is_none(
    address: str, store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def count_clients() -> int:
        return sum(type(each) is Client for each in gc.get_objects())

    before = count_clients()
    assert run(fit_arguments(store, tmp_path / "m.zarr", "--scheduler", address)) == BAD_INPUT
    assert f"such as tcp://10.0.0.1:8786, got {address!r}" in caplog.text
    # None was made, which would hold up the end of the process for a minute.
    assert count_clients() <= before


def test_a_client_that_cannot_start_is_never_the_default() -> None:
    # Without the collector its remains would be found by the next client that closes, at some times only.
    gc.disable()
    try:
        with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
            with (
                pytest.raises(TimeoutError, match="does not answer"),
                connect(ClusterChoice(scheduler="tcp://127.0.0.1:9")),
            ):
                pass
            with pytest.raises(ValueError, match="No clients found"):
                default_client()
    finally:
        gc.enable()


def test_a_scheduler_without_workers(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("daskmoe.cli.cluster._WORKERS_TIMEOUT", 1)
    with (
        LocalCluster(
            n_workers=0, processes=False, protocol="tcp", host="127.0.0.1", dashboard_address="127.0.0.1:0"
        ) as empty,
        caplog.at_level(logging.INFO, "daskmoe"),
    ):
        address = empty.scheduler_address
        assert run(fit_arguments(store, tmp_path / "m.zarr", "--scheduler", address)) == FAILED
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("daskmoe.cli")]
    assert [line.split(":")[0] for line in lines[:2]] == [
        f"Connecting to {address.split(':')[0]}",
        "Dashboard",
    ]
    assert lines[2] == "Waiting up to 1 s for a worker"
    assert f"The scheduler at {address} has no worker after 1 s. Start some with" in lines[3]


@pytest.mark.cluster
@pytest.mark.parametrize("checkpoint", [True, False])
def test_an_interrupt_is_one_line(
    checkpoint: bool,
    cluster: LocalCluster,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("daskmoe.cli.commands.fit_request", interrupt)
    kept = tmp_path / "kept"
    more = ("--checkpoint", str(kept)) if checkpoint else ()
    arguments = fit_arguments(store, tmp_path / "m.zarr", "--scheduler", cluster.scheduler_address, *more)
    assert run(arguments) == INTERRUPTED
    remedy = f" The same command goes on from the partitions that are finished in {kept}."
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert said == ["Interrupted." + (remedy if checkpoint else "")]


@pytest.mark.slow
@pytest.mark.cluster
def test_an_interrupt_from_the_terminal_reaches_no_worker(tmp_path: Path) -> None:
    data, _ = daskmoe.simulate(
        400_000, n_features=10, n_experts=4, design="overlap", chunks=20_000, random_state=0
    )
    data.to_zarr(tmp_path / "rows.zarr", zarr_format=2)
    arguments = fit_arguments(tmp_path / "rows.zarr", tmp_path / "m.zarr", "--workers", "2")
    # A process in the background of a shell may ignore the signal, and so would what it starts.
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from daskmoe.cli import main; main()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as job:
        try:
            assert job.stderr is not None
            lines: list[str] = []
            # Said while partitions are fitted.
            while not any("Partitions fitted" in line for line in lines):
                lines.append(job.stderr.readline())
                assert lines[-1], f"the job ended early: {lines}"
            os.killpg(job.pid, signal.SIGINT)
            _, rest = job.communicate(timeout=60)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(job.pid, signal.SIGKILL)
    assert job.returncode == INTERRUPTED
    assert rest.strip().splitlines()[-1].endswith("ERROR Interrupted.")
    assert "Traceback" not in rest


def test_an_unexpected_error_exits_with_4(
    model_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(path: str) -> None:
        raise RuntimeError("the disk is gone")

    monkeypatch.setattr(daskmoe, "open_model", fail)
    assert run(["summary", str(model_path)]) == FAILED
    assert "the disk is gone" in caplog.text


def test_help_and_version_need_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == DONE
    out = capsys.readouterr().out
    assert all(command in out for command in ("demo", "fit", "predict", "aggregate", "summary"))


@pytest.mark.parametrize("arguments", [["-v", "fit"], ["fit", "-v"]])
def test_details_are_asked_for_on_either_side_of_fit(
    arguments: list[str], store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # It sets the level back in the end.
    caplog.set_level(logging.INFO, "daskmoe")
    assert run([*arguments, *fit_arguments(store, tmp_path)[1:]]) == BAD_INPUT
    assert logging.getLogger("daskmoe").level == logging.DEBUG


def test_free_folder_counts_up(tmp_path: Path) -> None:
    wanted = tmp_path / "demo"
    assert free_folder(wanted) == wanted
    wanted.mkdir()
    (tmp_path / "demo-2").mkdir()
    assert free_folder(wanted) == tmp_path / "demo-3"


def test_table_says_what_is_not_known_by_leaving_it_out() -> None:
    lines = format_table([Row("the reduction", -1.25, 0.5, 12.3), Row("the truth", -1.2, 0.25)]).splitlines()
    assert lines[1].split() == ["the", "reduction", "-1.2500", "0.50000", "12.3", "s"]
    assert lines[2].split() == ["the", "truth", "-1.2000", "0.25000"]


def test_figure_is_svg_with_every_row_and_coefficient() -> None:
    observed = np.array([0.0, 1.0, 2.0, 2.0])
    coef = np.arange(6.0).reshape(2, 3)
    root = ElementTree.fromstring(draw_demo_figure(observed, observed, coef, coef + 0.1))
    tags = [element.tag.rpartition("}")[2] for element in root.iter()]
    cells = [
        element for element in root.iter() if element.get("fill-opacity") and element.tag.endswith("rect")
    ]
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert len(cells) == 3
    # Six coefficients and a key for two experts.
    assert tags.count("circle") == 6 + 2
    darkest = max(cells, key=lambda cell: float(cell.get("fill-opacity", 0)))
    assert float(darkest.get("fill-opacity", 0)) == 1.0


@pytest.mark.slow
@pytest.mark.cluster
def test_demo_leaves_model_predictions_and_figure(tmp_path: Path) -> None:
    output = tmp_path / "demo"
    command = [sys.executable, "-m", "daskmoe", "demo", "--rows", "40000", "--partitions", "4"]
    done = subprocess.run(
        [*command, "--workers", "2", "--output", str(output)], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == DONE, done.stderr
    assert re.search(r"Dashboard: http://127\.0\.0\.1:\d+/status", done.stderr)
    assert "Partitions fitted: 4 of 4" in done.stderr
    assert "Traceback" not in done.stderr
    for name in ("one local fit", "the reduction", "the truth"):
        assert name in done.stdout
    for name in ("model.zarr", "predictions.zarr", "figure.svg"):
        assert str(output / name) in done.stdout
        assert (output / name).exists()
    assert daskmoe.open_model(output / "model.zarr").n_experts == 4


def test_select_prints_the_table_and_writes_the_model(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], client: Client
) -> None:
    address, output = client.scheduler.address, tmp_path / "best.zarr"
    arguments = ["--n-experts", "1-2,3", "--seed", "0", "--n-init", "2", "--scheduler", address]
    assert run(["select", str(store), "--target", "y", *arguments, "--output", str(output)]) == DONE
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "<Selection: 2 experts of 'y' by bic>"
    assert printed[-1] == str(output)
    assert daskmoe.open_model(output).n_experts == 2
    assert run(["select", str(store), "--target", "y", "--n-experts", "some"]) == BAD_INPUT


def test_no_command_replaces_what_it_reads(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data, truth = daskmoe.simulate(300, n_features=2, n_experts=2, random_state=0)
    store, model = str(tmp_path / "rows.zarr"), str(tmp_path / "model.zarr")
    data.to_zarr(store, zarr_format=2)
    truth.to_zarr(model)
    inside = str(tmp_path / "rows.zarr" / "model")
    for output in (store, str(tmp_path / "other" / ".." / "rows.zarr"), inside, str(tmp_path)):
        where = ["--output", output, "--overwrite"]
        assert run(["fit", store, "--target", "y", "--n-experts", "2", *where]) == BAD_INPUT
        assert run(["predict", model, store, *where]) == BAD_INPUT
        assert run(["refine", model, store, *where]) == BAD_INPUT
        assert run(["aggregate", model, model, "--support", store, *where]) == BAD_INPUT
    assert run(["predict", model, store, "--output", model, "--overwrite"]) == BAD_INPUT
    assert caplog.text.count("expected a path apart from") == 17
    xr.testing.assert_identical(xr.open_zarr(store).load(), data)
