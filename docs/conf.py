"""Sphinx configuration. It builds offline, without intersphinx or downloads."""

import inspect

import skevae

project = "skevae"
author = "The skevae developers"
copyright = f"2026, {author}"
release = version = skevae.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "results"]  # what examples/paper writes is included, not a page
templates_path = ["_templates"]
default_role = "py:obj"  # `EnergyVAE` is a link wherever it names something documented

html_theme = "pydata_sphinx_theme"
html_title = "skevae"
html_static_path = ["_static"]
html_css_files = ["skevae.css"]
html_extra_path = ["llms.txt"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "logo": {"text": "skevae"},
    "show_prev_next": True,
    "navigation_with_keys": False,
    "header_links_before_dropdown": 6,
    "navbar_align": "left",
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": ["sphinx-version"],
}
html_sidebars = {"index": [], "results": [], "benchmarks": []}

autosummary_generate = True
autodoc_typehints = "none"
toc_object_entries_show_parents = "hide"
numpydoc_show_class_members = False

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"/plot_",
    "ignore_pattern": r"(^|/)(?!plot_)[^/]*\.py$",
    "download_all_examples": False,
    "show_memory": False,
    "parallel": 2,
    "doc_module": ("skevae",),
    "backreferences_dir": "api/backreferences",
}


def skip_foreign(app, what, name, obj, skip, options):
    """Leave out what scikit-learn puts into every estimator: its texts link to its own pages."""
    if what != "class":
        return None
    if name.startswith("set_") and name.endswith("_request"):
        return True
    function = inspect.unwrap(obj.fget if isinstance(obj, property) else obj)
    module = getattr(function, "__module__", None)
    return True if module and module.split(".")[0] != "skevae" else None


def setup(app):
    """Register the hook."""
    app.connect("autodoc-skip-member", skip_foreign)
