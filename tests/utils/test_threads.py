"""Small work uses one thread, large work all of them, and chunks are divided among threads."""

import threading
import time

import numpy as np
import pytest
import torch
from sklearn import config_context, get_config
from torch import nn

from skevae import EnergyVAE, GaussianBernoulliRBMPrior
from skevae.utils.threads import SMALL_STEP, in_threads, is_small, n_threads, one_thread


def test_work_is_the_number_of_weights_times_the_rows():
    layer = nn.Linear(2**10, 2**6, bias=False)
    at_most = SMALL_STEP // 2**16
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


# --- several items at the same time ---------------------------------------------------------------


def test_results_are_in_the_order_of_the_items():
    def slow_first(item):
        time.sleep(0.05 if item == 0 else 0.0)
        return item**2

    assert in_threads(slow_first, range(5), 2) == [0, 1, 4, 9, 16]


def test_items_are_computed_at_the_same_time():
    together = threading.Barrier(2, timeout=30)
    in_threads(lambda item: together.wait(), range(2), 2)
    together = threading.Barrier(2, timeout=0.1)
    with pytest.raises(threading.BrokenBarrierError):
        in_threads(lambda item: together.wait(), range(2), 1)


def test_items_have_one_thread_and_the_configuration_of_the_caller(two_threads):
    def seen(item):
        torch.ones(2**20).exp()
        return torch.get_num_threads(), get_config()["working_memory"]

    with config_context(working_memory=3):
        assert in_threads(seen, range(4), 2) == [(1, 3)] * 4
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_an_error_no_item_is_begun(error):
    begun = []

    def failing(item):
        begun.append(item)
        if item == 0:
            raise error
        time.sleep(0.02)

    with pytest.raises(error):
        in_threads(failing, range(100), 2)
    assert len(begun) < 100


def test_a_gpu_has_one_queue(two_threads):
    assert n_threads(torch.device("cpu")) == 2
    assert n_threads(torch.device("cuda")) == 1
