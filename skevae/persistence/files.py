"""Save and load models."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sklearn.base import BaseEstimator

# Each module registers the kinds of values that it defines.
from skevae.persistence import frames, values  # noqa: F401  isort: skip
from skevae.persistence import objects  # noqa: F401  isort: skip
from skevae.persistence.graph import Decoder, Encoder
from skevae.utils.archive import ArchiveError, read_archive, write_archive

# Kind of the file, with the version of its format.
KIND = "skevae model 1"


def save_model(estimator: Any, path: str | os.PathLike[str]) -> Path:
    """Save a model to a file that holds no executable code.

    The file is in the safetensors format, with a checksum; everything that is not an array is
    stored as JSON. It contains parameters and fitted attributes, so a loaded model is the same as
    an unpickled one, and its training can be continued. Unlike a pickle, it can be loaded from
    untrusted sources.

    Parameters
    ----------
    estimator : estimator
        Any estimator of this package, fitted or not, nested or not. It may contain
        `GaussianMixture`, `BayesianGaussianMixture` and `KernelDensity` from scikit-learn. For
        custom functions and classes, only the names are stored, and the attributes of their
        objects: pass the functions and classes to `load_model` as ``custom``. Callbacks are left
        out.
    path : str or path
        Path of the file. An existing file is replaced atomically: even after a failure, the
        complete old or new file exists. Links are followed.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    TypeError
        If ``estimator`` is not an estimator, or contains an object that cannot be stored, such as
        another scikit-learn estimator or two functions of the same name, such as two lambdas.
    OSError
        If the file cannot be written, or ``path`` is a folder or a device.

    See Also
    --------
    load_model : Load a saved model.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from sklearn.datasets import load_iris
    >>> from skevae import GaussianBernoulliRBMPrior, load_model, save_model
    >>> X = load_iris().data
    >>> model = GaussianBernoulliRBMPrior(4, max_iter=5, random_state=0).fit(X)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = save_model(model, Path(folder) / "iris.skevae")
    ...     again = load_model(path)
    >>> bool(again.score(X) == model.score(X))
    True
    """
    if isinstance(estimator, type) or not isinstance(estimator, BaseEstimator):
        raise TypeError(f"save_model saves estimators, got {estimator!r}.")
    encoder = Encoder()
    root = encoder(estimator, type(estimator).__name__)
    document = {"custom": sorted(encoder.given), "root": root, "table": encoder.table}
    path = Path(path)
    write_archive(path, KIND, document)
    return path


def load_model(path: str | os.PathLike[str], *, custom: Mapping[str, Any] | None = None) -> Any:
    """Load a model that `save_model` saved.

    No code in the file is executed, and the file cannot cause imports. It can only name the classes
    of this package and a fixed list of layers and density estimators. The author of the file still
    determines what the model computes, and its parameters: before you train a model from an
    untrusted source, check ``checkpoint_dir``, where `fit` would write files.

    Parameters
    ----------
    path : str or path
    custom : dict of str to function or class, default=None
        Custom functions and classes of the model, by name (``__qualname__``): for
        ``EnergyVAE(network=my_network)``, pass ``{"my_network": my_network}``. They are trusted.
        The attributes of their objects are restored; constructors are not called.

    Returns
    -------
    estimator

    Raises
    ------
    ArchiveError
        A ValueError. If the file is damaged, is not a model, was written by a newer version, or
        needs functions or classes that are missing in ``custom``.
    OSError
        If the file cannot be opened.
    TypeError
        If ``custom`` is not a dict.
    ImportError
        If the model contains a flow and zuko is not installed.

    See Also
    --------
    save_model : Save a model.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from torch import nn
    >>> from skevae import EnergyVAE, load_model, save_model
    >>> def affine(n_inputs, n_outputs, hidden_layer_sizes):
    ...     return nn.Linear(n_inputs, n_outputs)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = save_model(EnergyVAE(network=affine), Path(folder) / "model.skevae")
    ...     again = load_model(path, custom={"affine": affine})
    >>> again.network is affine
    True
    """
    if not isinstance(custom, Mapping | None):
        raise TypeError(f"custom must be a dict of names to functions or classes, got {custom!r}.")
    given = dict(custom or {})
    path = Path(path)
    document = read_archive(path, KIND)
    try:
        missing = [name for name in document["custom"] if name not in given]
        if missing:
            needed = ", ".join(f"{str(name)!r}: ..." for name in missing)
            raise ArchiveError(
                f"it was made with functions or classes that are not stored. Call "
                f"load_model(path, custom={{{needed}}}) with them"
            )
        estimator = Decoder(document["table"], given)(document["root"])
        if not isinstance(estimator, BaseEstimator):
            raise ArchiveError(f"it holds a {type(estimator).__name__}, and no estimator")
        return estimator
    except ImportError:
        raise
    except Exception as error:
        # A file with a correct checksum may still be malicious.
        raise ArchiveError(f"{path} cannot be loaded as a model: {error}.") from error
