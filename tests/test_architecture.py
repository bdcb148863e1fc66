"""The house: a room of skevae imports only from rooms on lower floors, and no file grows too long.

A room is a folder of `skevae`, or a file that stands beside the folders. Files of one folder may
import each other; rooms on the same floor may not, and nothing imports `skevae/__init__`.
"""

import ast
from pathlib import Path

import pytest

import skevae

FLOORS = [
    {"utils"},
    {"networks", "energies", "distributed"},
    {"log_partition", "posteriors", "likelihoods"},
    {"samplers"},
    {"densities"},
    {"partitions", "vae", "interpolation"},
    {"training", "evaluation"},
    {"estimators", "datasets", "displays"},
    {"priors", "scoring"},
    {"vae_fit", "fitted"},
    {"energy_vae"},
    {"meta", "persistence"},
]
MAX_FLOORS_OF_FOLDERS = 9
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
PACKAGE = Path(skevae.__file__).resolve().parent
FILES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = {"file": 350, "class": 500, "function": 60}


def identity(path):
    return str(path.relative_to(PACKAGE))


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def targets(source, package):
    """Full names of the modules, or of the names in them, that a file of ``package`` imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) + 1 - node.level]
            origin = ".".join([*(parents if node.level else []), *filter(None, [node.module])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def violations(room, source, package="skevae"):
    """Imports that a file of ``room`` may not make."""
    inside = (name.split(".") for name in targets(source, package) if name.startswith("skevae"))
    others = [name for name in inside if name[1:2] != [room]]
    return [".".join(n) for n in others if FLOOR.get(".".join(n[1:2]), 99) >= FLOOR[room]]


@pytest.mark.parametrize("path", [p for p in FILES if p.parent != PACKAGE or p.stem != "__init__"])
def test_a_room_imports_only_from_lower_floors(path):
    assert room_of(path) in FLOOR, f"give {identity(path)} a floor"
    package = ".".join(["skevae", *path.relative_to(PACKAGE).parts[:-1]])
    assert violations(room_of(path), path.read_text(encoding="utf-8"), package) == []


def test_folders_stand_on_few_floors():
    imported = {room: set() for room in FLOOR}
    for path in FILES:
        if (room := room_of(path)) in FLOOR:
            names = targets(path.read_text(encoding="utf-8"), "skevae")
            imported[room] |= {name.split(".")[1] for name in names if name.startswith("skevae.")}
    height = {}
    for room in sorted(FLOOR, key=FLOOR.get):
        below = [height[other] for other in imported[room] - {room}]
        height[room] = max(below, default=0) + (PACKAGE / room).is_dir()
    assert max(height.values()) <= MAX_FLOORS_OF_FOLDERS


@pytest.mark.parametrize("path", FILES, ids=identity)
def test_a_file_holds_one_idea(path):
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    assert ast.get_docstring(tree)
    assert len(source.splitlines()) <= MAX_LINES["file"] or room_of(path) == "energy_vae"
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            assert node.end_lineno - node.lineno < MAX_LINES["class"], node.name
        elif isinstance(node, ast.FunctionDef):
            # The statements; what documents them may take the room that it needs.
            body = node.body[1:] if ast.get_docstring(node) else node.body
            n_lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            assert n_lines <= MAX_LINES["function"], f"{node.name} has {n_lines} lines"


@pytest.mark.parametrize(
    "source, found",
    [
        ("from skevae.energies import f\nfrom ..utils import random\nimport torch, numpy", []),
        ("from skevae.samplers.gibbs import block_gibbs\nfrom . import langevin", []),
        ("from skevae.vae import VAE", ["skevae.vae.VAE"]),
        ("def late():\n    from ..priors.base import B", ["skevae.priors.base.B"]),
        ("import skevae.densities.normal as s", ["skevae.densities.normal"]),
        ("from .. import partitions, energies", ["skevae.partitions"]),
        ("from skevae import EnergyVAE", ["skevae.EnergyVAE"]),
        ("import skevae", ["skevae"]),
        ("from skevae.no_such_room import x", ["skevae.no_such_room.x"]),
    ],
)
def test_detector(source, found):
    assert violations("samplers", source, "skevae.samplers") == found
