"""Streams of rows: a fit of a Dataset, a DataLoader or an iterator is that of all rows at once."""

import tempfile

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn import config_context
from sklearn.datasets import load_iris
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from skevae import EnergyOutlierDetector, EnergyVAE, GaussianBernoulliRBMPrior
from skevae.estimators.streams import from_stream
from skevae.utils.memory import is_mapped

X_IRIS, Y_IRIS = load_iris(return_X_y=True)


class RowByRow(IterableDataset):
    def __iter__(self):
        return iter(X_IRIS)


class Indexed(Dataset):
    def __len__(self):
        return len(X_IRIS)

    def __getitem__(self, index):
        return X_IRIS[index]


ROWS = torch.from_numpy(X_IRIS)
STREAMS = {
    "Dataset": Indexed,
    "Dataset of tuples": lambda: TensorDataset(ROWS, torch.from_numpy(Y_IRIS)),
    "IterableDataset": RowByRow,
    "DataLoader": lambda: DataLoader(TensorDataset(ROWS), batch_size=40),
    "arrays": lambda: iter(np.array_split(X_IRIS, 7)),
    "lists": lambda: iter([X_IRIS[:9].tolist(), X_IRIS[9:].tolist()]),
    "frames": lambda: (pd.DataFrame(part) for part in np.array_split(X_IRIS, 3)),
    "tensors and targets": lambda: ((ROWS[k::1][:1], k) for k in range(len(ROWS))),
    "an empty batch": lambda: iter([X_IRIS[:0], X_IRIS]),
}


@pytest.fixture(params=STREAMS)
def stream(request):
    return STREAMS[request.param]()


def vae(**params):
    defaults = {"n_components": 2, "hidden_layer_sizes": 8, "max_iter": 2, "random_state": 0}
    return EnergyVAE(**defaults, prior="normal", n_draws=2, n_score_draws=20, **params)


def test_a_stream_becomes_all_of_its_rows(stream):
    rows = from_stream(stream)
    assert is_mapped(rows)
    assert_array_equal(rows, X_IRIS)


@pytest.mark.parametrize("model", [vae(), GaussianBernoulliRBMPrior(2, max_iter=2, random_state=0)])
def test_fit_transform_reads_a_stream_once(model):
    rows = iter(np.array_split(X_IRIS, 3))
    assert_array_equal(model.fit_transform(rows), model.fit_transform(X_IRIS))


def test_fit_predict_reads_a_stream_once():
    detector = EnergyOutlierDetector(vae(), random_state=0)
    labels = detector.fit_predict(iter(np.array_split(X_IRIS, 3)))
    assert_array_equal(labels, detector.fit_predict(X_IRIS))


@pytest.mark.parametrize("X", [X_IRIS, X_IRIS.tolist(), pd.DataFrame(X_IRIS), ROWS, "X", None])
def test_what_is_no_stream_stays_as_it_is(X):
    assert from_stream(X) is X


@pytest.mark.parametrize("dtype, kept", [("f4", "f4"), ("f8", "f8"), ("f2", "f8"), ("u1", "f8")])
def test_dtypes_are_those_of_a_fit_in_memory(dtype, kept):
    assert from_stream(iter([X_IRIS.astype(dtype)])).dtype == np.dtype(kept)


def rbm():
    return GaussianBernoulliRBMPrior(3, max_iter=3, random_state=0)


@pytest.mark.parametrize("make", [vae, rbm])
def test_a_fit_and_its_scores_are_those_of_the_rows_in_memory(make):
    weights = np.arange(150.0)
    expected = make().fit(X_IRIS, sample_weight=weights)
    model = make().fit(iter(np.array_split(X_IRIS, 4)), sample_weight=weights)
    for name, values in expected.history_.items():
        assert_array_equal(model.history_[name], values)
    scores = model.score_samples(DataLoader(Indexed(), batch_size=64))
    assert_array_equal(scores, expected.score_samples(X_IRIS))


def test_more_rows_than_memory_stay_in_the_file():
    with config_context(working_memory=0.001):
        model = vae(standardize=False).fit(Indexed())
    assert model.score(X_IRIS) == vae(standardize=False).fit(X_IRIS).score(X_IRIS)


@pytest.mark.parametrize(
    "batches, error, message",
    [
        ([], ValueError, "0 rows.*only be read once|0 rows.*read only once"),
        ([X_IRIS[0]], ValueError, r"shape \(4,\)"),
        ([X_IRIS, X_IRIS[:, :2]], ValueError, "4 columns of float64, and a later one 2"),
        ([X_IRIS.astype("f4"), X_IRIS], ValueError, "columns of float32"),
        ([np.array([["a", "b"]])], TypeError, "must hold numbers"),
        ([X_IRIS + 1j], TypeError, "complex128"),
        ([X_IRIS * np.nan], ValueError, "no value in column 0"),
    ],
)
def test_bad_streams(batches, error, message):
    with pytest.raises(error, match=message):
        vae().fit(iter(batches))


def test_an_iterator_that_was_read_already():
    batches = iter([X_IRIS])
    vae().fit(batches)
    with pytest.raises(ValueError, match="read only once: pass a fresh one"):
        vae().fit(batches)


def test_no_file_is_left(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    rows = from_stream(iter([X_IRIS]))
    assert_array_equal(rows[3], X_IRIS[3])
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_names_the_remedy(monkeypatch):
    # A device that is always full, in the place of the temporary file.
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: open("/dev/full", "wb"))
    with pytest.raises(OSError, match="TMPDIR"):
        from_stream(iter([np.zeros((100_000, 10))]))
