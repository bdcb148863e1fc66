"""Approximate posteriors q(z | x), one file each."""

from __future__ import annotations

from skevae.posteriors.base import Posterior
from skevae.posteriors.iaf import InverseAutoregressive, VolumePreservingInverseAutoregressive
from skevae.posteriors.normal import DiagonalNormal, FixedNormal

POSTERIORS: dict[str, type[Posterior]] = {
    "fixed": FixedNormal,
    "diagonal": DiagonalNormal,
    "iaf": InverseAutoregressive,
    "iaf-volume-preserving": VolumePreservingInverseAutoregressive,
}
