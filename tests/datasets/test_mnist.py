"""Binarised MNIST, on a small copy with its proportions: sources, subsets and draws agree."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.utils import Bunch

from skevae.datasets import mnist
from skevae.datasets.mnist import fetch_binarized_mnist


@pytest.fixture(scope="module")
def raw():
    """Return 70 images, each with its index in the first pixel, and labels."""
    images = np.random.RandomState(0).randint(256, size=(70, 784)).astype(np.uint8)
    images[:, 0] = np.arange(70)
    images[:, 1], images[:, 2] = 0, 255
    return images, np.arange(70) % 10


@pytest.fixture
def openml(raw, monkeypatch):
    """Replace the download; return the list of its calls."""
    calls = []

    def fetch_openml(*args, **kwargs):
        calls.append((args, kwargs))
        return Bunch(data=raw[0].astype(np.float64), target=raw[1].astype(str).astype(object))

    monkeypatch.setattr(mnist, "fetch_openml", fetch_openml)
    return calls


@pytest.fixture
def raw_npz(raw, tmp_path):
    images, y = raw[0].reshape(-1, 28, 28), raw[1]
    path = tmp_path / "mnist.npz"
    np.savez(path, train=images[:60], train_y=y[:60], test=images[60:], test_y=y[60:])
    return path


@pytest.fixture
def static_npz(tmp_path):
    rng = np.random.RandomState(1)
    parts = {"train": 50, "valid": 10, "test": 10}
    arrays = {part: rng.randint(2, size=(n, 784)).astype(np.uint8) for part, n in parts.items()}
    np.savez(tmp_path / "static.npz", **arrays)
    return tmp_path / "static.npz", arrays


@pytest.mark.parametrize(
    ("subset", "rows"),
    [
        ("train", slice(0, 50)),
        ("valid", slice(50, 60)),
        ("train+valid", slice(0, 60)),
        ("test", slice(60, 70)),
    ],
)
def test_sources_and_subsets_agree(raw, openml, raw_npz, subset, rows):
    images, y = raw
    fetched = fetch_binarized_mnist(subset=subset, data_home="somewhere")
    assert openml == [(("mnist_784",), dict(version=1, as_frame=False, data_home="somewhere"))]
    assert fetched.data.dtype == np.float32
    assert_allclose(fetched.data, images[rows] / 255, rtol=1e-6)
    assert_array_equal(fetched.target, y[rows])
    assert subset in fetched.DESCR and "dynamic" in fetched.DESCR
    X, target = fetch_binarized_mnist(subset=subset, local_npz=raw_npz, return_X_y=True)
    assert_array_equal(X, fetched.data)
    assert_array_equal(target, fetched.target)
    assert len(openml) == 1


def test_static_draw_has_the_intensities_as_its_means(openml):
    p = fetch_binarized_mnist(subset="test").data
    draws = np.stack(
        [
            fetch_binarized_mnist(subset="test", binarization="static", random_state=seed).data
            for seed in range(300)
        ]
    )
    assert draws.dtype == np.float32
    assert set(np.unique(draws)) == {0, 1}
    assert_array_equal(draws[:, p == 0], 0)
    assert_array_equal(draws[:, p == 1], 1)
    random = (p > 0) & (p < 1)
    z = (draws.mean(axis=0) - p)[random] / np.sqrt(p * (1 - p) / len(draws))[random]
    assert_allclose([z.mean(), z.std()], [0, 1], atol=0.05)


def test_static_draw_follows_the_seed_and_not_the_subset(openml):
    def draw(subset, random_state):
        return fetch_binarized_mnist(
            subset=subset, binarization="static", random_state=random_state
        ).data

    both = np.concatenate([draw("train", 0), draw("valid", 0)])
    assert_array_equal(draw("train+valid", 0), both)
    assert_array_equal(draw("test", 0), draw("test", np.random.RandomState(0)))
    assert not np.array_equal(draw("test", 0), draw("test", 1))
    before = pickle.dumps(np.random.get_state())  # noqa: NPY002
    assert not np.array_equal(draw("test", None), draw("test", None))
    assert pickle.dumps(np.random.get_state()) == before  # noqa: NPY002


def test_static_split_is_returned_as_it_is(static_npz):
    path, arrays = static_npz
    for part, expected in arrays.items():
        X, y = fetch_binarized_mnist(
            subset=part, binarization="static", local_npz=path, return_X_y=True
        )
        assert_array_equal(X, expected)
        assert y is None


def test_static_split_has_no_intensities(static_npz):
    with pytest.raises(ValueError, match="'dynamic' needs intensities"):
        fetch_binarized_mnist(local_npz=static_npz[0])


@pytest.mark.parametrize("parameter", ["subset", "binarization"])
def test_unknown_choices_are_refused(parameter, openml):
    with pytest.raises(ValueError, match=rf"{parameter} must be one of .*; got 'all'"):
        fetch_binarized_mnist(**{parameter: "all"})
    assert not openml


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (None, r"no array 'train'; it has \['test'\]"),
        (np.full((6, 100), 9), "784 pixels; got 100"),
        (np.full((6, 784), 0.5), "integers in 0..255"),
        (np.full((6, 784), 256), "integers in 0..255"),
        (np.full((6, 784), -1), "integers in 0..255"),
        (np.full((6, 784), np.nan), "integers in 0..255"),
    ],
)
def test_wrong_files_are_refused(train, message, tmp_path):
    arrays = {"test": np.full((2, 784), 9)} | ({} if train is None else {"train": train})
    np.savez(tmp_path / "wrong.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        fetch_binarized_mnist(local_npz=tmp_path / "wrong.npz")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.npz"):
        fetch_binarized_mnist(local_npz=tmp_path / "nowhere.npz")
