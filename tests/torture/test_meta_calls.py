"""Calls drawn at random on ensembles, imputers and outlier detectors of models drawn at random."""

import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
from cases import attempt, make, options, tables
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from sklearn.base import clone
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture
from sklearn.neighbors import KernelDensity
from tally import count
from test_calls import run_machine

from skevae import EnergyEnsemble, EnergyImputer, EnergyOutlierDetector, load_model, save_model

PEERS = [
    GaussianMixture(n_components=2, reg_covar=1e-3),
    BayesianGaussianMixture(n_components=2, reg_covar=1e-3),
    KernelDensity(),
]
METHODS = ["mean", "median", "mode", "draw"]


def same_values(first, second):
    """Whether two arrays or DataFrames hold the same, nan being equal to nan."""
    first, second = (np.asarray(values, dtype=object) for values in (first, second))
    return first.shape == second.shape and bool(((first == second) | (first != first)).all())


@st.composite
def ensembles(draw):
    members = [make(draw(options())) for _ in range(draw(st.integers(1, 2)))]
    members += draw(st.lists(st.sampled_from(PEERS), max_size=2, unique=True))
    return EnergyEnsemble(
        members if draw(st.booleans()) else members[0],
        n_estimators=draw(st.integers(1, 3)),
        stacking=draw(st.booleans()),
        random_state=0,
    )


@st.composite
def imputers(draw):
    return EnergyImputer(
        make(draw(options())),
        method=draw(st.sampled_from(METHODS)),
        sample_posterior=draw(st.booleans()),
        random_state=0,
    )


@st.composite
def detectors(draw):
    estimator = draw(st.one_of(options().map(make), st.sampled_from(PEERS), ensembles()))
    contamination = draw(st.sampled_from([0.01, 0.1, 0.5]))
    return EnergyOutlierDetector(estimator, contamination=contamination, random_state=0)


class MetaCalls(RuleBasedStateMachine):
    """One estimator, fitted once or several times, and any order of calls on it."""

    @initialize(estimator=st.one_of(ensembles(), imputers(), detectors()), data=st.data())
    def begin(self, estimator, data):
        count("random calls: sequences on ensembles, imputers and detectors")
        self.folder = tempfile.TemporaryDirectory()
        self.model, self.rows = estimator, None
        self.fit(data, False)

    def teardown(self):
        if hasattr(self, "folder"):
            self.folder.cleanup()

    def has(self, method):
        return self.rows is not None and hasattr(self.model, method)

    def table(self, data):
        return data.draw(tables(self.folder.name, self.model.n_features_in_))

    def answer(self, X=None):
        """What the estimator says of the rows of its fit; draws are left out."""
        if hasattr(self.model, "score_samples"):
            return attempt(self.model.score_samples, self.rows if X is None else X)
        if self.model.method == "draw" or self.model.sample_posterior:
            return None
        return attempt(self.model.transform, self.rows if X is None else X)

    @rule(data=st.data(), weighted=st.booleans())
    def fit(self, data, weighted):
        X = data.draw(tables(self.folder.name))
        arguments = [X]
        if weighted:
            weights = st.lists(st.sampled_from([0.0, 1.0, 2.0]), min_size=len(X), max_size=len(X))
            arguments += [None, np.array(data.draw(weights))]
        before = None if self.rows is None else self.answer()
        if attempt(self.model.fit, *arguments) is None:
            if self.rows is not None:
                assert same_values(self.answer(), before), "a failed fit left something behind"
            return
        self.rows = X
        # Rows of no weight may have values that others could not have.
        self.some_ignored = weighted
        self.scores(None)

    @precondition(lambda self: self.has("score_samples"))
    @rule(data=st.data())
    def scores(self, data):
        if not self.has("score_samples"):
            return
        X = self.rows if data is None else self.table(data)
        scores = attempt(self.model.score_samples, X)
        if scores is None:
            assert data is not None or self.some_ignored, "rows of the fit were refused"
            return
        assert scores.shape == (len(X),) and not np.isnan(scores).any(), scores
        if hasattr(self.model, "weights_"):
            np.testing.assert_allclose(self.model.weights_.sum(), 1)
        if isinstance(X, np.ndarray) and len(X) > 1:
            part = attempt(self.model.score_samples, X[1::2])
            if part is not None:
                np.testing.assert_allclose(part, scores[1::2], rtol=1e-3, atol=1e-3)

    @precondition(lambda self: self.has("predict"))
    @rule(data=st.data())
    def predict(self, data):
        X = self.table(data) if data.draw(st.booleans()) else self.rows
        labels = attempt(self.model.predict, X)
        if labels is not None:
            assert set(labels) <= {-1, 1}
            margins = attempt(self.model.decision_function, X)
            np.testing.assert_array_equal(labels, np.where(margins < 0, -1, 1))

    @precondition(lambda self: self.has("transform"))
    @rule(data=st.data())
    def transform(self, data):
        X = self.table(data) if data.draw(st.booleans()) else self.rows
        filled = attempt(self.model.transform, X)
        if filled is not None:
            assert len(filled) == len(X)
            values = np.asarray(filled)
            assert values.dtype.kind not in "fc" or np.isfinite(values).all(), values
            # Unknown categories are imputed, if they are treated as missing.
            kept = getattr(self.model.estimator, "handle_unknown", "error") == "error"
            plain = isinstance(X, np.ndarray) and not np.ma.isMaskedArray(X)
            if kept and plain and X.dtype == np.float64:
                there = np.isfinite(X)
                np.testing.assert_array_equal(values[there], X[there])

    @precondition(lambda self: self.has("sample"))
    @rule(n=st.integers(1, 5))
    def sample(self, n):
        rows = attempt(self.model.sample, n)
        assert rows is not None and len(rows) == n
        values = np.asarray(rows)
        assert values.dtype.kind not in "fc" or np.isfinite(values).all(), values

    @precondition(lambda self: self.rows is not None)
    @rule(way=st.sampled_from(["pickle", "file"]))
    def copy(self, way):
        before = self.answer()
        if way == "pickle":
            self.model = pickle.loads(pickle.dumps(self.model))
        else:
            path = attempt(save_model, self.model, Path(self.folder.name) / "model")
            if path is None:  # a kind of scikit-learn's that has no file
                return
            self.model = load_model(path)
        assert same_values(self.answer(), before)

    @rule()
    def clone(self):
        assert repr(clone(self.model)) == repr(self.model)


@pytest.mark.slow
def test_some_calls():
    run_machine(MetaCalls, 0, 3)


@pytest.mark.torture(share=10)
def test_calls(rounds):
    for number in rounds:
        run_machine(MetaCalls, number, 20)
