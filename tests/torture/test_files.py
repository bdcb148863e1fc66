"""Damaged and forged files of models and checkpoints, drawn at random."""

import json
import random

import pytest
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
from tally import count


def damage(rng, content):
    """Cut, flip, overwrite, repeat or insert something."""
    content, where = bytearray(content), rng.randrange(len(content))
    some = rng.randbytes(rng.choice([1, 8, 1000]))
    kind = rng.choice(["cut", "flip", "overwrite", "insert", "remove", "append", "header"])
    if kind == "cut":
        del content[where:]
    elif kind == "flip":
        content[where] ^= 1 << rng.randrange(8)
    elif kind == "overwrite":
        content[where : where + len(some)] = some
    elif kind == "insert":
        content[where:where] = some
    elif kind == "remove":
        del content[where : where + len(some)]
    elif kind == "append":
        content += some
    else:
        content[rng.randrange(8)] = rng.randrange(256)
    return content


@pytest.mark.torture(share=3)
@pytest.mark.parametrize("kind", [Models, Checkpoints], ids=["model", "checkpoint"])
def test_damaged_and_forged_files(kind, rounds, tmp_path_factory):
    original = kind(tmp_path_factory.mktemp("original")).path
    content, document = original.read_bytes(), json.loads(text_of(original))
    if kind is Models:
        everywhere, parts = list(places(document)), HOSTILE
    else:
        everywhere, parts = checkpoint_places(document), CHECKPOINT_PARTS
    for seed in rounds:
        rng = random.Random(seed)
        saved = kind(tmp_path_factory.mktemp("damaged"), original)
        for _ in range(20):
            damaged = damage(rng, content)
            if damaged != content:
                saved.path.write_bytes(damaged)
                assert_refused(saved)
                count(f"files: damaged {kind.__name__.lower()}")
            saved.path.write_bytes(content)
            part = rng.choice(parts)
            forge(
                saved.path, kind.kind, json.dumps(replaced(document, rng.choice(everywhere), part))
            )
            assert_refused(saved)
            count(f"files: forged {kind.__name__.lower()}")
    saved.path.write_bytes(content)
    assert saved.load() is not None
