r"""
Interpolation between images
============================

To interpolate between two rows, encode both, follow a path between their posterior means in latent
space, and decode it. A straight path may pass through latents that are improbable under the prior,
and the rows decoded there are unlike the data. The density of the prior shows where this happens,
and its sampler can correct the path: see :meth:`~skevae.EnergyVAE.interpolate`.
"""

# %%
# A model of four digits
# ----------------------
#
# The model has four latents and is fitted to zeros, ones, fours and sixes. Large initial weights of
# the RBM separate its units, so that its mixture of Gaussians keeps valleys between groups.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

from skevae import EnergyVAE, GaussianBernoulliRBMPrior

images, digit = load_digits(return_X_y=True)
kept = np.isin(digit, (0, 1, 4, 6))
images, digit = images[kept] / 16, digit[kept]
model = EnergyVAE(
    n_components=4,
    likelihood="bernoulli",
    posterior="fixed",
    prior=GaussianBernoulliRBMPrior(16, initial_scale=1.0),
    max_iter=80,
    n_iter_no_change=40,
    random_state=0,
).fit(images)

# %%
# Valleys of straight paths
# -------------------------
#
# The valley of a path is the difference between the log-density of the less probable end and that
# of its least probable point. Most valleys are shallow: training with the correct :math:`\ln Z`
# leaves little empty space between the posteriors. (Under an N(0, I) prior, whose log-density is
# concave, there are no valleys.)

n_points = 12
rng = np.random.default_rng(0)
pairs = rng.integers(len(images), size=(2000, 2))
ends = model.transform(images)[pairs]
t = np.linspace(0, 1, n_points)[:, None]
points = (1 - t) * ends[:, :1] + t * ends[:, 1:]
log_density = model.prior_.score_samples(points.reshape(-1, 4)).reshape(len(pairs), n_points)
valley = np.minimum(log_density[:, 0], log_density[:, -1]) - log_density.min(axis=1)
for depth in (0.1, 1, 2):
    print(f"deeper than {depth} nats: {np.mean(valley > depth):.1%} of the pairs")

# %%
# Straight and corrected paths
# ----------------------------
#
# The plot shows three of the deepest valleys between different digits. With ``n_correction_steps``,
# points that are less probable than both ends are moved to higher density. Each step moves a point
# to the mean of many Gibbs transitions from it, until the point is as probable as the less probable
# end.

chosen = {}
for index in np.argsort(-valley):
    digits = tuple(sorted(digit[pairs[index]].tolist()))
    if digits[0] != digits[1]:
        chosen.setdefault(digits, index)
chosen = list(chosen.values())[:3]
paths = [
    [
        model.interpolate(*images[pairs[index]], n_points, n_steps, random_state=0)
        for n_steps in (0, 50)
    ]
    for index in chosen
]

titles, colours = ["straight", "corrected"], ["#D55E00", "#0072B2"]
figure, axes = plt.subplots(
    len(paths), 2, figsize=(9.5, 5.2), width_ratios=[2.6, 1], layout="constrained"
)
for (strip, profile), both in zip(axes, paths, strict=True):
    rows = [np.pad(path.rows.reshape(-1, 8, 8), [(0, 0), (1, 1), (1, 1)]) for path in both]
    strip.imshow(np.vstack([np.hstack(row) for row in rows]), cmap="gray_r", vmin=0, vmax=1)
    strip.set(xticks=[], yticks=[4.5, 14.5], yticklabels=titles)
    strip.tick_params(length=0)
    for label, colour in zip(strip.get_yticklabels(), colours, strict=True):
        label.set_color(colour)
    strip.spines[:].set_visible(False)
    for path, colour in zip(both, colours, strict=True):
        profile.plot(path.log_density, "o-", color=colour, markersize=3)
    profile.set(xticks=[], ylabel="log-density")
    profile.spines[["top", "right"]].set_visible(False)
axes[-1, 1].set_xlabel("along the path")
plt.show()

# %%
# In the middle, a straight path decodes to two digits at once. A corrected path passes through
# realistic images, sometimes of a third digit, but has larger steps where it changes from one group
# of the prior to the next.
