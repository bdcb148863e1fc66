"""Quick start: an energy-based VAE on scikit-learn's digits, compared with other models.

Trains on the bundled digits, prints the held-out log-likelihood of each model with its standard
error, and plots real and sampled digits to examples/output/quickstart.png.
"""

from pathlib import Path
from time import perf_counter

import numpy as np
from sklearn.callback import ProgressBar
from sklearn.datasets import load_digits
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neighbors import KernelDensity

from skevae import EnergyVAE

OUTPUT = Path(__file__).resolve().parent / "output"

# Pixels are integers from 0 to 16. A density of discrete data has no maximum, so uniform noise
# within the unit interval is added, as is usual for images. All models use the same numbers.
rng = np.random.default_rng(0)
X = load_digits().data
X = (X + rng.uniform(size=X.shape)) / 17
X_train, X_test = train_test_split(X, test_size=0.25, random_state=0)

# The single parameter of the other models is chosen by cross-validation; the VAEs are untuned.
mixture = GridSearchCV(
    GaussianMixture(covariance_type="diag", reg_covar=1e-4, random_state=0),
    {"n_components": [10, 20, 50, 100]},
    n_jobs=2,
)
mixture_full = GridSearchCV(
    GaussianMixture(reg_covar=1e-4, random_state=0), {"n_components": [1, 2, 5, 10]}, n_jobs=2
)
kernel = GridSearchCV(KernelDensity(), {"bandwidth": np.geomspace(0.03, 0.3, 8)}, n_jobs=2)
models = {
    "EnergyVAE": EnergyVAE(random_state=0),
    "VAE with N(0, I) prior": EnergyVAE(prior="normal", random_state=0),
    "GaussianMixture (full)": mixture_full,
    "GaussianMixture (diagonal)": mixture,
    "KernelDensity": kernel,
}

print(f"{len(X_train)} training rows, {len(X_test)} test rows, {X.shape[1]} pixels\n")
rows = []
for name, model in models.items():
    if isinstance(model, EnergyVAE):
        model.set_callbacks(ProgressBar())
    start = perf_counter()
    model.fit(X_train)
    seconds = perf_counter() - start
    fitted = getattr(model, "best_estimator_", model)
    scores = fitted.score_samples(X_test)
    rows.append((name, scores.mean(), scores.std(ddof=1) / np.sqrt(len(scores)), seconds))

print(f"\n{'model':28}{'test log-likelihood (nats)':>28}{'fit (s)':>10}")
for name, mean, error, seconds in sorted(rows, key=lambda row: -row[1]):
    print(f"{name:28}{f'{mean:.2f} +- {error:.2f}':>28}{seconds:10.1f}")

vae = models["EnergyVAE"]
result = vae.log_likelihood(X_test)
low, high = vae.prior_.log_partition_interval_
print(
    f"\nEnergyVAE: ln Z of its prior in [{low:.4f}, {high:.4f}] nats; importance-sampling error of "
    f"a row {np.median(result.standard_error):.2f} nats (median); "
    f"{np.mean(result.pareto_k > 0.7):.0%} of the rows have Pareto k-hat above 0.7.\n"
    "All numbers are normalised and on the scale of X. +- is the standard error over test rows."
)

import matplotlib  # noqa: E402

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

pictures = {
    "real digits": X_test[:40],
    "reconstructed": vae.reconstruct(X_test[:40]),
    "sampled from EnergyVAE": vae.sample(40, random_state=0),
}
figure, axes = plt.subplots(1, len(pictures), figsize=(12, 3), layout="constrained")
for axis, (title, images) in zip(axes, pictures.items(), strict=True):
    framed = np.pad(images.reshape(5, 8, 8, 8), [(0, 0), (0, 0), (2, 2), (2, 2)])
    axis.imshow(framed.transpose(0, 2, 1, 3).reshape(60, 96), cmap="gray_r", vmin=0, vmax=1)
    axis.set(title=title, xticks=[], yticks=[])
OUTPUT.mkdir(exist_ok=True)
figure.savefig(OUTPUT / "quickstart.png", dpi=120)
print(f"\nPicture: {OUTPUT / 'quickstart.png'}")
