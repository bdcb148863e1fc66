"""Files with tensors and plain values, which are read without executing code.

An archive is a safetensors file. Its header lists the tensors, and its metadata contain the plain
values as JSON, a format name and a checksum of everything else. It contains no code, so a damaged
or malicious file can only cause an error.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

# Marks a tensor, or a number that JSON cannot represent, among the plain values.
TENSOR, NUMBER = "__tensor__", "__number__"

NUMBERS = {repr(number): number for number in (math.nan, math.inf, -math.inf)}


class ArchiveError(ValueError):
    """A file that is not a readable archive of the expected format."""


def _flatten(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Replace tensors by references into ``tensors``; the result is valid JSON."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {TENSOR: name}
    if isinstance(value, dict):
        return {str(key): _flatten(part, tensors) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_flatten(part, tensors) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {NUMBER: repr(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"An archive holds tensors, numbers, strings, lists and dicts, got {value!r}.")


def _restore(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_restore(part, tensors) for part in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {TENSOR}:
        return tensors[value[TENSOR]]
    if value.keys() == {NUMBER}:
        return NUMBERS[value[NUMBER]]
    return {key: _restore(part, tensors) for key, part in value.items()}


def _parsed(document: str) -> Any:
    """Parse strict JSON, without the extensions of Python's parser."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not valid JSON")

    return json.loads(document, parse_constant=refuse)


def _wrong_kind(path: Path, found: str, wanted: str) -> ArchiveError:
    """Error for a file of another kind or version."""
    (name, version), (found_name, found_version) = (
        text.rsplit(" ", 1) if " " in text else (text, "") for text in (wanted, found)
    )
    if found_name == name and found_version.isdecimal() and int(found_version) > int(version):
        return ArchiveError(
            f"{path} was written by a newer version of skevae (it is a {found!r}, and this "
            f"version reads a {wanted!r}). Upgrade skevae to read it."
        )
    return ArchiveError(f"{path} is not a file of the kind {wanted!r}, but {found!r}.")


def _checksum(kind: str, document: str, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(f"{kind}\n{document}\n".encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        content: Any = tensor.reshape(-1).view(torch.uint8).numpy()
        digest.update(content)
    return digest.hexdigest()


def check_form(value: Any, example: Any, name: str = "it") -> None:
    """Raise if a value that was read has another form than the example: keys, types, shapes.

    If the example is None or empty, any value is accepted.

    Raises
    ------
    ArchiveError
        If so; the message names the part.
    """
    if example is None or (isinstance(example, dict | list) and not example):
        return
    if isinstance(example, Tensor):
        same = isinstance(value, Tensor) and value.shape == example.shape
        same = same and value.dtype == example.dtype
    elif isinstance(example, float):
        same = isinstance(value, float | int)
    elif isinstance(example, dict):
        same = isinstance(value, dict) and value.keys() == example.keys()
    else:
        same = type(value) is type(example)
    if not same:
        raise ArchiveError(f"{name} has an unexpected type or value")
    if isinstance(example, dict):
        for key, part in example.items():
            check_form(value[key], part, f"{key!r} of {name}")
    elif isinstance(example, list):
        if len(value) != len(example):
            raise ArchiveError(f"{name} has {len(value)} entries, not {len(example)}")
        for item, part in zip(value, example, strict=True):
            check_form(item, part, f"a part of {name}")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to, and move the complete file to ``path``.

    Raises
    ------
    OSError
        If ``path`` is a folder or a device, or the file cannot be written. No temporary file
        remains.
    """
    # The new file replaces what has its name: this must not be a device, nor a link used by others.
    path = path.resolve()
    _check_kind(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(
            errno.ENOENT, "The folder of this file does not exist. Create it first", str(path)
        )
    # Processes and threads may write the same file at the same time.
    aside = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        yield aside
        _flush(aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _check_kind(path: Path) -> None:
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "This is a folder or a device and no file", str(path))


def _flush(path: Path) -> None:
    """Wait until the content of a file is on disk, so that it can be renamed.

    Otherwise, the file could be empty after a power failure. The system writes the new name to disk
    some seconds later; until then, the name refers to the old file.
    """
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def write_archive(path: Path, kind: str, value: Any) -> None:
    """Write a value atomically: a reader sees the old file or the new one, never a part.

    This also holds after a power failure, and costs some milliseconds.

    Parameters
    ----------
    path : Path
    kind : str
        Kind and version of the file, such as ``"skevae checkpoint 3"``.
    value : nested dicts and lists of tensors, numbers, strings and None
        Keys become strings and tuples become lists.

    Raises
    ------
    OSError
        If the file cannot be written, or ``path`` is a folder or a device. No temporary file
        remains.
    """
    tensors: dict[str, Tensor] = {}
    document = json.dumps(_flatten(value, tensors))
    metadata = {
        "kind": kind,
        "document": document,
        "sha256": _checksum(kind, document, tensors),
    }
    with replacing(path) as aside:
        aside.write_bytes(save(tensors, metadata))


def read_archive(path: Path, kind: str) -> Any:
    """Read a file written by `write_archive`; tensors are on the CPU.

    Raises
    ------
    ArchiveError
        If the file is not a complete, undamaged archive of this kind.
    OSError
        If the file cannot be opened.
    """
    # The library's error does not name the file, and it would wait forever at a pipe.
    _check_kind(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            if metadata.get("kind") != kind:
                raise _wrong_kind(path, metadata.get("kind", "another format"), kind)
            # Copies, because the library returns views of the file, which another process may
            # overwrite or truncate.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        document = metadata["document"]
        if _checksum(kind, document, tensors) != metadata.get("sha256"):
            raise ArchiveError(f"{path} is damaged: its checksum does not match its content.")
        return _restore(_parsed(document), tensors)
    except ArchiveError:
        raise
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, RecursionError) as e:
        raise ArchiveError(f"{path} is not a readable archive ({e}).") from e
