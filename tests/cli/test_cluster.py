"""Clusters that the command line reaches: over TLS with the certificates that it is given."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import LocalCluster
from distributed.security import Security

import daskmoe
from daskmoe.cli.commands import run
from daskmoe.cli.exit_codes import BAD_INPUT, DONE, FAILED


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a key and a certificate that vouches for itself, and those of a stranger."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the command openssl")
    folder = tmp_path_factory.mktemp("tls")
    for who in ("own", "strange"):
        made = ["-keyout", f"{who}.key", "-out", f"{who}.pem", "-days", "2", "-subj", "/CN=127.0.0.1"]
        kind = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        subprocess.run(["openssl", *kind, *made], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def secure(certificates: Path) -> Iterator[LocalCluster]:
    ca, key = str(certificates / "own.pem"), str(certificates / "own.key")
    sides = {f"tls_{side}_{what}": path for side in ("scheduler", "worker", "client") for what, path in
             (("cert", ca), ("key", key))}  # fmt: skip
    with LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        processes=False,
        dashboard_address="127.0.0.1:0",
        protocol="tls",
        host="127.0.0.1",
        security=Security(tls_ca_file=ca, require_encryption=True, **sides),
    ) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    path = tmp_path_factory.mktemp("tls-rows") / "rows.zarr"
    data, _ = daskmoe.simulate(200, n_features=2, n_experts=2, chunks=100, random_state=0)
    data.to_zarr(path, zarr_format=2)
    return ["fit", str(path), "--target", "y", "--n-experts", "1", "--seed", "0", "--overwrite"]


def flags(folder: Path, who: str = "own") -> list[str]:
    files = {"--tls-ca-file": f"{who}.pem", "--tls-cert": f"{who}.pem", "--tls-key": f"{who}.key"}
    return [word for flag, file in files.items() for word in (flag, str(folder / file))]


def test_a_job_over_tls(secure: LocalCluster, certificates: Path, command: list[str], tmp_path: Path) -> None:
    assert secure.scheduler_address.startswith("tls://127.0.0.1")
    reached = ["--scheduler", secure.scheduler_address, *flags(certificates)]
    assert run([*command, *reached, "--output", str(tmp_path / "m.zarr")]) == DONE
    assert daskmoe.open_model(tmp_path / "m.zarr").params.sizes["expert"] == 1


@pytest.mark.parametrize(
    ("address", "who", "said"),
    [
        ("tls", "", "Expected certificates for the address tls://"),
        ("tcp", "own", "expected a scheduler at a tls:// address"),
        ("tls", "no", "expected files of certificates and a key"),
        ("", "own", "with --scheduler or --scheduler-file"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    secure: LocalCluster,
    certificates: Path,
    command: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    address: str,
    who: str,
    said: str,
) -> None:
    for name in ("no.pem", "no.key"):
        (certificates / name).write_text("no certificate")
    where = secure.scheduler_address.replace("tls", address)
    reached = [*(["--scheduler", where] if address else []), *(flags(certificates, who) if who else [])]
    began = time.monotonic()
    assert run([*command, *reached, "--output", str(tmp_path / "m.zarr")]) == BAD_INPUT
    assert time.monotonic() - began < 5
    assert said in caplog.text + capsys.readouterr().err


def test_strangers_are_not_answered(
    secure: LocalCluster, certificates: Path, command: list[str], tmp_path: Path, caplog: Any
) -> None:
    import dask

    reached = ["--scheduler", secure.scheduler_address, *flags(certificates, "strange")]
    with dask.config.set({"distributed.comm.timeouts.connect": "2s"}):
        assert run([*command, *reached, "--output", str(tmp_path / "m.zarr")]) == FAILED
    assert "trust the same authority" in caplog.text
