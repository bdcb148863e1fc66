"""What is shipped: the files of the wheel and of the sdist, and the versions they ask for."""

import re
from configparser import ConfigParser
from importlib.metadata import distribution
from pathlib import Path, PurePosixPath

import pytest

import skevae

ROOT = Path(__file__).resolve().parents[1]
# Extras of which the oldest version that works is not known.
UNTESTED = ("benchmarks", "dask", "docs", "onnx")
IN_CHECKOUT = (ROOT / "skevae").is_dir()


@pytest.mark.skipif(IN_CHECKOUT, reason="the package is that of the checkout, no wheel")
def test_the_wheel_holds_the_typed_package_its_licence_and_nothing_else():
    files = {PurePosixPath(file) for file in distribution("skevae").files}
    assert ROOT not in Path(skevae.__file__).resolve().parents
    assert PurePosixPath("skevae/py.typed") in files
    assert any(file.name == "LICENSE" for file in files)
    tops = {file.parts[0] for file in files}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"skevae"}
    assert not any("tests" in file.parts for file in files)


@pytest.mark.parametrize(
    "name",
    ["CHANGELOG.md", "CITATION.cff", "LICENSE", "Makefile", "README.md", "docs/conf.py"]
    + ["docs/index.rst", "docs/_static", "examples/quickstart.py", "tests/laws"]
    + ["constraints.txt", "constraints-minimum.txt"],
)
def test_the_sdist_holds_what_tests_and_documentation_need(name):
    assert (ROOT / name).exists()


def declared():
    """Requirements of the package and of its extras, as name and specifier."""
    config = ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = config["options.extras_require"]
    groups = [config["options"]["install_requires"]]
    groups += [extras[name] for name in extras if name not in UNTESTED]
    for line in "\n".join(groups).split():
        name, relation, version = re.fullmatch(
            r"([\w-]+)(?:\[[\w,]+\])?(>=)?([\d.]*)", line
        ).groups()
        yield name, version if relation else None


def pinned():
    text = (ROOT / "constraints-minimum.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^([\w-]+)==([\d.]+)$", text, flags=re.MULTILINE))


def test_the_oldest_versions_allowed_are_those_tested():
    def normal(version):
        return re.sub(r"(\.0)+$", "", version)

    # A checker is no part of what runs, and torch's oldest wheels are too large to be tested.
    minima = {
        name: version for name, version in declared() if name not in ("skevae", "mypy", "ruff")
    }
    assert None not in minima.values(), minima
    pins = pinned()
    assert minima.keys() == pins.keys()
    assert {n: normal(v) for n, v in minima.items() if n != "torch"} == {
        n: normal(v) for n, v in pins.items() if n != "torch"
    }
