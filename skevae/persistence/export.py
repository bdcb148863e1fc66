"""Export of encoders and decoders to files that run without this package."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sklearn.utils.validation import check_is_fitted
from torch import nn
from torch.export import Dim, ExportedProgram

from skevae.energy_vae import EnergyVAE
from skevae.persistence.deployed import DeployedDecoder, DeployedEncoder, describe_columns
from skevae.utils.archive import replacing
from skevae.utils.device import own_context

# Name under which a file stores the description of its columns, as JSON.
COLUMNS = "columns.json"

# Number of rows of the traced example; zero or one row would be traced as a special case.
N_TRACED_ROWS = 4


# Names of the input and the output.
Names = tuple[str, str]


def _write_torch(program: ExportedProgram, path: Path, names: Names, columns: str) -> None:
    # A path must end in ".pt2"; a file object may have any name.
    with path.open("wb") as file:
        torch.export.save(program, file, extra_files={COLUMNS: columns})


def _write_onnx(program: ExportedProgram, path: Path, names: Names, columns: str) -> None:
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "format='onnx' needs onnx and onnxscript: pip install 'skevae[onnx]'."
        ) from error
    given, returned = ([name] for name in names)
    exported = torch.onnx.export(
        program, dynamo=True, verbose=False, input_names=given, output_names=returned
    )
    assert exported is not None
    model = exported.model_proto
    onnx.helper.set_model_props(model, {COLUMNS: columns})
    path.write_bytes(model.SerializeToString())


FORMATS: dict[str, Callable[[ExportedProgram, Path, Names, str], None]] = {
    "torch": _write_torch,
    "onnx": _write_onnx,
}


def export_encoder(
    estimator: EnergyVAE, path: str | os.PathLike[str], *, format: str = "torch"
) -> Path:
    """Write the encoder of a fitted model to a file that runs without this package.

    The exported network computes `EnergyVAE.transform` in float32. It maps ``X`` of shape (n,
    n_features), on the original scale, to ``Z`` of shape (n, n_components), for any number of rows.
    Standardisation and ``bounds`` are included. A missing entry is nan. A category is its position
    in the list of categories, which the file contains as JSON under the name ``columns.json``.

    The input is not validated: values outside of their bounds and unknown categories are treated as
    missing.

    Parameters
    ----------
    estimator : EnergyVAE
        A fitted model.
    path : str or path
        Path of the file. An existing file is replaced atomically. `torch.export.load` expects
        names that end in ``.pt2``, and otherwise warns.
    format : {"torch", "onnx"}, default="torch"
        "torch" is read by `torch.export.load` of the version of PyTorch that wrote it. "onnx" is
        read by ONNX Runtime and other engines; writing it needs ``pip install 'skevae[onnx]'``.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    TypeError
        If ``estimator`` is no `EnergyVAE`, or has categories that JSON cannot hold.
    NotFittedError
        If it is not fitted.
    ValueError
        If ``format`` is unknown, or the network cannot be traced for any number of rows. This is
        the case for flow posteriors, and may be the case for custom networks.
    ImportError
        If the packages that ``format="onnx"`` needs are not installed.
    OSError
        If the file cannot be written.

    See Also
    --------
    export_decoder : Write the decoder.
    save_model : Save the whole model.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> import torch
    >>> from sklearn.datasets import load_iris
    >>> from skevae import EnergyVAE, export_encoder
    >>> X = load_iris().data.astype(np.float32)
    >>> vae = EnergyVAE(2, hidden_layer_sizes=(8,), max_iter=1, random_state=0).fit(X)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = export_encoder(vae, Path(folder) / "encoder.pt2")
    ...     encoder = torch.export.load(path).module()
    >>> np.allclose(encoder(torch.from_numpy(X)).detach(), vae.transform(X), atol=1e-5)
    True
    """
    _check(estimator, "export_encoder", format)
    n_features = estimator.n_features_in_
    return _export(estimator, DeployedEncoder, n_features, ("X", "Z"), path, format)


def export_decoder(
    estimator: EnergyVAE, path: str | os.PathLike[str], *, format: str = "torch"
) -> Path:
    """Write the decoder of a fitted model to a file that runs without this package.

    The exported network computes `EnergyVAE.inverse_transform` in float32. It maps ``Z`` of shape
    (n, n_components) to ``X`` of shape (n, n_features), on the original scale, for any number of
    rows. Integer columns are rounded, and a category is its position in the list of categories,
    which the file contains as JSON under the name ``columns.json``.

    Parameters
    ----------
    estimator : EnergyVAE
        A fitted model.
    path : str or path
        Path of the file. An existing file is replaced atomically.
    format : {"torch", "onnx"}, default="torch"
        As for `export_encoder`.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    TypeError
        If ``estimator`` is no `EnergyVAE`, or has categories that JSON cannot hold.
    NotFittedError
        If it is not fitted.
    ValueError
        If ``format`` is unknown, or the network cannot be traced for any number of rows.
        ImportError
        If the packages that ``format="onnx"`` needs are not installed.
    OSError
        If the file cannot be written.

    See Also
    --------
    export_encoder : Write the encoder.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> import torch
    >>> from sklearn.datasets import load_iris
    >>> from skevae import EnergyVAE, export_decoder
    >>> X = load_iris().data
    >>> vae = EnergyVAE(2, hidden_layer_sizes=(8,), max_iter=1, random_state=0).fit(X)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = export_decoder(vae, Path(folder) / "decoder.pt2")
    ...     decoder = torch.export.load(path).module()
    >>> Z = np.zeros((3, 2), dtype=np.float32)
    >>> np.allclose(decoder(torch.from_numpy(Z)).detach(), vae.inverse_transform(Z), atol=1e-5)
    True
    """
    _check(estimator, "export_decoder", format)
    n_latent = estimator.module_.density.n_latent
    return _export(estimator, DeployedDecoder, n_latent, ("Z", "X"), path, format)


def _check(estimator: Any, function: str, format: str) -> None:
    if not isinstance(estimator, EnergyVAE):
        raise TypeError(f"{function} exports a fitted EnergyVAE, got {estimator!r}.")
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(map(repr, FORMATS))}, got {format!r}.")
    check_is_fitted(estimator, "module_")


def _export(
    estimator: EnergyVAE,
    make: Callable[[EnergyVAE], nn.Module],
    n_inputs: int,
    names: Names,
    path: str | os.PathLike[str],
    format: str,
) -> Path:
    try:
        columns = json.dumps(describe_columns(estimator))
    except TypeError as error:
        raise TypeError(
            f"Categories must be strings, numbers or booleans to be exported ({error})."
        ) from error
    path = Path(path)
    with own_context(), torch.no_grad():
        module = make(estimator).eval()
        program = _traced(module, n_inputs)
        with replacing(path) as aside:
            FORMATS[format](program, aside, names, columns)
    return path


def _traced(module: nn.Module, n_inputs: int) -> ExportedProgram:
    example = torch.zeros((N_TRACED_ROWS, n_inputs))
    try:
        return torch.export.export(module, (example,), dynamic_shapes=({0: Dim("rows")},))
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"The model cannot be exported for any number of rows: {reason} Models with flow "
            "posteriors cannot be exported, and a custom network must be traceable by torch.export."
        ) from error
