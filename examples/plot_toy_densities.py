"""
Two-dimensional densities
=========================

:class:`~skevae.EnergyVAE` is fitted to data from a known density. The log-likelihood of held-out
rows can therefore be compared with the best possible value, minus the entropy, and the learned
density with the true one.
"""

# %%
# Three data sets
# ---------------
#
# :func:`~skevae.datasets.toy_density` returns densities with exact samples, an exact
# ``log_density`` and an exact ``entropy``. Two latents are enough for two columns, and an RBM with
# 12 hidden units, a mixture of 4096 Gaussians, is flexible enough as a prior.

import matplotlib.pyplot as plt
import numpy as np

from skevae import EnergyVAE, GaussianBernoulliRBMPrior
from skevae.datasets import toy_density

names = ["8gaussians", "potential1", "potential3"]
densities = [toy_density(name) for name in names]
models = [
    EnergyVAE(
        n_components=2,
        hidden_layer_sizes=(64, 64),
        prior=GaussianBernoulliRBMPrior(12),
        max_iter=60,
        kl_warmup=0.4,
        random_state=0,
    ).fit(density.sample(4000, random_state=0))
    for density in densities
]

# %%
# The gap
# -------
#
# The mean of :math:`\ln p(x) - \ln \mathrm{model}(x)` over test rows, the Kullback-Leibler
# divergence from the truth, with its standard error. A gap of 0.05 nats means that the learned
# density is 5% too low in the geometric mean.

gaps = {}
print(f"{'':14}{'best possible':>16}{'log-likelihood':>18}{'gap':>18}{'epochs':>8}")
for density, model in zip(densities, models, strict=True):
    X_test = density.sample(1000, random_state=1)
    scores = model.score_samples(X_test)
    gap = density.log_density(X_test) - scores
    gaps[density.name] = gap.mean()
    error = gap.std(ddof=1) / np.sqrt(len(gap))
    print(
        f"{density.name:14}{-density.entropy:16.3f}{scores.mean():18.3f}"
        f"{f'{gap.mean():.3f} ± {error:.3f}':>18}{model.n_iter_:8}"
    )

# %%
# The densities
# -------------
#
# Training rows, the learned density, and the true density, on the same colour scale. The partition
# function of the prior is exact, so the densities are normalised and colours can be compared.

reach, side = 4.2, 80
edges = np.linspace(-reach, reach, side)
grid = np.stack(np.meshgrid(edges, edges), axis=-1).reshape(-1, 2)

figure, axes = plt.subplots(3, len(names), figsize=(6.6, 6.9), layout="constrained")
for column, density, model in zip(axes.T, densities, models, strict=True):
    rows = density.sample(4000, random_state=0)
    column[0].plot(*rows.T, ".", color="0.2", markersize=1, alpha=0.5, markeredgewidth=0)
    column[0].set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", title=density.name)
    truth = np.exp(density.log_density(grid))
    learned = np.exp(model.set_params(n_score_draws=200).score_samples(grid))
    for axis, values in zip(column[1:], [learned, truth], strict=True):
        axis.imshow(
            values.reshape(side, side), origin="lower", cmap="magma", vmin=0, vmax=truth.max()
        )
    column[1].set_xlabel(f"gap {gaps[density.name]:.2f} nats")
for axis, label in zip(axes[:, 0], ["training rows", "learned", "truth"], strict=True):
    axis.set_ylabel(label)
for axis in axes.flat:
    axis.set(xticks=[], yticks=[])
plt.show()
