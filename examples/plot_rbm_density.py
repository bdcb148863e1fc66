"""
An RBM as a density estimator of real-valued data
=================================================

:class:`~skevae.GaussianBernoulliRBMPrior` is the counterpart of
:class:`sklearn.neural_network.BernoulliRBM` for real-valued data. In addition, its partition
function is exact for a moderate number of hidden units, so its ``score`` is a log-likelihood. This
example compares it with the density estimators of scikit-learn on held-out rows, shows what it has
learned, and then compares the two RBMs as feature extractors.
"""

# %%
# Data
# ----
#
# Three data sets of scikit-learn are used. The pixels of the digits are integers from 0 to 16. A
# density of integers has no maximum, so uniform noise within the unit interval is added to each
# pixel, as is usual for images. Columns of the tables are standardised with the training rows. All
# models use the same numbers, and all log-likelihoods are in nats on that scale.

import sys

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, ShuffleSplit, train_test_split
from sklearn.neighbors import KernelDensity
from sklearn.neural_network import BernoulliRBM
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skevae import GaussianBernoulliRBMPrior

full = "--full" in sys.argv
rng = np.random.default_rng(0)
pixels, digit = load_digits(return_X_y=True)
pixels = (pixels + rng.uniform(size=pixels.shape)) / 17
digits_train, digits_test, digit_train, digit_test = train_test_split(
    pixels, digit, test_size=0.25, stratify=digit, random_state=0
)
data = {"digits": (digits_train, digits_test)}
for name, load in [("breast cancer", load_breast_cancer), ("wine", load_wine)]:
    train, test = train_test_split(load().data, test_size=0.25, random_state=0)
    scaler = StandardScaler().fit(train)
    data[name] = scaler.transform(train), scaler.transform(test)

# %%
# Four models, with sizes chosen by validation
# --------------------------------------------
#
# An RBM with :math:`H` hidden units is a mixture of :math:`2^H` Gaussians with shared parameters:
# all of them have the same diagonal covariance, and their means are sums of :math:`H` vectors. A
# Gaussian mixture has few components, each with its own shape. A kernel density puts one spherical
# Gaussian on every row.
#
# All models choose their parameters on the same fifth of the training rows.
#
# *Run this script with* ``--full`` *for more hidden units and longer training.*


def search(model, grid):
    """Choose by validation, then refit on all training rows."""
    return GridSearchCV(model, grid, cv=ShuffleSplit(1, test_size=0.2, random_state=0))


models = {
    "RBM": search(
        GaussianBernoulliRBMPrior(
            learning_rate=0.03,
            max_iter=400 if full else 50,
            random_state=0,
        ),
        {"n_components": [4, 8, 16, 20, 24] if full else [4, 8, 16]},
    ),
    "Gaussian mixture, full": search(
        GaussianMixture(reg_covar=1e-4, random_state=0), {"n_components": [1, 2, 5, 10]}
    ),
    "Gaussian mixture, diagonal": search(
        GaussianMixture(covariance_type="diag", reg_covar=1e-4, random_state=0),
        {"n_components": [1, 5, 10, 20, 50]},
    ),
    "kernel density": search(KernelDensity(), {"bandwidth": np.geomspace(0.05, 1.5, 16)}),
}

# %%
# Held-out log-likelihood
# -----------------------
#
# The table shows the mean over test rows with its standard error. The last column is the mean
# difference from the best model, row by row, with *its* standard error: rows that are hard for one
# model are hard for all, so differences are more precise than the means.

scores, fitted = {}, {}
for name, (train, test) in data.items():
    for label, model in models.items():
        best = model.fit(train).best_estimator_
        fitted[name, label] = best
        scores[name, label] = best.score_samples(test)

for name, (train, test) in data.items():
    winner = max(models, key=lambda label: scores[name, label].mean())
    print(f"{name}: {len(train)} training rows, {len(test)} test rows, {train.shape[1]} columns")
    print(f"  {'':28}{'choice':>20}{'nats':>18}{'behind the best':>20}")
    for label in models:
        row_scores = scores[name, label]
        gap = scores[name, winner] - row_scores
        error, gap_error = (v.std(ddof=1) / np.sqrt(len(v)) for v in (row_scores, gap))
        (key,) = models[label].param_grid
        choice = f"{key} {getattr(fitted[name, label], key):.3g}"
        behind = "" if label == winner else f"{gap.mean():.2f} ± {gap_error:.2f}"
        nats = f"{row_scores.mean():.2f} ± {error:.2f}"
        print(f"  {label:28}{choice:>20}{nats:>18}{behind:>20}")
    print()

# %%
# The same results as a plot. Bars are two standard errors.

colours = ["#D55E00", "#0072B2", "#56B4E9", "#009E73"]
figure, axes = plt.subplots(1, 3, figsize=(9.5, 2.7), sharey=True, layout="constrained")
for axis, name in zip(axes, data, strict=True):
    for height, (label, colour) in enumerate(zip(models, colours, strict=True)):
        row_scores = scores[name, label]
        error = row_scores.std(ddof=1) / np.sqrt(len(row_scores))
        axis.errorbar(row_scores.mean(), height, xerr=2 * error, fmt="o", color=colour, capsize=4)
    axis.set(title=name, xlabel="test log-likelihood (nats)", ylim=(3.5, -0.5))
    axis.grid(axis="x", color="0.9")
