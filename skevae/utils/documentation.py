"""Links from the HTML representation of an estimator to its page in the documentation."""

from __future__ import annotations

from typing import ClassVar

from sklearn.base import BaseEstimator

DOCUMENTATION = "https://skevae.readthedocs.io/en/latest"


class DocumentedEstimator(BaseEstimator):
    """Base class of all objects with parameters and a documentation page.

    Attributes
    ----------
    _documented_in : str
        The module under which the page is listed.
    """

    _documented_in: ClassVar[str] = "skevae"

    # Read by scikit-learn. Subclasses outside of skevae have no link.
    _doc_link_module = "skevae"
    _doc_link_template = f"{DOCUMENTATION}/api/generated/{{module}}.{{name}}.html"

    def _doc_link_url_param_generator(self) -> dict[str, str]:
        return {"module": self._documented_in, "name": type(self).__name__}
