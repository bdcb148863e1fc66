"""Tables and options drawn at random, and what holds for each call on them."""

import traceback
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import sklearn
import torch
from hypothesis import strategies as st
from sklearn.exceptions import NotFittedError
from sklearn.mixture import GaussianMixture
from small_priors import small_prior
from tally import count

import skevae
from skevae import EnergyVAE
from skevae.likelihoods import LIKELIHOODS
from skevae.networks import NETWORKS, ConvResNet
from skevae.partitions import PARTITIONS
from skevae.posteriors import POSTERIORS
from skevae.priors import PRIORS
from skevae.training import OBJECTIVES

DOCUMENTED = (ValueError, TypeError, NotFittedError)
# Where an error has to be raised to have been thought of.
OURS = tuple(str(Path(module.__file__).parent) for module in (skevae, sklearn))
# What NumPy says to a string in a column of numbers, which scikit-learn lets through.
CONVERSION = ("could not convert string to float",)


def global_states():
    numpy_state = np.random.get_state()  # noqa: NPY002
    return numpy_state[1].tobytes(), numpy_state[2], torch.get_rng_state().numpy().tobytes()


def content(X):
    """What an argument holds, to be compared later."""
    if isinstance(X, np.ma.MaskedArray):
        return X.data.tobytes(), np.ma.getmaskarray(X).tobytes()
    if isinstance(X, np.ndarray) and X.dtype != object:
        return X.tobytes()
    # As text, in which a nan equals a nan.
    return repr(X.to_dict() if isinstance(X, pd.DataFrame) else X)


def fitted_state(model):
    """Everything that calls other than fits must leave as it is."""
    if not hasattr(model, "module_"):
        return None
    tensors = {k: v.numpy().tobytes() for k, v in model.module_.state_dict().items()}
    return tensors, {k: v.tobytes() for k, v in model.history_.items()}, model.n_iter_


def attempt(call, *arguments):
    """Result of a call, or None after an error of a documented kind with words of our own.

    Holds that global states and arguments are what they were.
    """
    before, given = global_states(), [content(X) for X in arguments]
    result = None
    count("random calls: calls")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            result = call(*arguments)
        except DOCUMENTED as error:
            origin = traceback.extract_tb(error.__traceback__)[-1].filename
            known = origin.startswith(OURS) or any(words in str(error) for words in CONVERSION)
            if not known or len(str(error)) < 15:
                raise AssertionError(f"an error nobody thought of: {error!r}") from error
            count("random calls: calls refused with an error of a documented kind")
    assert global_states() == before, "a global generator was used"
    assert [content(X) for X in arguments] == given, "an argument was changed"
    return result


# --- tables --------------------------------------------------------------------------------------

CONTAINERS = ["array", "fortran", "read-only", "reversed", "list", "frame", "masked", "memmap"]
CONTAINERS += ["tensor", "polars"]
DTYPES = ["float64", "float32", "float16", "longdouble", "int64", "uint8", "bool", "object"]
SCALES = [1e-12, 1.0, 1e12]
OFFSETS = [0.0, 0.0, 1e9]


@st.composite
def numbers(draw, n_columns=None, unit=False):
    """A table of numbers of some dtype, as float64 or what it was cast to."""
    n_rows = draw(st.integers(1, 30))
    n_columns = draw(st.integers(1, 4)) if n_columns is None else n_columns
    rng = np.random.RandomState(draw(st.integers(0, 2**16)))
    X = rng.normal(size=(n_rows, n_columns))
    if unit:
        X = 1 / (1 + np.exp(-X))
        return X.round() if draw(st.booleans()) else X
    X *= draw(st.sampled_from(SCALES))
    X += draw(st.sampled_from(OFFSETS))
    oddity = draw(st.sampled_from(["none"] * 4 + ["equal columns", "constant", "but for a row"]))
    if oddity == "equal columns":
        X[:] = X[:, :1]
    elif oddity != "none":
        X[:, 0] = X[0, 0]
        if oddity == "but for a row":
            X[-1, 0] += 1
    dtype = draw(st.sampled_from(DTYPES))
    with np.errstate(all="ignore"):
        X = np.clip(X, -1e4, 1e4) if dtype in ("float16", "int64", "uint8") else X
        X = np.abs(X) if dtype == "uint8" else X
        X = X.astype(dtype)
    if X.dtype.kind in "fO" and draw(st.booleans()):
        holes = rng.uniform(size=X.shape) < draw(st.sampled_from([0.1, 0.5, 0.95]))
        X[holes] = np.nan
    return X


