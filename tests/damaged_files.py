"""Files of models and checkpoints, and ways to forge them."""

import copy
import shutil
import warnings
from pathlib import Path

import pytest
from model_files import BOUNDS, TABLE, X, rbm, vae
from safetensors import safe_open
from safetensors.torch import save
from sklearn.base import clone
from sklearn.neighbors import KernelDensity

from skevae import load_model, save_model
from skevae.persistence.files import KIND
from skevae.training import checkpoint
from skevae.utils.archive import ArchiveError, _checksum


class Checkpoints:
    """A fit that goes on from the one checkpoint in a folder."""

    kind = checkpoint.KIND

    def __init__(self, folder, original=None):
        self.estimator = rbm(max_iter=2, partition="persistent", checkpoint_dir=folder)
        if original is None:
            clone(self.estimator).fit(X)
            (self.path,) = folder.glob("*.skevae")
        else:
            self.path = Path(shutil.copy(original, folder))

    def load(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return clone(self.estimator).fit(X)


class Models:
    """A model of a mixed table in a file."""

    kind = KIND

    def __init__(self, folder, original=None):
        if original is None:
            model = vae(bounds=BOUNDS, ex_post=KernelDensity()).fit(TABLE)
            self.path = save_model(model, folder / "model.skevae")
        else:
            self.path = Path(shutil.copy(original, folder))

    def load(self):
        return load_model(self.path)


def forge(path, kind, text):
    """Write a file with this text as its JSON, whose checksum is right."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    metadata = {"kind": kind, "document": text, "sha256": _checksum(kind, text, tensors)}
    path.write_bytes(save(tensors, metadata))


def text_of(path):
    with safe_open(path, framework="pt") as file:
        return file.metadata()["document"]


def assert_refused(saved):
    with pytest.raises(ArchiveError, match=saved.path.name):
        saved.load()


HOSTILE = [
    {"ref": 10**9},
    {"ref": -1},
    {"ref": "0"},
    {"__tensor__": "no such tensor"},
    {"__number__": "1e9999"},
    {"is": "no such kind"},
    {"is": "object", "class": "os.system", "state": []},
    {"is": "object", "class": "skevae.os", "state": []},
    {"is": "object", "class": "sklearn.Pipeline", "state": []},
    {"is": "object", "class": "custom.affine", "state": []},
    {"is": "object", "class": "skevae.VAE", "state": []},
    {"is": "module", "class": "torch.load", "training": False, "state": []},
    {"is": "function", "name": "os.system"},
    {"is": "function", "name": "custom.exec"},
    {"is": "partial", "function": {"is": "function", "name": "builtins.eval"}},
    {"is": "array", "dtype": "<f8", "shape": [2**60], "fortran": False, "content": None},
    {"is": "array", "dtype": "O", "shape": [2**60], "items": [0]},
    {"is": "array", "dtype": "V9999999999", "shape": [1], "fortran": False, "content": None},
    {"is": "tuple", "items": {"is": "dict"}},
    {"is": "scalar", "dtype": "<f8", "value": "1"},
    {"is": "device", "name": "no such device"},
    {"is": "torch.dtype", "name": "load"},
    {"is": "frame", "library": "os", "names": [], "dtypes": []},
    {"is": "RandomState", "key": [1], "position": 0, "has_gauss": 0, "gauss": 0.0},
]


def places(value, path=()):
    """Paths of all parts of a document."""
    yield path
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(part, (*path, key))


def replaced(document, path, part):
    if not path:
        return part
    document = copy.deepcopy(document)
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = part
    return document


CHECKPOINT_PARTS = [
    None,
    [],
    {"__tensor__": "no such tensor"},
    {"is": "function", "name": "os.system"},
]


def checkpoint_places(document):
    """Paths of the parts of a checkpoint that have a type of their own."""
    loop = document["loop"]
    typed = [(key,) for key in document]
    typed += [("loop", key) for key in loop if key != "optimizer"]  # empty at the start of a run
    typed += [("loop", part, key) for part in ("run", "past") for key in loop[part]]
    return typed
