"""Calls drawn at random on models and tables drawn at random, one after the other."""

import copy
import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
from cases import DOCUMENTED, PRIOR_NAMES, a_prior, attempt, fitted_state, make, options, tables
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sklearn.base import clone
from tally import count

from skevae import load_model, save_model

SCORES = ["score_samples", "log_likelihood", "score_features"]


def fitted(machine):
    return hasattr(machine.model, "module_")


class Calls(RuleBasedStateMachine):
    """One model after the other, and any order of calls on it."""

    @initialize(params=options(), data=st.data())
    def begin(self, params, data):
        count("random calls: sequences")
        self.folder = tempfile.TemporaryDirectory()
        self.model, self.rows = make(params), None
        # Half of the models begin fitted: an error at the first fit leaves little to try.
        self.fit("fit", data, False)

    def teardown(self):
        if hasattr(self, "folder"):
            self.folder.cleanup()

    def table(self, data, same_width=True):
        width = self.model.n_features_in_ if fitted(self) and same_width else None
        unit = self.model.likelihood == "bernoulli" and data.draw(st.integers(0, 9)) > 0
        return data.draw(tables(self.folder.name, width, unit))

    @rule(method=st.sampled_from(["fit", "partial_fit"]), data=st.data(), weighted=st.booleans())
    def fit(self, method, data, weighted):
        before = fitted_state(self.model)
        X = self.table(data, same_width=method == "partial_fit")
        arguments = [X]
        if weighted:
            weights = st.sampled_from([0.0, 1.0, 1e-300, 1e300, 2.0])
            arguments += [
                None,
                np.array(data.draw(st.lists(weights, min_size=len(X), max_size=len(X)))),
            ]
        if attempt(getattr(self.model, method), *arguments) is None:
            after = fitted_state(self.model)
            # An ex-post density that fails comes after the training, which is kept.
            assert self.model.ex_post is not None or after is None or after == before, (
                "a failed fit left something behind"
            )
            return
        assert fitted(self)
        # With a learning rate of 10, training may diverge in the first epoch.
        assert self.model.n_iter_ >= 1 or self.model.best_n_iter_ == 0
        self.rows = X
        # Rows of no weight may have values that others could not have.
        self.some_ignored = weighted
        self.score("score_samples", None)

    @rule(change=st.sampled_from(["prior", "warm_start", "n_score_draws", "other"]), data=st.data())
    def set_params(self, change, data):
        if change == "prior":
            self.model.set_params(prior=a_prior(data.draw(PRIOR_NAMES)))
        elif change == "warm_start":
            self.model.set_params(warm_start=not self.model.warm_start)
        elif change == "n_score_draws":
            self.model.set_params(n_score_draws=data.draw(st.sampled_from([1, 2, 20, 120])))
        else:
            drawn = data.draw(options())
            name = data.draw(st.sampled_from(sorted(drawn)))
            self.model.set_params(**{name: drawn[name]})

    @rule(way=st.sampled_from(["pickle", "file", "deepcopy"]))
    def copy(self, way):
        old = self.model
        if way == "pickle":
            self.model = pickle.loads(pickle.dumps(old))
        elif way == "deepcopy":
            self.model = copy.deepcopy(old)
        else:
            path = attempt(save_model, old, Path(self.folder.name) / "model")
            if path is None:  # categories of an odd dtype, say
                return
            self.model = load_model(path)
        assert fitted_state(self.model) == fitted_state(old)
        if self.rows is not None:
            self.same(attempt(old.score_samples, self.rows), self.model, self.rows)

    @rule()
    def clone(self):
        copied = clone(self.model)
        assert not hasattr(copied, "module_")
        assert repr(copied) == repr(self.model)

    def same(self, scores, model, X):
        again = attempt(model.score_samples, X)
        assert (again is None) == (scores is None)
        if scores is not None:
            np.testing.assert_array_equal(again, scores)

    @precondition(fitted)
    @rule(
        method=st.sampled_from(["score_samples", "log_likelihood", "score_features"]),
        data=st.data(),
    )
    def score(self, method, data):
        """Scores of the rows of the fit are finite; those of others are no nan."""
        before = fitted_state(self.model)
        X = self.rows if data is None else self.table(data)
        scores = attempt(getattr(self.model, method), X)
        assert fitted_state(self.model) == before
        if scores is None:
            assert data is not None or self.some_ignored, "rows of the fit were refused"
            return
        if method == "score_features":
            return
        if method == "log_likelihood":
            scores = scores.log_likelihood
        assert scores.shape == (len(X),) and not np.isnan(scores).any(), scores
        if data is None:
            assert np.isfinite(scores).all(), scores
        assert scores.dtype.kind == "f"
        if hasattr(X, "iloc") or isinstance(X, np.ndarray):
            some = X.iloc[1::2] if hasattr(X, "iloc") else X[1::2]
            if len(some):
                part = attempt(self.model.score_samples, some)
                if part is not None:
                    tolerance = 1e-9 if scores.dtype == part.dtype == np.float64 else 1e-3
                    # Rounding of rows that are 10^12 standard deviations away.
                    tolerance *= 10 if np.abs(scores).max() > 1e6 else 1
                    np.testing.assert_allclose(part, scores[1::2], rtol=tolerance, atol=tolerance)

    @precondition(fitted)
    @rule(method=st.sampled_from(["transform", "reconstruct", "impute"]), data=st.data())
    def look(self, method, data):
        before = fitted_state(self.model)
        X = self.table(data) if data.draw(st.booleans()) or self.rows is None else self.rows
        result = attempt(getattr(self.model, method), X)
        assert fitted_state(self.model) == before
        if result is not None:
            assert len(result) == len(X)
            values = np.asarray(result)
            assert values.dtype.kind not in "fc" or np.isfinite(values).all(), values

    @precondition(fitted)
    @rule(n=st.integers(1, 5))
    def sample(self, n):
        before = fitted_state(self.model)
        result = attempt(self.model.sample, n)
        assert result is not None and len(result) == n
        values = np.asarray(result)
        assert values.dtype.kind not in "fc" or np.isfinite(values).all(), values
        assert fitted_state(self.model) == before

    @precondition(lambda self: not fitted(self))
    @rule(method=st.sampled_from(["score_samples", "transform", "sample", "impute"]))
    def too_early(self, method):
        arguments = () if method == "sample" else ([[0.0]],)
        with pytest.raises(DOCUMENTED, match="not fitted"):
            getattr(self.model, method)(*arguments)


def run_machine(kind, number, n_examples):
    """Try sequences of calls; the seed is ``number``."""
    machine = seed(number)(type(kind.__name__, (kind,), {}))
    # Nothing is kept between runs: the seed is all that a repetition needs.
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=n_examples,
            stateful_step_count=8,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            # Not made smaller, which takes many times as long as finding it.
            phases=[Phase.generate],
        ),
    )


@pytest.mark.slow
def test_some_calls():
    run_machine(Calls, 0, 4)


@pytest.mark.torture(share=15)
def test_calls(rounds):
    for number in rounds:
        run_machine(Calls, number, 50)
