"""Encoders and decoders in files that run without this package."""

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

# Under this name a file holds what its columns are, as JSON.
COLUMNS = "columns.json"

# Rows of the example that is traced; one row or none would be traced as a special case.
N_TRACED_ROWS = 4


# What goes in and what comes out.
Names = tuple[str, str]


def _write_torch(program: ExportedProgram, path: Path, names: Names, columns: str) -> None:
    # A path must end in ".pt2"; a file may be called anything.
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

    What is exported maps rows, on the scale of X, to what `EnergyVAE.transform` returns, in
    float32, for any number of rows: ``X`` of shape (n, n_features) to ``Z`` of shape (n,
    n_components). Standardisation and ``bounds`` are inside. A missing entry is nan. A category is
    its position in the list of categories, which the file holds as JSON under the name
    ``columns.json``.

    Nothing is checked there: a value outside of its bounds and a category that is not known count
    as missing.

    Parameters
    ----------
    estimator : EnergyVAE
        Fitted.
    path : str or path
        An existing file is replaced in one step. `torch.export.load` wants names to end in
        ``.pt2``, and warns of others.
    format : {"torch", "onnx"}, default="torch"
        "torch" is read by `torch.export.load`, and belongs to the version of PyTorch that wrote it.
        "onnx" is read by ONNX Runtime and others; writing it needs ``pip install 'skevae[onnx]'``.

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
        If ``format`` is none of these, or the network cannot be traced for any number of rows. That
        is so for posteriors that are flows, and may be so for networks of your own.
    ImportError
        If packages that ``format="onnx"`` needs are not installed.
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

    What is exported maps latents to what `EnergyVAE.inverse_transform` returns, in float32, for any
    number of rows: ``Z`` of shape (n, n_components) to ``X`` of shape (n, n_features), on the scale
    of X. Columns of integers are rounded, and a category is its position in the list of categories,
    which the file holds as JSON under the name ``columns.json``.

    Parameters
    ----------
    estimator : EnergyVAE
        Fitted.
    path : str or path
        An existing file is replaced in one step.
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
        If ``format`` is none of these, or the network cannot be traced for any number of rows.
    ImportError
        If packages that ``format="onnx"`` needs are not installed.
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
            f"Categories have to be strings, numbers or booleans to be exported ({error})."
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
            f"The model cannot be exported for any number of rows: {reason} A posterior that is a "
            "flow cannot be; a network of your own has to be one that torch.export can trace."
        ) from error
