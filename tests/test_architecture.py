"""The house: a module of skevae imports only from strictly lower floors."""

import ast
from pathlib import Path

import pytest

FLOORS = {
    **dict.fromkeys(["_random", "_device", "_clusters", "_linear"], 0),
    **dict.fromkeys(["energies", "ising", "networks", "flows", "training", "diagnostics"], 1),
    **dict.fromkeys(["samplers", "partition", "posteriors", "likelihoods"], 2),
    **dict.fromkeys(["densities"], 3),
    **dict.fromkeys(["_mixture_density", "_vamp_density", "_flow_density", "_neural_density"], 4),
    **dict.fromkeys(["objectives", "ex_post", "interpolation"], 4),
    **dict.fromkeys(["modules"], 5),
    **dict.fromkeys(["evaluation", "_checkpoint"], 6),
    **dict.fromkeys(["_base", "datasets", "displays"], 7),
    **dict.fromkeys(["_prior_base"], 8),
    **dict.fromkeys(["_rbm_prior", "_normal_prior", "_mixture_prior"], 9),
    **dict.fromkeys(["_vamp_prior", "_flow_prior", "_neural_prior"], 9),
    **dict.fromkeys(["priors"], 10),
    **dict.fromkeys(["_energy_vae"], 11),
}
FILES = sorted((Path(__file__).resolve().parents[1] / "skevae").rglob("*.py"))
MODULES = [path for path in FILES if path.name != "__init__.py"]


def violations(name, source):
    """Imports that module `name` may not make: its floor or higher, unknown rooms, the package."""
    targets = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            targets += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = ".".join(filter(None, ["skevae" * (node.level > 0), node.module]))
            names = [f"skevae.{alias.name}" for alias in node.names]
            targets += names if package == "skevae" else [package]
    inside = [target.split(".") for target in targets if target.split(".")[0] == "skevae"]
    return [".".join(t) for t in inside if FLOORS.get(".".join(t[1:]), 99) >= FLOORS[name]]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_module_imports_only_from_lower_floors(path):
    assert path.stem in FLOORS, f"give {path.name} a floor"
    assert violations(path.stem, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_module_starts_with_a_docstring(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "source, found",
    [
        ("from skevae.energies import f\nfrom . import _random\nimport torch, numpy as np", []),
        ("from skevae.modules import M", ["skevae.modules"]),
        ("def late():\n    from ._base import B", ["skevae._base"]),
        ("import skevae.samplers as s", ["skevae.samplers"]),
        ("from . import partition, energies", ["skevae.partition"]),
        ("from skevae import EnergyVAE", ["skevae.EnergyVAE"]),
        ("import skevae", ["skevae"]),
        ("from skevae.no_such_room import x", ["skevae.no_such_room"]),
    ],
)
def test_detector(source, found):
    assert violations("partition", source) == found
