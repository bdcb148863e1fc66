"""Models in files that hold no executable code: parameters, arrays and plain values."""

from skevae.persistence.files import load_model, save_model

__all__ = ["load_model", "save_model"]
