"""On a Dask cluster searches, scores and draws are those of one process."""

import os
import signal

import joblib
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV

from skevae import EnergyVAE, GaussianBernoulliRBMPrior

distributed = pytest.importorskip("distributed", reason="the cluster needs dask.distributed")
dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")
dd = pytest.importorskip("dask.dataframe", reason="the tables need dask.dataframe")

pytestmark = pytest.mark.slow

X_IRIS = load_iris().data


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """Two workers of one thread each, in processes of their own that nannies look after."""
    config = {"temporary-directory": str(tmp_path_factory.mktemp("dask"))}
    size = {"n_workers": 2, "threads_per_worker": 1, "processes": True}
    with (
        dask.config.set(config),
        distributed.LocalCluster(**size, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def small(**params):
    defaults = {"n_components": 3, "hidden_layer_sizes": (8,), "max_iter": 2, "random_state": 0}
    return EnergyVAE(**{**defaults, "n_score_draws": 100, **params})


def searched(scoring=None):
    vae = small(prior=GaussianBernoulliRBMPrior())
    return GridSearchCV(vae, {"prior__n_components": [4, 8]}, cv=3, scoring=scoring).fit(X_IRIS)


def assert_same_search(found, expected):
    assert found.best_params_ == expected.best_params_
    for name, values in expected.cv_results_.items():
        if "time" not in name:
            assert_array_equal(found.cv_results_[name], values, name)
    assert found.best_estimator_.score(X_IRIS) == expected.best_estimator_.score(X_IRIS)


@pytest.fixture(scope="module")
def local_search():
    return searched()


def n_threads():
    import torch

    return torch.get_num_threads()


def test_a_search_is_the_local_one_to_the_bit(client, local_search):
    # Sums in another number of threads are rounded in another way.
    assert {*client.run(n_threads).values(), n_threads()} == {1}
    with joblib.parallel_config("dask", scatter=[X_IRIS]):
        assert_same_search(searched(), local_search)


def test_a_killed_worker_costs_nothing_but_time(client, local_search, tmp_path):
    before = set(client.run(os.getpid).values())
    sign = tmp_path / "killed"

    def score(model, X, y=None):
        if not sign.exists():
            sign.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return model.score(X)

    # What is scattered lies on every worker. What joblib sends by itself lies on one, and dies with
    # it.
    with joblib.parallel_config("dask", scatter=[X_IRIS]):
        search = searched(scoring=score)
    assert sign.exists()
    client.wait_for_workers(2, timeout=120)
    assert len(before - set(client.run(os.getpid).values())) == 1
    assert_same_search(search, local_search)


def score(rows, model):
    return model.score_samples(rows)


def test_scores_of_the_blocks_of_an_array(client):
    model = small().fit(X_IRIS)
    rows = da.from_array(X_IRIS, chunks=(40, -1))
    shared = client.scatter(model, broadcast=True)
    scores = rows.map_blocks(score, model=shared, drop_axis=1, dtype=float).compute()
    blocks = [model.score_samples(X_IRIS[start : start + 40]) for start in range(0, 150, 40)]
    assert_array_equal(scores, np.concatenate(blocks))
    assert_allclose(scores, model.score_samples(X_IRIS), rtol=1e-12)


@pytest.fixture(scope="module")
def table():
    """Numbers and categories, a tenth of the entries missing."""
    frame = pd.DataFrame(X_IRIS, columns=["a", "b", "c", "d"])
    names = load_iris().target_names
    frame["kind"] = pd.Categorical.from_codes(load_iris().target, names)
    return frame.mask(np.random.RandomState(0).rand(*frame.shape) < 0.1)


@pytest.fixture(scope="module")
def table_model(table):
    return small().fit(table)


def score_part(part, model):
    return pd.Series(model.score_samples(part), part.index)


def test_scores_of_the_partitions_of_a_table(client, table, table_model):
    # The last partition has only one of the categories.
    parts = dd.from_pandas(table, npartitions=3)
    shared = client.scatter(table_model, broadcast=True)
    found = parts.map_partitions(score_part, model=shared, meta=("score", float)).compute()
    assert_array_equal(found.index, table.index)
    assert_allclose(found, table_model.score_samples(table), rtol=1e-12)


def draw(seed, model):
    return model.sample(50, random_state=int(seed))


def test_partitions_are_drawn_with_seeds_of_their_own(client, table_model):
    seeds = np.random.SeedSequence(0).generate_state(3)
    meta = table_model.sample().head(0)
    shared = client.scatter(table_model, broadcast=True)
    drawn = dd.from_map(draw, seeds, model=shared, meta=meta).compute(scheduler=client)
    expected = [draw(seed, table_model) for seed in seeds]
    pd.testing.assert_frame_equal(drawn, pd.concat(expected))
    assert not expected[0].equals(expected[1]) and not expected[1].equals(expected[2])
