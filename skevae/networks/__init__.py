"""The networks inside encoder and decoder."""

from skevae.networks.trunks import NETWORKS

__all__ = ["NETWORKS"]
