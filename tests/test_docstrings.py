"""Public names say what they take, by the names in their signatures, and their examples run."""

import doctest
import importlib
import inspect
import pkgutil
import re

import pytest
from small_priors import SMALL

import skevae
import skevae.datasets
import skevae.displays
import skevae.distributed
from skevae.priors import PRIORS

MODULES = [
    "skevae",
    *(info.name for info in pkgutil.walk_packages(skevae.__path__, prefix="skevae.")),
]
SECTIONS = [
    "Parameters",
    "Attributes",
    "Returns",
    "Yields",
    "Raises",
    "Warns",
    "See Also",
    "Notes",
    "References",
    "Examples",
]
# scikit-learn writes these itself.
GENERATED = {"set_output", "set_callbacks", "get_params", "set_params", "get_metadata_routing"}


def public_names(module):
    for name in module.__all__:
        thing = getattr(module, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            yield f"{module.__name__}.{name}", thing


def is_method(value):
    """Whether it is a method: of an instance, or of the class as an alternative constructor."""
    return inspect.isfunction(value) or inspect.ismethod(value)


def public_callables():
    """Functions, classes and their methods, as (name, object) pairs."""
    for module in (skevae, skevae.datasets, skevae.displays, skevae.distributed):
        for name, thing in public_names(module):
            yield name, thing
            if inspect.isclass(thing):
                for method, value in inspect.getmembers(thing, is_method):
                    ours = value.__module__.startswith("skevae")
                    if ours and not method.startswith("_") and method not in GENERATED:
                        yield f"{name}.{method}", value


CALLABLES = dict(public_callables())
CLASSES = {name: thing for name, thing in CALLABLES.items() if inspect.isclass(thing)}
FUNCTIONS = {name: thing for name, thing in CALLABLES.items() if name not in CLASSES}
ESTIMATORS = [name for name, kind in CLASSES.items() if hasattr(kind, "fit")]


def sections(docstring):
    """Split a numpydoc docstring: the text of each section by its title, the head under ''."""
    parts, title = {"": []}, ""
    lines = inspect.cleandoc(docstring or "").splitlines()
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        if line and below and re.fullmatch("-+", below) and len(below) == len(line):
            title = line
            parts[title] = []
        elif not re.fullmatch("-{3,}", line):
            parts[title].append(line)
    return {title: "\n".join(text).strip() for title, text in parts.items()}


def documented(text):
    """Names of a Parameters or Attributes section, with the text right of the colon."""
    entries = {}
    for line in text.splitlines():
        match = re.fullmatch(r"([*\w][\w, *]*?)(?: : (.+))?", line)
        if match and not line.startswith(" "):
            for name in match.group(1).split(","):
                entries[name.strip().lstrip("*")] = match.group(2)
    return entries


def signature_names(thing):
    parameters = inspect.signature(thing).parameters
    return [name for name in parameters if name != "self"]


def test_the_parser():
    lines = ["Do it.", "", "Parameters", "-" * 10, "a, b : int", "    No.", "c : str, default='x'"]
    text = "\n".join([*lines, "", "Notes", "-----", "d"])
    assert sections(text) == {
        "": "Do it.",
        "Parameters": "a, b : int\n    No.\nc : str, default='x'",
        "Notes": "d",
    }
    assert list(documented(sections(text)["Parameters"])) == ["a", "b", "c"]


def test_there_is_a_docstring():
    for name, thing in CALLABLES.items():
        docstring = inspect.getdoc(thing)
        assert docstring, name
        lines = docstring.splitlines()
        assert lines[0].endswith((".", ":")), name
        assert len(lines) == 1 or not lines[1], name
        titles = [title for title in sections(docstring) if title]
        assert set(titles) <= set(SECTIONS), name
        assert titles == sorted(titles, key=SECTIONS.index), name


def test_parameters_are_those_of_the_signature():
    for name, thing in CALLABLES.items():
        if inspect.isclass(thing) and "__init__" not in vars(thing):
            continue
        described = documented(sections(inspect.getdoc(thing)).get("Parameters", ""))
        assert list(described) == signature_names(thing), name
        missing = [parameter for parameter, kind in described.items() if kind is None]
        assert not missing, f"{name}: give the types of {missing}"


def test_documented_defaults_are_those_of_the_signature():
    for name, thing in CALLABLES.items():
        described = documented(sections(inspect.getdoc(thing)).get("Parameters", ""))
        for parameter in inspect.signature(thing).parameters.values():
            match = re.search("default=(.+)$", described.get(parameter.name) or "")
            where = f"{name}, {parameter}"
            if parameter.default is inspect.Parameter.empty:
                assert match is None, where
            elif match:
                assert eval(match.group(1), {}) == parameter.default, where
            else:
                # y is ignored and needs none.
                assert described.get(parameter.name) == "Ignored", f"{where}: state the default"


def test_returned_values_are_described():
    for name, thing in FUNCTIONS.items():
        if name.split(".")[-1] not in {"fit", "partial_fit"}:
            assert {"Returns", "Yields"} & set(sections(inspect.getdoc(thing))), name


FITTED = {}


def fitted(name):
    from sklearn.datasets import load_iris

    vae = {"n_components": 2, "hidden_layer_sizes": (4,), "max_iter": 1}
    density = {"estimator": skevae.EnergyVAE(**vae)}
    small = {
        "EnergyVAE": vae,
        "EnergyImputer": density,
        "EnergyOutlierDetector": density,
        "EnergyEnsemble": {**density, "n_estimators": 2, "stacking": True},
        **{
            PRIORS[name].__name__: {**params, "max_iter": 1}
            for name, params in SMALL.items()
            if name != "normal"
        },
    }
    if name not in FITTED:
        kind = CLASSES[name]
        FITTED[name] = kind(**small.get(kind.__name__, {})).fit(load_iris(as_frame=True).data)
    return FITTED[name]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_attributes_are_those_of_a_fitted_model(name):
    described = set(documented(sections(inspect.getdoc(CLASSES[name])).get("Attributes", "")))
    model = fitted(name)
    has = {a for a in vars(model) if a.endswith("_") and not a.startswith("_")}
    kind = type(model)
    has |= {
        attribute
        for attribute in dir(kind)
        if attribute.endswith("_")
        and not attribute.startswith("_")
        and isinstance(inspect.getattr_static(kind, attribute), property)
    }
    assert described == has


def test_every_method_says_what_estimators_share():
    # Nothing public without documentation, inherited methods included.
    for name in ESTIMATORS:
        for method, value in inspect.getmembers(CLASSES[name], inspect.isfunction):
            if not method.startswith("_"):
                assert inspect.getdoc(value), f"{name}.{method}"


def test_estimators_have_an_example():
    for name in ESTIMATORS:
        assert ">>>" in sections(inspect.getdoc(CLASSES[name])).get("Examples", ""), name


def examples(name):
    finder = doctest.DocTestFinder(exclude_empty=True)
    return [test for test in finder.find(importlib.import_module(name)) if test.examples]


WITH_EXAMPLES = [name for name in MODULES if examples(name)]


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_run(name):
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    outcome = doctest.testmod(importlib.import_module(name), optionflags=flags)
    assert outcome.attempted > 0 and outcome.failed == 0


def test_modules_say_what_they_are_for():
    for name in MODULES:
        assert importlib.import_module(name).__doc__, name


def test_there_are_examples_to_run():
    assert len(WITH_EXAMPLES) >= 3
