"""
Plots of a fitted model
=======================

This example shows the displays of :mod:`skevae.displays` on two data sets of scikit-learn: images
of digits, and a table of patients with a category and missing entries. Each display answers one
question. Has training converged? What do reconstructions lose? Does the prior cover the rows? Are
the scores reliable? Do the Markov chains mix? Do sampled rows look like real ones?
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes, load_digits

from skevae import EnergyVAE, GaussianBernoulliRBMPrior
from skevae.displays import (
    ChainsDisplay,
    DensityDisplay,
    DiagnosticsDisplay,
    LatentDisplay,
    ReconstructionDisplay,
    TrainingDisplay,
)

# %%
# Training
# --------
#
# The curves show the bound of the training rows and of held-out rows, its terms, and the epoch
# whose state was kept. The first epoch is far below the others, so the curves start at the second.
images, digit = load_digits(return_X_y=True)
images = images / 16
vae = EnergyVAE(
    n_components=2,
    likelihood="bernoulli",
    prior=GaussianBernoulliRBMPrior(12),
    max_iter=40,
    random_state=0,
).fit(images)
TrainingDisplay.from_estimator(vae, first_epoch=2)
plt.show()

# %%
# Reconstructions
# ---------------
#
# Two latents are not enough for ten digits: some digits are reconstructed as others.
ReconstructionDisplay.from_estimator(vae, images, image_shape=(8, 8), n_images=20)
plt.show()

# %%
# Latents
# -------
#
# The points are posterior means, and the colours the density of the prior. In dark regions without
# points, ``sample`` would draw latents unlike those of any row.
LatentDisplay.from_estimator(vae, images, y=digit)
plt.show()

# %%
# Diagnostics of the scores
# -------------------------
#
# If Pareto k-hat is above 0.7, neither the score of a row nor its standard error is reliable.
DiagnosticsDisplay.from_estimator(vae, images[:300])
plt.show()

# %%
# Markov chains of the prior
# --------------------------
#
# The traces of block Gibbs overlap, and split R-hat falls to 1. Langevin steps are small, so these
# chains need more steps.
_, axes = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
for ax, sampler in zip(axes, ["gibbs", "langevin"], strict=True):
    ChainsDisplay.from_estimator(vae, sampler=sampler, n_steps=300, random_state=0, ax=ax)
plt.show()

# %%
# Real and sampled rows
# ---------------------
#
# The table of patients has an integer, a category, two numbers, and a tenth of all entries missing.
# Histograms show the observed entries. If the model is good, both sides of the diagonal are mirror
# images.
table = load_diabetes(as_frame=True, scaled=False).data[["age", "sex", "bmi", "s3"]]
table = table.rename(columns={"s3": "hdl"})
table["sex"] = table["sex"].map({1.0: "female", 2.0: "male"})
table["age"] = table["age"].astype(int)
table = table.mask(np.random.RandomState(0).rand(*table.shape) < 0.1)
model = EnergyVAE(4, mask_rate=0.2, max_iter=80, random_state=0).fit(table)
DensityDisplay.from_estimator(model, table, random_state=0)
plt.show()

# %%
# The density of two columns, with the others integrated out.
DensityDisplay.from_estimator(model, table, features=["bmi", "hdl"], n_draws=200)
plt.show()
