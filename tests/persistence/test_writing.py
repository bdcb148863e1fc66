"""Files are written in one step, hold nothing twice, and are about as large as the parameters."""

import errno
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from model_files import X, rbm, vae
from safetensors import safe_open
from torch import nn

from skevae import GaussianBernoulliRBMPrior, load_model, save_model

SAVE_FOR_EVER = """
import sys
import numpy as np
from skevae import NormalPrior, save_model
models = []
for seed in (1, 2):
    model = NormalPrior(random_state=seed).fit([[0.0]])
    model.ballast = np.full(2**20, float(seed))
    models.append(model)
print("ready", flush=True)
while True:
    for model in models:
        save_model(model, sys.argv[1])
"""


def checksum(path):
    """Hash of all that a file holds; the order in its header is not fixed."""
    with safe_open(path, framework="pt") as file:
        return file.metadata()["sha256"]


def n_bytes(model):
    """Bytes of all tensors and arrays that can be reached, each counted once."""
    seen, sizes = set(), []

    def visit(thing):
        if id(thing) in seen:
            return
        seen.add(id(thing))
        if isinstance(thing, torch.Tensor | np.ndarray):
            sizes.append(thing.nbytes)
        elif isinstance(thing, dict):
            for value in thing.values():
                visit(value)
        elif isinstance(thing, list | tuple):
            for value in thing:
                visit(value)
        elif isinstance(thing, nn.Module) or type(thing).__module__.startswith("skevae"):
            visit(vars(thing))

    visit(model.__getstate__())
    return sum(sizes)


@pytest.mark.parametrize(
    "model",
    [
        rbm(),
        vae(hidden_layer_sizes=(256, 256)),
        vae(hidden_layer_sizes=(256, 256), prior="vamp"),
        vae(hidden_layer_sizes=(256, 256), prior=GaussianBernoulliRBMPrior(20), posterior="iaf"),
    ],
    ids=["rbm", "vae", "vamp", "iaf"],
)
def test_files_are_as_large_as_their_arrays(model, tmp_path):
    model = model.fit(X)
    size = os.path.getsize(save_model(model, tmp_path / "model.skevae"))
    # Beside the arrays: parameters and structure, as JSON.
    assert n_bytes(model) < size < n_bytes(model) + 25_000


def test_equal_models_make_equal_files(tmp_path):
    one, two = (save_model(vae().fit(X), tmp_path / name) for name in "ab")
    three = save_model(load_model(one), tmp_path / "c")
    assert checksum(one) == checksum(two) == checksum(three)
    assert one.stat().st_size == two.stat().st_size == three.stat().st_size


def test_saving_changes_nothing(tmp_path):
    model = vae().fit(X)
    before = {name: id(value) for name, value in vars(model).items()}
    save_model(model, tmp_path / "model.skevae")
    assert {name: id(value) for name, value in vars(model).items()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model.skevae"]


@pytest.mark.slow
def test_a_killed_process_leaves_the_old_file_or_the_new_one(tmp_path):
    path, rng = tmp_path / "model.skevae", random.Random(0)
    for _ in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", SAVE_FOR_EVER, str(path)], stdout=subprocess.PIPE
        )
        process.stdout.readline()
        time.sleep(0.05 + 0.2 * rng.random())
        process.send_signal(signal.SIGKILL)
        process.communicate()
        model = load_model(path)
        assert (model.ballast == model.random_state).all() and len(model.ballast) == 2**20


def test_a_file_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    path, deeds = tmp_path / "model", []
    real_sync, real_replace = os.fsync, type(path).replace

    def sync(descriptor):
        deeds.append("flushed")
        real_sync(descriptor)

    def replace(self, target):
        deeds.append("named")
        return real_replace(self, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(type(path), "replace", replace)
    save_model(rbm(), path)
    assert deeds == ["flushed", "named"]


def test_a_disk_that_is_found_to_be_full_when_flushed(tmp_path, monkeypatch):
    path = save_model(rbm(), tmp_path / "model")
    content = path.read_bytes()

    def fail(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space left"):
            save_model(rbm(max_iter=3), path)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_pipes_devices_and_folders_are_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path):
        with pytest.raises(OSError, match=f"no file.*{path.name}"):
            save_model(rbm(), path)
    assert pipe.is_fifo() and list(tmp_path.iterdir()) == [pipe]


def test_links_are_followed(tmp_path):
    (tmp_path / "models").mkdir()
    link, target = tmp_path / "latest", tmp_path / "models" / "today"
    link.symlink_to(target)
    for max_iter in (1, 2):
        save_model(rbm(max_iter=max_iter), link)
        assert link.is_symlink() and load_model(target).max_iter == max_iter
    assert list((tmp_path / "models").iterdir()) == [target]


@pytest.mark.parametrize("custom", ["affine", ["affine"], 3])
def test_custom_is_a_dict(custom, tmp_path):
    with pytest.raises(TypeError, match="custom must be a dict"):
        load_model(save_model(rbm(), tmp_path / "model"), custom=custom)
