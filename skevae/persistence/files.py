"""Save and load models."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sklearn.base import BaseEstimator

# Each adds the kinds of values that it knows.
from skevae.persistence import frames, values  # noqa: F401  isort: skip
from skevae.persistence import objects  # noqa: F401  isort: skip
from skevae.persistence.graph import Decoder, Encoder
from skevae.utils.archive import ArchiveError, read_archive, write_archive

# What a file holds, with the version of its format.
KIND = "skevae model 1"


def save_model(estimator: Any, path: str | os.PathLike[str]) -> Path:
    """Save a model to a file that holds no executable code.

    The file is in the safetensors format, with everything that is no array as JSON beside the
    arrays, and a checksum. It holds parameters and fitted attributes, so that a loaded model is the
    same as an unpickled one, and goes on training as that would. Unlike a pickle it can be loaded
    from sources that are not trusted.

    Parameters
    ----------
    estimator : estimator
        Any estimator of this package, fitted or not, nested or not. Inside it there may be
        `GaussianMixture`, `BayesianGaussianMixture` and `KernelDensity` of scikit-learn. Of
        functions and classes of your own only the name is stored, and of your objects their
        attributes: pass the functions and classes to `load_model` as ``custom``.
    path : str or path
        An existing file is replaced in one step: whatever happens, there is the old file or the
        new one. Links are followed.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    TypeError
        If ``estimator`` is no estimator, or it holds something that the file cannot hold, such as
        another scikit-learn estimator, callbacks or a lambda function beside another.
    OSError
        If the file cannot be written, or a folder or a device has its name.

    See Also
    --------
    load_model : Load what was saved.

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

    Nothing in the file is executed, and nothing is imported because the file says so. What it can
    name are the classes of this package and a fixed list of layers and density estimators. Whoever
    made the file still decides what the model computes, and its parameters: look at
    ``checkpoint_dir``, where `fit` would write, before you train a model of a stranger.

    Parameters
    ----------
    path : str or path
    custom : dict of str to function or class, default=None
        Your functions and classes that the model was made with, by name (``__qualname__``): for
        ``EnergyVAE(network=my_network)`` it is ``{"my_network": my_network}``. They are trusted.
        Objects of your classes get their attributes back; constructors are not called.

    Returns
    -------
    estimator

    Raises
    ------
    ArchiveError
        A ValueError. If the file is damaged, is no model, was written by a newer version, or needs
        functions or classes that ``custom`` does not have.
    OSError
        If the file cannot be opened.
    TypeError
        If ``custom`` is no dict.
    ImportError
        If the model has a flow and zuko is not installed.

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
        # A file whose checksum is right may still have been made to mislead.
        raise ArchiveError(f"{path} cannot be loaded as a model: {error}.") from error