@st.composite
def tables(draw, folder, n_columns=None, unit=False):
    """A table in some container."""
    X = draw(numbers(n_columns, unit))
    return draw_container(draw, X, folder)


def draw_container(draw, X, folder):
    kind = draw(st.sampled_from(CONTAINERS))
    if kind == "fortran":
        return np.asfortranarray(X)
    if kind == "read-only":
        X = X.copy()
        X.flags.writeable = False
    elif kind == "reversed":
        return X[::-1, ::-1]
    elif kind == "list":
        return X.tolist()
    elif kind == "masked" and X.dtype.kind == "f":
        return np.ma.masked_invalid(X)
    elif kind == "memmap" and X.dtype != object:
        path = Path(folder) / "rows"
        path.unlink(missing_ok=True)
        X.tofile(path)
        return np.memmap(path, X.dtype, "r", shape=X.shape)
    elif kind == "tensor" and X.dtype not in (object, np.longdouble):
        return torch.from_numpy(X.copy())
    elif kind in ("frame", "polars") and X.dtype not in (np.float16, np.longdouble):
        columns = {f"c{j}": X[:, j] for j in range(X.shape[1])}
        if draw(st.booleans()):
            words = np.array(["a", "b", "c"], dtype=object)
            columns["c0"] = words[np.nan_to_num(X[:, 0].astype(float), posinf=0).astype(int) % 3]
        if kind == "frame":
            return pd.DataFrame(columns)
        try:
            import polars
        except ImportError:
            return pd.DataFrame(columns)
        return polars.DataFrame({k: v.tolist() for k, v in columns.items()}, strict=False)
    return X


# --- options -------------------------------------------------------------------------------------

SOMETIMES = {
    "mask_rate": [0.3],
    "standardize": [False],
    "early_stopping": [False],
    "batch_size": [1, 7],
    "kl_warmup": [0.0, 1.0],
    "n_draws": [1],
    "precision": ["bfloat16"],
    "handle_unknown": ["missing"],
    "learning_rate": [1e-12, 10.0],
    "ex_post": [GaussianMixture(1, random_state=0)],
    "n_score_draws": [1, 120],
    "hidden_layer_sizes": [(), (3, 2)],
    "bounds": [{0: (0.0, None)}, {0: (-1e15, 1e15)}],
    "categorical_features": [[0], None],
    "integer_features": [[0], None],
    "partition": list(PARTITIONS),
    "network": [*NETWORKS, ConvResNet((2, 1)), ConvResNet((2, 2)), ConvResNet((3, 1, 1))],
    "random_state": [None],
}

PRIOR_NAMES = st.sampled_from(list(PRIORS))


def a_prior(name):
    return small_prior(name, n_annealing_steps=10)


@st.composite
def options(draw):
    """Parameters of an EnergyVAE; those of SOMETIMES only sometimes."""
    chosen = {
        "n_components": draw(st.integers(1, 3)),
        "hidden_layer_sizes": (4,),
        "prior": a_prior(draw(PRIOR_NAMES)),
        "posterior": draw(st.sampled_from(list(POSTERIORS))),
        "likelihood": draw(st.sampled_from(list(LIKELIHOODS))),
        "objective": draw(st.sampled_from(list(OBJECTIVES))),
        "max_iter": 2,
        "n_draws": 2,
        "n_score_draws": 20,
        "random_state": 0,
    }
    for name in draw(st.sets(st.sampled_from(list(SOMETIMES)), max_size=4)):
        chosen[name] = draw(st.sampled_from(SOMETIMES[name]))
    return chosen


def make(params):
    return EnergyVAE(**params)
