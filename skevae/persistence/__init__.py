"""Models in files: to go on with, without executable code, and to run without this package."""

from skevae.persistence.export import export_decoder, export_encoder
from skevae.persistence.files import load_model, save_model

__all__ = ["export_decoder", "export_encoder", "load_model", "save_model"]
