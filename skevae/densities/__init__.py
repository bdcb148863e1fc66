"""Latent densities p(z) = exp(-E(z)) / Z as torch modules, one file each."""
