"""Base class of all objects with parameters: links to their pages, and nested parameters."""

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

    def set_params(self, **params):
        """Set parameters, also those of nested objects as ``<component>__<parameter>``.

        Parameters
        ----------
        **params : dict

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a parameter does not exist, or the component is a string or None.
        """
        present = self.get_params(deep=False)
        for name in params:
            head, nested, _ = name.partition("__")
            component = params.get(head, present.get(head))
            if nested and head in present and isinstance(component, str | None):
                raise ValueError(
                    f"{name} cannot be set, because {head}={component!r} has no parameters of its "
                    f"own. Set {head} to an object first; the documentation of "
                    f"{type(self).__name__} lists them."
                )
        return super().set_params(**params)

    def _doc_link_url_param_generator(self) -> dict[str, str]:
        return {"module": self._documented_in, "name": type(self).__name__}
