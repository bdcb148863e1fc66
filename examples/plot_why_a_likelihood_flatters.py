r"""
Why some likelihoods are too high
=================================

An energy-based prior :math:`p(z) = e^{-E(z)} / Z` makes an autoencoder flexible, but :math:`\ln Z`
must be computed. "Variational Inference with Unnormalized Priors" estimates it for each row from
the draws of the row's own posterior, both in training (eq. 3) and when it reports log-likelihoods
(eq. 5). This example measures the effect. The data come from a known density, so there is a strict
limit: no model has a mean log-likelihood above minus the entropy of the data.
"""

# %%
# Two models that differ in one parameter
# ---------------------------------------
#
# Both models have the same data, networks and RBM prior, and the paper's posteriors with unit
# variance. One is trained by eq. 3 (``partition="posterior"``), the other with the exact :math:`\ln
# Z` (``partition="exact"``).

import matplotlib.pyplot as plt
import numpy as np

from skevae import EnergyVAE, GaussianBernoulliRBMPrior
from skevae.datasets import toy_density

density = toy_density("8gaussians")
X = density.sample(4000, random_state=0)
X_test = density.sample(100, random_state=1).astype(np.float32)

models = {
    partition: EnergyVAE(
        n_components=8,
        hidden_layer_sizes=(64, 64),
        prior=GaussianBernoulliRBMPrior(12),
        likelihood="gaussian",
        posterior="fixed",
        objective="elbo",
        partition=partition,
        early_stopping=False,
        max_iter=100,
        random_state=0,
    ).fit(X)
    for partition in ("posterior", "exact")
}

# %%
# Reported and true log-likelihoods
# ---------------------------------
#
# Eq. 5 divides two sums over the same :math:`n` draws :math:`z_k \sim q(z \mid x)`:
#
# .. math::
#     \ln \frac{\sum_k p(x \mid z_k) \, e^{-E(z_k)} / q(z_k \mid x)}
#              {\sum_k e^{-E(z_k)} / q(z_k \mid x)}
#
# The denominator estimates :math:`n Z`. It is unbiased, but its mean is dominated by rare draws:
# nearly all the mass of :math:`e^{-E}` is in regions where the posterior of *this* row hardly ever
# draws. A typical estimate misses this mass and is too small. Since its logarithm is subtracted,
# the reported value is too large. With one draw, only the reconstruction term remains.
#
# ``log_likelihood(method="self_normalized")`` reports eq. 5 for any number of draws. The default
# of ``log_likelihood`` and ``score`` subtracts the exact :math:`\ln Z` instead.

n_draws = [1, 10, 100, 1000, 10_000, 100_000]
reported = {
    name: [
        model.log_likelihood(X_test, method="self_normalized", n_draws=n).log_likelihood.mean()
        for n in n_draws
    ]
    for name, model in models.items()
}
true = {name: model.score(X_test) for name, model in models.items()}
best = density.log_density(X_test).mean()

print(f"{'trained by':22}{'eq. 3':>10}{'exact ln Z':>14}")
for n, pair in zip(n_draws, zip(*reported.values(), strict=True), strict=True):
    print(f"{f'eq. 5, n = {n}':22}{pair[0]:10.2f}{pair[1]:14.2f}")
print(f"{'log-likelihood':22}{true['posterior']:10.2f}{true['exact']:14.2f}")
print(f"{'of the truth':22}{best:10.2f}{best:14.2f}")

# %%
# Even a hundred thousand draws per row do not help. The reported value decreases slowly, because
# the number of draws that is needed to estimate :math:`Z` from the posterior of one row grows
# exponentially with the distance between the two distributions. (All rows share one set of points,
# so the curves fluctuate.)

colours = {"posterior": "#D55E00", "exact": "#0072B2"}
labels = {"posterior": "trained by eq. 3", "exact": "trained on the exact ln Z"}

figure, axis = plt.subplots(figsize=(8, 4.6), layout="constrained")
top = max(map(max, reported.values())) + 0.6
axis.axhspan(best, top, color="0.93", lw=0)
axis.text(1.2, best + 0.12, "impossible: above minus the entropy", color="0.35")
for name, colour in colours.items():
    axis.semilogx(n_draws, reported[name], "o-", color=colour, clip_on=False)
    axis.axhline(true[name], color=colour, ls="--")
    beside = {"color": colour, "va": "center"}
    axis.text(1.5 * n_draws[-1], reported[name][-1], f"{labels[name]}:\neq. 5 reports", **beside)
    axis.text(1.5 * n_draws[-1], true[name], f"{labels[name]}:\nlog-likelihood", **beside)
axis.set(
    xlabel="draws for each row, n",
    ylabel="nats a row",
    xlim=(1, n_draws[-1]),
    ylim=(min(true.values()) - 0.4, top),
)
axis.spines[["top", "right"]].set_visible(False)
plt.show()

# %%
# The effect on training
# ----------------------
#
# A wrong reported value alone could be corrected afterwards. However, eq. 3 is also the training
# objective of the first model. The draws of one row do not reach the mass at the other seven
# groups. The objective therefore does not determine how to divide the mass among the groups, and
# does not remove mass between them. The plot shows both densities, normalised, on the colour scale
# of the true density.

side = 90
edges = np.linspace(-5, 5, side)
grid = np.stack(np.meshgrid(edges, edges), axis=-1).reshape(-1, 2).astype(np.float32)
panels = {"truth": np.exp(density.log_density(grid))}
for name, model in models.items():
    panels[labels[name]] = np.exp(model.set_params(n_score_draws=200).score_samples(grid))

figure, axes = plt.subplots(1, 3, figsize=(8.5, 3.1), layout="constrained")
for axis, (title, values) in zip(axes, panels.items(), strict=True):
    axis.imshow(
        values.reshape(side, side),
        origin="lower",
        cmap="magma",
        vmin=0,
        vmax=panels["truth"].max(),
    )
    axis.set(title=title, xticks=[], yticks=[])
plt.show()
