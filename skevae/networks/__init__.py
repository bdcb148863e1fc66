"""Networks for encoders, decoders and energies, one file each."""

from __future__ import annotations

from skevae.networks.base import Network
from skevae.networks.conv import ConvResNet
from skevae.networks.densenet import DenseNet
from skevae.networks.mlp import MLP
from skevae.networks.resnet import ResNet

NETWORKS: dict[str, type[Network]] = {"mlp": MLP, "densenet": DenseNet, "resnet": ResNet}

__all__ = ["MLP", "NETWORKS", "ConvResNet", "DenseNet", "Network", "ResNet"]
