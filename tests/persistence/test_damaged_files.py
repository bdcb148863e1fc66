"""Files that are damaged, forged or of another kind are refused by one error, and do no harm."""

import copy
import json
import os
import pickle
import random
import resource
import tracemalloc
from pathlib import Path

import pytest
import torch
from damaged_files import (
    CHECKPOINT_PARTS,
    HOSTILE,
    Checkpoints,
    Models,
    assert_refused,
    checkpoint_places,
    forge,
    places,
    replaced,
    text_of,
)
from model_files import TABLE, X, rbm, vae

from skevae import GaussianBernoulliRBMPrior, load_model, save_model
from skevae.persistence.files import KIND
from skevae.utils.archive import ArchiveError, read_archive, write_archive

N_FILES = 300


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    return {kind: kind(tmp_path_factory.mktemp("original")).path for kind in (Models, Checkpoints)}


@pytest.fixture(params=[Models, Checkpoints], ids=["model", "checkpoint"])
def saved(request, originals, tmp_path):
    return request.param(tmp_path, originals[request.param])


@pytest.fixture
def model(originals, tmp_path):
    return Models(tmp_path, originals[Models])


def test_truncated_files(saved):
    content, rng = saved.path.read_bytes(), random.Random(0)
    for _ in range(N_FILES // 3):
        saved.path.write_bytes(content[: rng.randrange(len(content))])
        assert_refused(saved)


def test_flipped_bits(saved):
    content, rng = saved.path.read_bytes(), random.Random(1)
    for _ in range(N_FILES // 3):
        damaged = bytearray(content)
        damaged[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        saved.path.write_bytes(damaged)
        assert_refused(saved)


def test_forged_parts_of_a_model(model):
    document, rng = json.loads(text_of(model.path)), random.Random(2)
    everywhere = list(places(document))
    for index in range(N_FILES // 3):
        hostile = HOSTILE[index % len(HOSTILE)]
        path = rng.choice(everywhere)
        forge(model.path, KIND, json.dumps(replaced(document, path, hostile)))
        assert_refused(model)


def test_forged_parts_of_a_checkpoint(tmp_path):
    saved = Checkpoints(tmp_path)
    document, rng = json.loads(text_of(saved.path)), random.Random(3)
    typed, wrong = checkpoint_places(document), CHECKPOINT_PARTS
    for index in range(N_FILES // 3):
        path, part = rng.choice(typed), wrong[index % len(wrong)]
        forge(saved.path, saved.kind, json.dumps(replaced(document, path, part)))
        assert_refused(saved)


TEXTS = {
    "deep": "[" * 10**5 + "]" * 10**5,
    "deep nodes": '{"custom": [], "table": [], "root": '
    + '{"is": "tuple", "items": [' * 2000
    + "]}" * 2000
    + "}",
    "large number": '{"root": ' + "9" * 5000 + "}",
    "not a number": '{"root": NaN, "table": [], "custom": []}',
    "no json": "import os",
    "empty": "",
    "a list": "[]",
    "a number": "7",
    "nothing": "{}",
    "no estimator": '{"root": 7, "table": [], "custom": []}',
    "a layer": '{"root": {"ref": 0}, "custom": [], "table": [{"is": "module", "class": '
    '"torch.Identity", "training": true, "state": [], "parameters": [], "buffers": [], '
    '"temporary": [], "modules": []}]}',
    "a circle": '{"root": {"ref": 0}, "custom": [], "table": [{"is": "partial", "function": '
    '{"ref": 0}, "arguments": {"is": "tuple", "items": []}, "keywords": {"ref": 0}}]}',
    "dunder": '{"root": {"ref": 0}, "custom": [], "table": [{"is": "object", "class": '
    '"skevae.NormalPrior", "state": [["__class__", 1]]}]}',
    "hidden method": '{"root": {"ref": 0}, "custom": [], "table": [{"is": "object", "class": '
    '"skevae.NormalPrior", "state": [["device", "cpu"], ["random_state", 0], ["fit", 1]]}]}',
    "no parameters": '{"root": {"ref": 0}, "custom": [], "table": [{"is": "object", "class": '
    '"skevae.NormalPrior", "state": []}]}',
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_forged_texts(text, saved):
    forge(saved.path, saved.kind, text)
    assert_refused(saved)


FIELDS = ["module_", "_standardizer", "_columns", "_bounds", "_cache", "history_"]


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("wrong", [7, "text", None, {"is": "tuple", "items": []}], ids=str)
def test_attributes_of_another_type(name, wrong, model):
    document = json.loads(text_of(model.path))
    state = document["table"][document["root"]["ref"]]["state"]
    (entry,) = [entry for entry in state if entry[0] == name]
    entry[1] = wrong
    forge(model.path, KIND, json.dumps(document))
    assert_refused(model)


class Touch:
    """What touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_is_not_executed(saved, tmp_path):
    marker = tmp_path / "touched"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        saved.path.write_bytes(pickle.dumps(Touch(marker), protocol))
        assert_refused(saved)
    torch.save(Touch(marker), saved.path)
    assert_refused(saved)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Touch(marker)))
    assert marker.exists()


def test_newer_versions_ask_for_an_upgrade(saved):
    name, version = saved.kind.rsplit(" ", 1)
    write_archive(saved.path, f"{name} {int(version) + 1}", {})
    with pytest.raises(ArchiveError, match=r"newer version of skevae.*Upgrade"):
        saved.load()
    write_archive(saved.path, f"{name} {int(version) - 1}", {})
    with pytest.raises(ArchiveError, match="not a file of the kind"):
        saved.load()


def test_other_files_are_refused(saved):
    for kind in ("skevae model 1", "skevae checkpoint 4", "7", ""):
        if kind != saved.kind:
            write_archive(saved.path, kind, {})
            assert_refused(saved)
    for content in (b"", b"\x00" * 100, b"{}", b"\xff" * 8, (2**63).to_bytes(8, "little") + b"{"):
        saved.path.write_bytes(content)
        assert_refused(saved)


def test_what_is_not_there(tmp_path):
    with pytest.raises(OSError):
        load_model(tmp_path / "no such file")
    with pytest.raises(OSError):
        save_model(rbm(), tmp_path / "no such folder" / "file")


def test_declared_sizes_allocate_nothing(saved):
    content = saved.path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    for name in [name for name in header if name != "__metadata__"][:10]:
        forged = copy.deepcopy(header)
        forged[name]["shape"] = [2**40]
        forged[name]["data_offsets"][1] = 2**42
        text = json.dumps(forged).encode()
        saved.path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])
        assert_refused(saved)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert peak < 50 * os.path.getsize(saved.path) + 2**22
    assert grown < 100 * 1024  # kilobytes


def test_declared_shapes_of_arrays_allocate_nothing(model):
    document = json.loads(text_of(model.path))
    arrays = [node for node in document["table"] if node["is"] == "array" and "content" in node]
    tracemalloc.start()
    for node in arrays[:2]:
        for shape in ([2**40], [2**31, 2**31], [-1, 1], ["1"], [True], 7):
            kept, node["shape"] = node["shape"], shape
            forge(model.path, KIND, json.dumps(document))
            node["shape"] = kept
            assert_refused(model)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100 * os.path.getsize(model.path) + 2**22


def test_the_undamaged_file_still_loads(saved):
    text = text_of(saved.path)
    forge(saved.path, saved.kind, text)
    assert saved.load().score(X if saved.kind != KIND else TABLE) is not None
    assert read_archive(saved.path, saved.kind)
    assert isinstance(saved.load(), GaussianBernoulliRBMPrior | type(vae()))
