"""Small steps of training use one thread, others all of them."""

import threading

import numpy as np
import pytest
import torch
from torch import nn

from skevae import EnergyVAE, GaussianBernoulliRBMPrior
from skevae.utils.threads import SMALL_MULTIPLY_ADDS, is_small, one_thread


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_work_is_the_number_of_weights_times_the_rows():
    layer = nn.Linear(2**10, 2**6, bias=False)
    at_most = SMALL_MULTIPLY_ADDS // 2**16
    assert is_small(layer, at_most)
    assert not is_small(layer, at_most + 1)


def test_convolutions_are_not_small():
    assert not is_small(nn.Conv2d(1, 1, 3), 1)


def test_the_number_of_threads_is_restored(two_threads):
    with pytest.raises(KeyboardInterrupt), one_thread(True):
        assert torch.get_num_threads() == 1
        raise KeyboardInterrupt
    assert torch.get_num_threads() == 2


def test_other_threads_of_python_are_not_changed(two_threads):
    seen = []
    with one_thread(True):
        other = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        other.start()
        other.join()
    assert seen == [2]


def test_one_thread_holds_in_a_new_thread_of_python(two_threads):
    # In each thread of Python, torch sets the number of threads at its first operation.
    seen = []

    def first_use():
        with one_thread(True):
            torch.ones(2**20).exp()
            seen.append(torch.get_num_threads())
        seen.append(torch.get_num_threads())

    other = threading.Thread(target=first_use)
    other.start()
    other.join()
    assert seen == [1, 2]


class Noting(nn.Sequential):
    """A network that notes the number of threads with which it is trained."""

    def forward(self, x):
        if self.training:
            self.threads = torch.get_num_threads()
        return super().forward(x)


def noting(n_inputs, n_outputs, hidden_layer_sizes):
    sizes = [n_inputs, *hidden_layer_sizes, n_outputs]
    return Noting(*(nn.Linear(*pair) for pair in zip(sizes[:-1], sizes[1:], strict=True)))


def threads_of_fit(**params):
    X = np.random.default_rng(0).normal(size=(40, 2))
    model = EnergyVAE(2, network=noting, max_iter=1, batch_size=20, random_state=0, **params)
    return model.fit(X).module_.encoder.threads


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"hidden_layer_sizes": (8,), "prior": "normal"}, 1),
        ({"hidden_layer_sizes": (1024, 1024), "prior": "normal"}, 2),
        ({"hidden_layer_sizes": (8,), "prior": GaussianBernoulliRBMPrior(4)}, 1),
    ],
)
def test_fit_uses_one_thread_for_small_networks(two_threads, params, expected):
    assert threads_of_fit(**params) == expected
    assert torch.get_num_threads() == 2


def test_fit_uses_all_threads_for_an_expensive_partition(two_threads, monkeypatch):
    monkeypatch.setattr("skevae.densities.gaussian_bernoulli.EXACT_TRAINING_UNITS", 3)
    prior = GaussianBernoulliRBMPrior(4, partition="exact")
    assert threads_of_fit(hidden_layer_sizes=(8,), prior=prior) == 2