axes[0].set_yticks(range(len(models)), list(models))
plt.show()

# %%
# Where the RBM is worse than the mixtures, the shared parameters are the reason. A shared
# covariance cannot be narrow for one group only, for example for a pixel that is always blank in
# some digits. With a diagonal covariance, linear dependence between columns must be modelled by the
# hidden units, and many of them are needed to approximate a line. Means that are sums of a few
# vectors cannot be at arbitrary places. If groups have similar shapes and there are few rows,
# sharing parameters costs little.
#
# What it has learned
# -------------------
#
# Each hidden unit adds its row of ``components_`` to the mean image. The plot shows the filters of
# the RBM on the digits: orange where a unit adds ink, and purple where it removes ink.

rbm = fitted["digits", "RBM"]


def mosaic(axis, images, n_columns, **options):
    """Draw images of 8 x 8 pixels side by side, with a gap between them."""
    framed = np.pad(
        images.reshape(-1, n_columns, 8, 8),
        [(0, 0), (0, 0), (1, 1), (1, 1)],
        constant_values=np.nan,
    )
    tiled = framed.transpose(0, 2, 1, 3).reshape(-1, 10 * n_columns)
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    return axis.imshow(tiled, **options)


def draw_filters(axis, filters, n_columns):
    """Draw filters on a scale that is symmetric about zero."""
    reach = np.abs(filters).max()
    return mosaic(axis, filters, n_columns, cmap="PuOr_r", vmin=-reach, vmax=reach)


figure, axis = plt.subplots(figsize=(8.5, 2.4), layout="constrained")
image = draw_filters(axis, rbm.components_, n_columns=8 if rbm.n_components >= 8 else 4)
axis.set_title(f"{rbm.n_components} filters of the RBM")
figure.colorbar(image, label="ink", shrink=0.8)
plt.show()

# %%
# The plot shows real digits, their reconstructions (the mean of the pixels given the hidden
# probabilities of the row) and samples. With up to 32 hidden units, samples are exact: there is no
# Markov chain and no burn-in. A sample includes the pixel noise of the model, which is the same for
# all of its Gaussians; reconstructing the sample removes most of it. The last panel shows samples
# from the mixture.

mixture = fitted["digits", "Gaussian mixture, full"]
sampled = rbm.sample(25, random_state=0)
panels = {
    "real digits": digits_test[:25],
    "reconstructed by the RBM": rbm.reconstruct(digits_test[:25]),
    "sampled from the RBM": sampled,
    "the same, reconstructed": rbm.reconstruct(sampled),
    "sampled from the mixture": rng.permutation(mixture.sample(25)[0]),
}

figure, axes = plt.subplots(1, len(panels), figsize=(11, 2.5), layout="constrained")
for axis, (title, images) in zip(axes, panels.items(), strict=True):
    mosaic(axis, images, n_columns=5, cmap="gray_r", vmin=0, vmax=1)
    axis.set_title(title, fontsize="medium")
plt.show()

# %%
# Comparison with BernoulliRBM
# ----------------------------
#
# :class:`~sklearn.neural_network.BernoulliRBM` treats pixels in [0, 1] as probabilities of ink. Its
# ``score_samples`` is a pseudo-likelihood of binary images, so it cannot be included in the table
# above. Both models can transform an image into the probabilities of their hidden units. Here they
# have the same number of units and are followed by the same classifier; classification of the raw
# pixels is the reference. The learning rate of BernoulliRBM is chosen by validation.

bernoulli = BernoulliRBM(rbm.n_components, n_iter=60, random_state=0)
classifier = LogisticRegression(max_iter=2000)
pipelines = {
    "raw pixels": make_pipeline(classifier),
    "BernoulliRBM": search(
        make_pipeline(bernoulli, classifier),
        {"bernoullirbm__learning_rate": [0.01, 0.03, 0.1, 0.3]},
    ),
    "GaussianBernoulliRBMPrior": make_pipeline(rbm, classifier),
}
print(f"{'features of the digits':28}{'columns':>8}{'test accuracy':>18}")
for name, pipeline in pipelines.items():
    accuracy = pipeline.fit(digits_train, digit_train).score(digits_test, digit_test)
    error = np.sqrt(accuracy * (1 - accuracy) / len(digit_test))
    columns = pixels.shape[1] if name == "raw pixels" else rbm.n_components
    print(f"{name:28}{columns:8}{f'{accuracy:.1%} ± {error:.1%}':>18}")

# %%
# The filters of both RBMs. They are in different units, ink for the Gaussian units and log-odds for
# the binary ones, so each panel has its own scale.

bernoulli = pipelines["BernoulliRBM"].best_estimator_[0]
figure, axes = plt.subplots(1, 2, figsize=(9, 3.9), layout="constrained")
for axis, model, unit in zip(axes, [rbm, bernoulli], ["ink", "log-odds"], strict=True):
    image = draw_filters(axis, model.components_, n_columns=4)
    axis.set_title(type(model).__name__)
    figure.colorbar(image, label=unit, shrink=0.9)
plt.show()
