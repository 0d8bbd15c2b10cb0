"""The examples run, on data made here and, where they are there, on the real ones."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import daskmoe

# The example shows the paper's estimator and three rounds wherever they end, which a user is told.
pytestmark = [
    pytest.mark.filterwarnings("ignore::daskmoe.errors.FitWarning"),
    pytest.mark.filterwarnings("ignore:The refinement ended short:daskmoe.errors.ConvergenceWarning"),
]

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
STATIONS = ("Alpha", "Beta", "Gamma")
HOURS = 46 * 24


@pytest.fixture(scope="module")
def beijing() -> ModuleType:
    spec = importlib.util.spec_from_file_location("beijing", EXAMPLES / "beijing_air_quality.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_station(name: str, rng: np.random.Generator) -> pd.DataFrame:
    """Hours of two months before the split and five days after it, with gaps like those of the real table."""
    time = pd.date_range("2016-01-20", periods=HOURS, freq="h")
    table = pd.DataFrame({part: getattr(time, part) for part in ("year", "month", "day", "hour")})
    for column in ("PM2.5", "PM10", "SO2", "NO2", "CO", "O3", "TEMP", "PRES", "DEWP", "RAIN", "WSPM"):
        table[column] = 50 + np.cumsum(rng.normal(size=len(time)))
        table.loc[rng.random(len(time)) < 0.02, column] = np.nan
    table["wd"] = rng.choice(["N", "NE", "SSW", None], size=len(time))
    return table.assign(station=name)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.concat([make_station(name, rng) for name in STATIONS], ignore_index=True)


def test_features_of_one_station(beijing: ModuleType, table: pd.DataFrame) -> None:
    rows = table[table["station"] == "Alpha"]
    features = beijing.station_features(rows)
    filled = rows["PM2.5"].interpolate(limit_direction="both").to_numpy()
    assert features.sizes == {"time": HOURS - 24}
    assert features["time"].values[0] == np.datetime64("2016-01-21T00")
    np.testing.assert_array_equal(features["PM2.5"], filled[24:])
    np.testing.assert_array_equal(features["PM2.5_lag2"], filled[22:-2])
    np.testing.assert_array_equal(features["PM2.5_lag24"], filled[:-24])
    np.testing.assert_allclose(features["wd_sin"] ** 2 + features["wd_cos"] ** 2, 1)


def test_dataset_is_standardized_by_the_training_years(beijing: ModuleType, table: pd.DataFrame) -> None:
    data = beijing.build_dataset(table)
    assert [str(name) for name in data["station"].values] == list(STATIONS)
    assert data["PM2.5"].attrs["units"] == "ug/m3"
    assert data["hour_sin"].dims == ("time",)
    assert len(data.data_vars) == 20
    training = data.sel(time=data["time"] < np.datetime64("2016-03-01"))["TEMP"]
    assert abs(float(training.mean())) < 1e-12
    assert float(training.std()) == pytest.approx(1)


def test_no_data_is_said_plainly(beijing: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"expected PRSA_Data_\*\.csv or a Parquet file, found neither"):
        beijing.read_table(tmp_path)


def test_files_of_stations_and_one_table_are_the_same(
    beijing: ModuleType, table: pd.DataFrame, tmp_path: Path
) -> None:
    folders = tmp_path / "one", tmp_path / "stations"
    for folder in folders:
        folder.mkdir()
    table.to_parquet(folders[0] / "table.parquet")
    for name, rows in table.groupby("station"):
        rows.to_csv(folders[1] / f"PRSA_Data_{name}.csv", index=False)
    one, stations = (beijing.build_dataset(beijing.read_table(folder)) for folder in folders)
    xr.testing.assert_allclose(one, stations)


@pytest.mark.slow
@pytest.mark.cluster
def test_beijing_example_runs(
    beijing: ModuleType,
    table: pd.DataFrame,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Local fits of the reduction take long where rows say as little as these.
    fits = {name: how for name, how in beijing.FITS.items() if "reduction" not in name}
    monkeypatch.setattr(beijing, "FITS", fits)
    table.to_parquet(tmp_path / "table.parquet")
    output = tmp_path / "output"
    beijing.main([str(tmp_path), "--output", str(output)])
    assert "published: centralized fit" in capsys.readouterr().out
    model = daskmoe.open_model(output / "model-daskmoe-one-pass.zarr")
    assert model.n_experts == 4
    assert len(model.feature_names) == 19
    with xr.open_zarr(output / "predictions-daskmoe-one-pass.zarr", consolidated=False) as predictions:
        assert predictions["PM2.5"].sizes == {"station": 3, "time": 5 * 24}
        assert predictions["PM2.5"].attrs["units"] == "ug/m3"
        assert bool(predictions["PM2.5"].notnull().all())


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_beijing_reaches_the_published_scores(
    beijing: ModuleType,
    data_path: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The others run on the small table.
    monkeypatch.setattr(beijing, "FITS", {"daskmoe, one pass": {}})
    beijing.main([str(data_path("beijing")), "--output", str(tmp_path / "output")])
    line = re.search(r"^daskmoe, one pass +(\S+) +(\S+) +(\S+)$", capsys.readouterr().out, flags=re.M)
    assert line
    rmse, mae, log_likelihood = map(float, line.groups())
    assert rmse < 18.0
    assert mae < 9.8
    assert log_likelihood > -3.76
