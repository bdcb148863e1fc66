"""Models in files: saved models without executable code, and exported networks."""

from skevae.persistence.export import export_decoder, export_encoder
from skevae.persistence.files import load_model, save_model

__all__ = ["export_decoder", "export_encoder", "load_model", "save_model"]
