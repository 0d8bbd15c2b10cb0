"""Jobs: files of options, stopping in time, running again."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from distributed import LocalCluster

import daskmoe
from daskmoe.cli.commands import _log_to_stderr, commands, plug_in, run
from daskmoe.cli.exit_codes import BAD_INPUT, DONE, STOPPED
from daskmoe.cli.job_file import with_job_file


def job(path: Path, **options: object) -> str:
    path.write_text(yaml.safe_dump(options, sort_keys=False))
    return str(path)


def test_a_job_file_spells_the_command(tmp_path: Path) -> None:
    file = job(
        tmp_path / "job.yaml",
        store="rows.zarr",
        target="y",
        **{"n-experts": 3},
        features=["x", "powers(x,3)"],
        categories={"wind": ["N", "E"], "month": None},
        overwrite=True,
        checkpoint=None,
        progress=False,
        seed=1,
        output="m.zarr",
    )
    spelled = with_job_file(["fit", file, "--seed", "2"], commands)
    expected = "--target y --n-experts 3 --features x,powers(x,3) --categories wind=N|E,month"
    assert spelled[0] == "fit"
    assert spelled[-1] == "rows.zarr"
    # What follows the file on the command line comes last, and so counts.
    assert (
        " ".join(spelled[1:-1])
        == f"{expected} --overwrite --progress False --seed 1 --output m.zarr --seed 2"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("n_expert: 3", "'n_expert' is no option of fit; did you mean 'n_experts'?"),
        ("- 1", "expected names of options and values"),
        ("a: [", "expected YAML"),
    ],
)
def test_what_is_no_job_is_refused(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "job.yaml").write_text(text)
    assert run(["fit", str(tmp_path / "job.yaml")]) == BAD_INPUT
    assert said in capsys.readouterr().err
    assert run(["fit", str(tmp_path / "other.yaml")]) == BAD_INPUT
    assert "expected a file of options and their values; there is none" in capsys.readouterr().err


def test_the_log_is_lines_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    with log_as_in_a_process():
        options = ["--n-experts", "2", "--output", "m.zarr", "--log-format", "json"]
        assert run(["fit", "nowhere.zarr", "--target", "y", *options]) == BAD_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert {"level": "ERROR", "logger": "daskmoe.cli.commands"}.items() <= json.loads(line).items()
    assert "does not exist" in json.loads(line)["message"]


@contextlib.contextmanager
def log_as_in_a_process() -> Iterator[None]:
    """The loggers as `daskmoe.cli.main` has them, and back."""
    loggers = [logging.getLogger(name) for name in ("daskmoe", "py.warnings")]
    before = [(each.handlers, each.level, each.propagate) for each in loggers]
    _log_to_stderr()
    try:
        yield
    finally:
        logging.captureWarnings(False)
        for each, (handlers, level, propagate) in zip(loggers, before, strict=True):
            each.handlers, each.propagate = handlers, propagate
            each.setLevel(level)


def test_dask_has_the_commands_too(capsys: pytest.CaptureFixture[str]) -> None:
    with log_as_in_a_process(), pytest.raises(SystemExit) as ended:
        plug_in.main(["fit", "nowhere.zarr", "--target", "y"], prog_name="dask moe")
    assert ended.value.code == BAD_INPUT
    assert "--n-experts" in capsys.readouterr().err


def test_a_report_that_cannot_be_made_is_said_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    options = ["--n-experts", "2", "--output", "m.zarr", "--report", "report.html"]
    assert run(["fit", "nowhere.zarr", "--target", "y", *options]) == BAD_INPUT
    assert "daskmoe[dashboard]" in capsys.readouterr().err


def test_preview_is_a_dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, _ = daskmoe.simulate(400, n_features=2, n_experts=2, chunks=100, random_state=0)
    data.to_zarr(tmp_path / "rows.zarr", zarr_format=2)
    options = [str(tmp_path / "rows.zarr"), "--target", "y", "--n-experts", "2", "--seed", "0"]
    texts = []
    for command in (["preview"], ["fit", "--dry-run"]):
        assert run([*command, *options]) == DONE
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] == f"{daskmoe.preview(tmp_path / 'rows.zarr', 'y', n_experts=2)}\n"
    assert run(["fit", *options]) == BAD_INPUT


def test_a_summary_of_a_job_that_failed_says_why(tmp_path: Path) -> None:
    said = tmp_path / "run.json"
    options = ["--n-experts", "2", "--output", str(tmp_path / "m.zarr"), "--summary", str(said)]
    assert run(["fit", str(tmp_path / "nowhere.zarr"), "--target", "y", *options]) == BAD_INPUT
    found = json.loads(said.read_text())
    assert found["ended"] == "failed"
    assert found["error"].startswith("StoreError: Expected a Zarr store")


@pytest.mark.cluster
def test_a_job_runs_and_runs_again(tmp_path: Path) -> None:
    data, _ = daskmoe.simulate(400, n_features=2, n_experts=2, chunks=100, random_state=0)
    data.to_zarr(tmp_path / "rows.zarr", zarr_format=2)
    with LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        processes=False,
        dashboard_address="127.0.0.1:0",
        protocol="tcp",
        host="127.0.0.1",
    ) as cluster:
        file = job(
            tmp_path / "job.yml",
            store=str(tmp_path / "rows.zarr"),
            target="y",
            n_experts=2,
            random_state=0,
            output=str(tmp_path / "m.zarr"),
            scheduler=cluster.scheduler_address,
            summary=str(tmp_path / "run.json"),
            wait_workers=1,
            timeout=60,
        )
        assert run(["fit", file]) == DONE
        said = json.loads((tmp_path / "run.json").read_text())
        assert (said["ended"], said["partitions"], said["left_out"]) == ("done", 4, {})
        first = daskmoe.open_model(tmp_path / "m.zarr")
        assert run(["fit", file]) == BAD_INPUT
        assert run(["fit", file, "--overwrite"]) == DONE
    expected = daskmoe.fit(data, "y", n_experts=2, random_state=0)
    for model in (first, daskmoe.open_model(tmp_path / "m.zarr")):
        np.testing.assert_array_equal(model.params["coef"], expected.params["coef"])


@pytest.mark.cluster
@pytest.mark.parametrize("how", ["SIGTERM", "budget"])
def test_a_job_stops_in_time_and_goes_on(how: str, tmp_path: Path) -> None:
    data, _ = daskmoe.simulate(
        400_000, n_features=10, n_experts=4, design="overlap", chunks=20_000, random_state=0
    )
    data.to_zarr(tmp_path / "rows.zarr", zarr_format=2)
    arguments = [
        *("fit", str(tmp_path / "rows.zarr"), "--target", "y", "--n-experts", "4", "--seed", "0"),
        *("--output", str(tmp_path / "m.zarr"), "--checkpoint", str(tmp_path / "kept"), "--workers", "1"),
        *("--aggregation", "reduction"),
    ]
    extra = ["--time-budget", "5"] if how == "budget" else []
    code = "from daskmoe.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments, *extra],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stderr is not None
            lines: list[str] = []
            while how == "SIGTERM" and not any("Partitions fitted" in line for line in lines):
                lines.append(process.stderr.readline())
                assert lines[-1], f"the job ended early: {lines}"
            if how == "SIGTERM":
                process.send_signal(signal.SIGTERM)
            _, rest = process.communicate(timeout=120)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == STOPPED, rest
    last = rest.strip().splitlines()[-1]
    assert ("SIGTERM" if how == "SIGTERM" else "time budget of 5 s is used up") in last
    assert "The same command goes on from the partitions" in last
    assert "Traceback" not in rest
    assert not (tmp_path / "m.zarr").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]
