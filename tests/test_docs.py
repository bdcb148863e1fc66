"""Every Python block of the documentation and of the README runs, page by page, in order."""

import re
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator
from sklearn.datasets import load_diabetes

import skevae
import skevae.likelihoods
import skevae.networks
import skevae.samplers
from skevae import EnergyVAE
from skevae.likelihoods import LIKELIHOODS
from skevae.posteriors import POSTERIORS
from skevae.priors import PRIORS

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
BUILT = ("_build", "auto_examples", "generated", "backreferences", "results")
PAGES = [
    page
    for page in sorted(DOCS.rglob("*.rst"))
    if not set(page.relative_to(DOCS).parts[:-1]) & {*BUILT, "_templates"}
]
TEXTS = [ROOT / "README.md", *PAGES, *sorted((DOCS / "results").glob("*.rst"))]

# Packages without which the code of a page does not run, beside those of the extra `tests`.
NEEDED = {
    "cluster.rst": ["dask.dataframe", "distributed"],
    "export.rst": ["onnxruntime", "onnxscript"],
}


def identity(page):
    return str(page.relative_to(ROOT))


def rst_blocks(text):
    """Yield (language, first line number, code) of each ``code-block`` of a page."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        match = re.fullmatch(r"( *)\.\. code-block:: (\S+)", line)
        if not match:
            continue
        body = []
        for following in lines[number + 1 :]:
            if following.strip() and not following.startswith(match.group(1) + " "):
                break
            body.append(following)
        yield match.group(2), number + 2, textwrap.dedent("\n".join(body))


def markdown_blocks(text):
    """Yield (language, first line number, code) of each fenced block."""
    for match in re.finditer(r"^```(\w+)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE):
        yield match.group(1), text[: match.start()].count("\n") + 2, match.group(2)


def blocks(page):
    text = page.read_text(encoding="utf-8")
    return list((markdown_blocks if page.suffix == ".md" else rst_blocks)(text))


def python_blocks(page):
    return [(line, code) for language, line, code in blocks(page) if language == "python"]


WITH_CODE = [page for page in TEXTS if python_blocks(page)]


def write_table(path):
    """Write a table with strings, integers, numbers and holes: the user's own, in the pages."""
    table = load_diabetes(as_frame=True, scaled=False).data[:120].rename(columns={"sex": "city"})
    table["city"] = table["city"].map({1.0: "Rome", 2.0: "Oslo"})
    table["age"] = table["age"].astype(int)
    table.mask(np.random.RandomState(0).rand(*table.shape) < 0.1).to_csv(path, index=False)


@pytest.fixture
def as_brief_as_can_be(monkeypatch):
    """Shorten what the pages leave at its default, and nothing that they say."""
    defaults = EnergyVAE.__init__.__kwdefaults__
    for name, value in {"max_iter": 1, "n_score_draws": 30, "hidden_layer_sizes": (8,)}.items():
        monkeypatch.setitem(defaults, name, value)
    for prior in {*PRIORS.values()}:
        if "max_iter" in (prior.__init__.__kwdefaults__ or {}):
            monkeypatch.setitem(prior.__init__.__kwdefaults__, "max_iter", 1)
    # Pages on extensions add members; they are gone afterwards.
    registries = (PRIORS, POSTERIORS, LIKELIHOODS)
    before = [dict(registry) for registry in registries]
    yield
    for registry, members in zip(registries, before, strict=True):
        registry.clear()
        registry.update(members)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")  # of few effective draws: nothing is trained
@pytest.mark.parametrize("page", WITH_CODE, ids=identity)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch, as_brief_as_can_be):
    pytest.importorskip("matplotlib").use("Agg")
    for package in NEEDED.get(page.name, ()):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    write_table("my_table.csv")
    namespace = {"__name__": "__main__"}
    for line, code in python_blocks(page):
        # Blank lines in front, so that a traceback names the line of the page.
        exec(compile("\n" * (line - 1) + code, page, "exec"), namespace)


def test_no_code_hides_from_these_tests():
    for page in TEXTS:
        text = page.read_text(encoding="utf-8")
        assert {language for language, *_ in blocks(page)} <= {"python", "bash", "text"}, page
        if page.suffix == ".rst":
            assert not re.search(
                r"^ *\.\. (code|sourcecode)::|>>> |^(?! *\.\. ).*::$", text, re.M
            ), page
            assert len(blocks(page)) == text.count("code-block::"), page
        else:
            assert len(blocks(page)) * 2 == len(re.findall("^```", text, re.M)), page


def test_the_way_from_the_front_page_to_a_table_of_ones_own_is_short():
    _, code = python_blocks(DOCS / "index.rst")[1]
    assert "read_csv" in code
    assert len([line for line in code.splitlines() if line.strip()]) <= 12
    assert len([line for line in python_blocks(DOCS / "index.rst")[0][1].splitlines() if line]) <= 6


# --- links from the HTML representation -----------------------------------------------------------


def documented_names():
    """Names that the API reference has a page for."""
    module, names = "", set()
    for line in (DOCS / "api" / "index.rst").read_text(encoding="utf-8").splitlines():
        if line.startswith(".. currentmodule:: "):
            module = line.split(":: ")[1]
        elif match := re.fullmatch(r"    ([A-Za-z_.]+)", line):
            name = match.group(1)
            names.add(name if name.startswith("skevae.") else f"{module}.{name}")
    return names


def public_estimators():
    for module in (skevae, skevae.likelihoods, skevae.networks, skevae.samplers):
        for name in module.__all__:
            thing = getattr(module, name)
            if isinstance(thing, type) and issubclass(thing, BaseEstimator):
                yield thing


@pytest.mark.parametrize("kind", list(public_estimators()), ids=lambda kind: kind.__name__)
def test_the_html_representation_links_to_the_page_of_the_class(kind):
    link = kind()._get_doc_link()
    host, page = link.split("/api/generated/")
    assert host == "https://skevae.readthedocs.io/en/latest"
    assert page.removesuffix(".html") in documented_names()
    assert link in kind()._repr_html_inner()


def test_public_names_have_a_page():
    public = {f"skevae.{name}" for name in skevae.__all__ if not name.startswith("_")}
    assert public <= documented_names()


def test_a_class_from_outside_has_no_link():
    class Mine(EnergyVAE):
        pass

    assert Mine()._get_doc_link() == ""


def test_the_table_of_the_pages_has_holes_and_categories(tmp_path):
    write_table(tmp_path / "table.csv")
    table = pd.read_csv(tmp_path / "table.csv")
    assert table.isna().to_numpy().any() and not table["city"].dropna().map(type).ne(str).any()
