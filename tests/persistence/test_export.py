"""Exported encoders and decoders agree with `transform` and `inverse_transform`."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError

from skevae import EnergyVAE, GaussianBernoulliRBMPrior, export_decoder, export_encoder
from skevae.networks import MLP

X_IRIS = load_iris().data.astype(np.float32)
EXPORTS = [export_encoder, export_decoder]


def small(**params):
    defaults = {"n_components": 3, "hidden_layer_sizes": (16,), "max_iter": 2, "random_state": 0}
    return EnergyVAE(**{**defaults, **params})


def run_torch(path, values):
    return torch.export.load(path).module()(torch.from_numpy(values)).detach().numpy()


def run_onnx(path, values):
    session = pytest.importorskip("onnxruntime").InferenceSession(path)
    (given,) = session.get_inputs()
    return session.run(None, {given.name: values})[0]


RUN = {
    "torch": run_torch,
    "onnx": run_onnx,
}


def exported(export, model, folder, format="torch"):
    if format == "onnx":
        pytest.importorskip("onnxscript", reason="writing ONNX needs onnxscript")
    return export(model, folder / "network.pt2", format=format)


def assert_agree(model, numbers, rows, folder, format="torch"):
    """`numbers` are what an exported encoder is given for `rows`."""
    encoder = exported(export_encoder, model, folder, format)
    for n in (1, 100):
        expected = model.transform(rows[:n])
        assert_allclose(RUN[format](encoder, numbers[:n]), expected, rtol=1e-5, atol=2e-6)
    Z = model.transform(rows).astype(np.float32)
    decoder = exported(export_decoder, model, folder, format)
    for n in (1, 100):
        expected = model._columns.numbers(model.inverse_transform(Z[:n]))
        found = RUN[format](decoder, Z[:n])
        assert found.dtype == np.float32
        assert_allclose(found, expected, rtol=2e-6, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("format", RUN)
def test_they_agree_in_every_format(format, tmp_path):
    assert_agree(small().fit(X_IRIS), X_IRIS, X_IRIS, tmp_path, format)


@pytest.mark.slow
@pytest.mark.parametrize(
    "params",
    [
        {"network": "densenet", "posterior": "fixed", "likelihood": "gaussian"},
        {"network": MLP(weight_norm=True), "likelihood": "gaussian-rowwise"},
        {"network": "resnet", "standardize": False},
    ],
    ids=lambda params: params["network"] if isinstance(params["network"], str) else "weight_norm",
)
def test_they_agree_for_every_network(params, tmp_path):
    assert_agree(small(**params).fit(X_IRIS), X_IRIS, X_IRIS, tmp_path)


@pytest.mark.slow
def test_they_agree_where_chunks_are_large_enough_for_another_library(tmp_path):
    X = np.random.RandomState(0).randn(128, 40).astype(np.float32)
    model = small(hidden_layer_sizes=(600,)).fit(X)
    assert_agree(model, X, X, tmp_path)


@pytest.mark.slow
def test_columns_far_from_zero_lose_no_digits(tmp_path):
    X = X_IRIS + np.float32(1e6)
    assert_agree(small().fit(X), X, X, tmp_path)


@pytest.mark.slow
def test_binary_rows(tmp_path):
    X = (X_IRIS > X_IRIS.mean(0)).astype(np.float32)
    assert_agree(small(likelihood="bernoulli").fit(X), X, X, tmp_path)


@pytest.fixture(scope="module")
def table():
    """Numbers, bounded ones, integers and categories; a tenth of the entries missing."""
    frame = pd.DataFrame(X_IRIS, columns=["a", "positive", "negative", "inside"])
    frame["negative"] *= -1
    frame["count"] = np.arange(len(frame)) % 7
    frame["kind"] = load_iris().target_names[load_iris().target]
    return frame.mask(np.random.RandomState(0).rand(*frame.shape) < 0.1)


BOUNDS = {"positive": (0, None), "negative": (None, 0), "inside": (-1, 5)}


@pytest.mark.slow
@pytest.mark.parametrize("format", RUN)
def test_tables_are_exported_as_numbers(table, format, tmp_path):
    model = small(bounds=BOUNDS).fit(table)
    numbers = model._columns.numbers(table).astype(np.float32)
    assert_agree(model, numbers, table, tmp_path, format)


@pytest.mark.slow
def test_a_file_says_what_its_columns_are(table, tmp_path):
    model = small(bounds=BOUNDS).fit(table)
    told = {"columns.json": ""}
    torch.export.load(exported(export_encoder, model, tmp_path), extra_files=told)
    columns = json.loads(told["columns.json"])
    assert [column["name"] for column in columns] == list(table.columns)
    assert columns[-1]["categories"] == ["setosa", "versicolor", "virginica"]
    assert [column["integer"] for column in columns] == [False] * 4 + [True, False]


@pytest.mark.slow
def test_it_runs_in_a_process_without_this_package(tmp_path):
    model = small().fit(X_IRIS)
    path = exported(export_encoder, model, tmp_path)
    np.save(tmp_path / "rows.npy", X_IRIS)
    code = (
        "import sys, numpy, torch\n"
        f"encoder = torch.export.load({str(path)!r}).module()\n"
        "Z = encoder(torch.from_numpy(numpy.load('rows.npy'))).detach().numpy()\n"
        "assert not any(name.startswith('skevae') for name in sys.modules)\n"
        "numpy.save('latents.npy', Z)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=300)
    assert_allclose(np.load(tmp_path / "latents.npy"), model.transform(X_IRIS), atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("export", EXPORTS)
def test_the_model_stays_as_it_is(export, tmp_path):
    model = small().fit(X_IRIS)
    before = model.transform(X_IRIS)
    exported(export, model, tmp_path)
    assert all(parameter.requires_grad for parameter in model.module_.parameters())
    assert_array_equal(model.transform(X_IRIS), before)


@pytest.mark.slow
def test_flows_are_refused_and_leave_nothing_behind(tmp_path):
    pytest.importorskip("zuko")
    model = small(posterior="iaf").fit(X_IRIS)
    with pytest.raises(ValueError, match="flow"):
        export_encoder(model, tmp_path / "encoder.pt2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("export", EXPORTS)
def test_what_cannot_be_exported(export, tmp_path):
    path = tmp_path / "network.pt2"
    with pytest.raises(TypeError, match="fitted EnergyVAE"):
        export(GaussianBernoulliRBMPrior(), path)
    with pytest.raises(ValueError, match=r"format must be one of 'torch', 'onnx', got 'pickle'"):
        export(small(), path, format="pickle")
    with pytest.raises(NotFittedError):
        export(small(), path)
    assert not path.exists()


def test_what_is_missing_for_onnx_is_said(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"skevae\[onnx\]"):
        export_decoder(small(max_iter=1).fit(X_IRIS), tmp_path / "decoder.onnx", format="onnx")


def test_what_is_no_value_of_a_column_is_missing(tmp_path):
    """On a bound, beyond it, or no code of a category."""
    codes = np.arange(150) % 3
    X = np.c_[X_IRIS[:, :2], codes]
    model = small(bounds={0: (0, 10), 1: (0, None)}, categorical_features=[2], mask_rate=0.2)
    model.fit(X)
    row = np.float32([[5, 3, 1]])
    without = [np.where(np.arange(3) == j, np.nan, row).astype(np.float32) for j in range(3)]
    encoder = export_encoder(model, tmp_path / "network.pt2")
    for j, value in ((0, 0.0), (0, 10.0), (0, -1.0), (1, 0.0), (2, 7.0), (2, -1.0), (2, 0.5)):
        odd = row.copy()
        odd[0, j] = value
        assert_allclose(run_torch(encoder, odd), model.transform(without[j]), rtol=1e-5, atol=2e-6)
