"""
Markov chains of an RBM and its exact moments
=============================================

A Gaussian-Bernoulli RBM is usually sampled by Markov chains, and it is often unknown whether the
chains have converged. With few hidden units, this can be checked: the RBM is a finite mixture of
Gaussians, so its moments are known exactly and every sampler can be compared with them.

This example fits a :class:`~skevae.GaussianBernoulliRBMPrior` to three separated groups of points,
runs all of its samplers on the fitted density, and shows two kinds of failure: chains that do not
cross between modes, and steps that are too long.
"""

# %%
# Three groups of unequal size
# ----------------------------
#
# Each group is a Gaussian of unit variance. The distances between the groups are much larger, which
# is difficult for chains that move in small steps.

import sys
from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import LogLocator, NullFormatter
from scipy.stats import norm

from skevae import GaussianBernoulliRBMPrior
from skevae.samplers import SAMPLERS

rng = np.random.default_rng(0)
centres = np.array([[-5.0, -3.0], [5.0, -3.0], [0.0, 6.0]])
groups = rng.choice(3, size=1000, p=[0.6, 0.3, 0.1])
X = centres[groups] + rng.normal(size=(1000, 2))

rbm = GaussianBernoulliRBMPrior(
    n_components=8, learning_rate=0.05, batch_size=500, early_stopping=False, random_state=0
).fit(X)

# %%
# Exact moments
# -------------
#
# Given its hidden units, an RBM is the Gaussian :math:`N(\mu + W h, \Sigma)`. Summing over all
# :math:`2^H` configurations gives a mixture, with weights
#
# .. math::
#     \ln w(h) = b \cdot h + \sum_i \frac{(\mu + W h)_i^2 - \mu_i^2}{2 \sigma_i^2} + \text{const.}
#
# With eight hidden units there are 256 Gaussians. The mean and covariance of the mixture are sums.

units = np.arange(rbm.n_components)
hidden = (np.arange(2**rbm.n_components)[:, None] >> units) & 1
means = rbm.inverse_transform(hidden.astype(float))
log_weights = hidden @ rbm.intercept_hidden_
log_weights += ((means**2 - rbm.intercept_visible_**2) / (2 * rbm.scale_**2)).sum(axis=1)
weights = np.exp(log_weights - log_weights.max())
weights /= weights.sum()

true_mean = weights @ means
true_covariance = (weights * (means - true_mean).T) @ (means - true_mean) + np.diag(rbm.scale_**2)

# %%
# The fitted log-density, in nats, with the training data.

grid = np.linspace(-9, 10, 120)
plane = np.stack(np.meshgrid(grid, grid), axis=-1)
log_density = rbm.score_samples(plane.reshape(-1, 2)).reshape(120, 120)

figure, axis = plt.subplots(figsize=(6.2, 5), layout="constrained")
levels = np.arange(-14, -1.5, 1.5)
filled = axis.contourf(grid, grid, log_density, levels, cmap="Blues", extend="min")
axis.scatter(*X[:300].T, s=8, color="#E69F00", alpha=0.9, linewidths=0, label="data")
axis.set(xlabel="$x_1$", ylabel="$x_2$", aspect="equal", xlim=(-9, 9), ylim=(-7, 10))
axis.set_title("The fitted RBM")
axis.legend(loc="upper left", frameon=False, markerscale=2)
figure.colorbar(filled, label="log-density (nats)")
plt.show()

# %%
# Comparison of the samplers
# --------------------------
#
# A third of the chains starts at each centre, although the groups are not of equal size: for a
# correct mean, chains have to move between groups. The chains are independent of each other, so the
# spread of their averages gives a valid standard error, even if each chain moves slowly. An error
# of more than three or four standard errors shows a bias.
#
# The other columns are diagnostics that do not need exact moments: the fraction of accepted
# Metropolis proposals, split R-hat (above 1.05 the chains disagree) and the effective sample size
# (ESS) per 1000 transitions and per second. If R-hat is large, the ESS is not meaningful.
#
# *Run this script with* ``--full`` *for five times as many transitions.*

samplers = {
    "gibbs": ("#0072B2", "-"),
    "langevin": ("#D55E00", "-"),
    "metropolis-langevin": ("#D55E00", "--"),
    "gibbs-langevin": ("#CC79A7", "-"),
    "metropolis-gibbs-langevin": ("#CC79A7", "--"),
    "parallel-tempering": ("#009E73", "-"),
    "exact": ("#000000", "-"),
}
n_chains, n_steps = 150, 5000 if "--full" in sys.argv else 1000
starts = centres[np.arange(n_chains) % 3]


def in_standard_errors(chain_values, truth):
    """Largest error of the mean over chains, in its standard errors."""
    error = chain_values.std(axis=0, ddof=1) / np.sqrt(len(chain_values))
    return np.max(np.abs(chain_values.mean(axis=0) - truth) / error)


def moments_of_each_chain(samples):
    """Mean (n_chains, 2) and covariance about the true mean (n_chains, 2, 2) of each chain."""
    deviations = samples - true_mean
    return samples.mean(axis=0), np.einsum("sci,scj->cij", deviations, deviations) / len(samples)


print(f"{n_chains} chains of {n_steps} transitions. Errors are in standard errors.\n")
print(f"{'':26}{'error of':>16}{'':>13}{'split':>8}{'ESS per':>12}{'ESS per':>10}")
header = f"{'sampler':26}{'mean':>6}{'covariance':>12}{'acceptance':>11}{'R-hat':>8}"
print(header + f"{'1000 steps':>12}{'second':>10}")
runs = {}
for name in samplers:
    start = perf_counter()
    chains = rbm.run_chains(n_steps=n_steps, burn_in=100, sampler=name, X=starts, random_state=0)
    seconds = perf_counter() - start
    runs[name] = chains
    chain_means, chain_covariances = moments_of_each_chain(chains.samples)
    ess = chains.effective_sample_size.min()
    accepted = f"{chains.acceptance_rate:.0%}" if chains.acceptance_rate >= 0 else "-"
    print(
        f"{name:26}{in_standard_errors(chain_means, true_mean):6.1f}"
        f"{in_standard_errors(chain_covariances, true_covariance):12.1f}{accepted:>11}"
        f"{chains.r_hat.max():8.3f}{1000 * ess / (n_chains * n_steps):12.1f}{ess / seconds:10.0f}"
    )

# %%
# Chains that do not mix
# ----------------------
#
# The plot shows three chains of block Gibbs, one from each centre, above three of parallel
# tempering. Gibbs draws exactly from each conditional, but it rarely leaves a group: to leave, a
# hidden unit has to switch while the point is still deep inside of its group. The frequencies of
# the groups therefore stay close to those of the starting points (histogram), and not to those of
# the density (line). Tempering runs the same sweeps at several temperatures. At the highest
# temperature there is a single broad mode; states that crossed there are exchanged with lower
# temperatures.


def marginal(x):
    """Exact density of the first feature."""
    return norm.pdf(x[:, None], means[:, 0], rbm.scale_[0]) @ weights


figure, axes = plt.subplots(
    2, 2, figsize=(9, 5.5), sharey=True, width_ratios=[4, 1], layout="constrained"
)
shown = ["#0072B2", "#D55E00", "#009E73"]  # one chain from each centre
for (trace, histogram), name in zip(axes, ["gibbs", "parallel-tempering"], strict=True):
    samples = runs[name].samples[:200, :, 0]
    for chain, colour in enumerate(shown):
        trace.plot(samples[:, chain], color=colour, linewidth=0.8)
    trace.set(ylabel="$x_1$", xlim=(0, 200))
    trace.set_title(f"{name}: three chains; split R-hat {runs[name].r_hat[0]:.2f}", loc="left")
    pooled = runs[name].samples[..., 0].ravel()
    bins = np.linspace(-9, 9, 55)
    histogram.hist(pooled, bins, density=True, orientation="horizontal", color="#BBBBBB")
    histogram.plot(marginal(grid), grid, color="black", linewidth=1.5)
    histogram.set(ylim=(-9, 9), xticks=[])
axes[0, 1].set_title("all chains / exact", fontsize="medium")
axes[1, 0].set_xlabel("transition")
axes[1, 1].set_xlabel("density")
plt.show()

# %%
# The error of the mean
# ---------------------
#
# How far is the average of one chain from the true mean? The error of independent draws decreases
# with the square root of their number (dotted line). The error of a chain that mixes decreases at
# the same rate, but is larger because of its autocorrelation. The error of a chain that does not
# mix does not decrease.

steps = np.unique(np.geomspace(1, n_steps, 60).round().astype(int))
figure, axis = plt.subplots(figsize=(8, 4.6), layout="constrained")
for name, (colour, style) in samplers.items():
    running = np.cumsum(runs[name].samples, axis=0)[steps - 1] / steps[:, None, None]
    distance = np.sqrt(np.square(running - true_mean).sum(axis=-1).mean(axis=-1))
    axis.loglog(steps, distance, color=colour, linestyle=style, label=name)
independent = np.sqrt(np.trace(true_covariance) / steps)
axis.loglog(
    steps, independent, color="0.4", linestyle=":", linewidth=3, label=r"$\propto 1/\sqrt{n}$"
)
axis.set(xlabel="transitions of one chain", ylabel="root mean square error of the mean")
axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
axis.yaxis.set_major_formatter("{x:g}")
axis.yaxis.set_minor_formatter(NullFormatter())
axis.set_title("Only chains that cross between the modes converge")
figure.legend(loc="outside right upper", frameon=False)
plt.show()

# %%
# Steps that are too long
# -----------------------
#
# Langevin steps have a second problem: without a Metropolis test, their stationary density is not
# the target. To isolate this effect, chains start from exact draws. A correct sampler does not
# change this distribution, even if it does not cross between modes; a biased one drifts away. The
# measure is the variance within a group, that is, the squared distance to the nearest centre,
# compared with that of exact draws.
#
# For a Gaussian, steps of size :math:`\epsilon`, in units of its standard deviation, multiply the
# variance by :math:`1 / (1 - \epsilon^2 / 4)` (dotted line). The Metropolis test removes this bias
# at the cost of rejected steps (lower panel).


def variance_within(samples):
    """Mean squared distance to the nearest centre, per feature: (..., 2) -> (...)."""
    deviations = samples[..., None, :] - centres
    return np.square(deviations).sum(axis=-1).min(axis=-1) / 2


draws = rbm.sample(100_000, random_state=1)
exact_variance = variance_within(draws).mean()
step_sizes = np.array([0.2, 0.4, 0.6, 0.8, 1.0, 1.2])
smooth = np.linspace(0, 1.25)

figure, (ratio, acceptance) = plt.subplots(
    2, 1, figsize=(7, 5.8), sharex=True, height_ratios=[2, 1], layout="constrained"
)
ratio.axhline(1, color="0.6", linewidth=1)
ratio.plot(smooth, 1 / (1 - smooth**2 / 4), color="0.4", linestyle=":", label="theory, Gaussian")
for name, marker in [("langevin", "o"), ("metropolis-langevin", "s")]:
    colour = {"langevin": "#D55E00", "metropolis-langevin": "#0072B2"}[name]
    rates = []
    for index, step_size in enumerate(step_sizes):
        chains = rbm.run_chains(
            n_steps=40,
            burn_in=40,
            sampler=SAMPLERS[name](step_size=step_size),
            X=draws[:2000],
            random_state=index,
        )
        of_chains = variance_within(chains.samples).mean(axis=0) / exact_variance
        error = of_chains.std(ddof=1) / np.sqrt(len(of_chains))
        ratio.errorbar(
            step_size, of_chains.mean(), 2 * error, color=colour, marker=marker, capsize=3,
            label=name if index == 0 else None,
        )  # fmt: skip
        rates.append(chains.acceptance_rate)
    if name == "metropolis-langevin":
        acceptance.plot(step_sizes, rates, color=colour, marker=marker)
ratio.set(ylabel="variance within a group,\nrelative to exact draws", xlim=(0, 1.25))
ratio.legend(loc="upper left", frameon=False)
acceptance.set(xlabel=r"step size $\epsilon$ (in units of $\sigma$)", ylim=(0, 1.05))
acceptance.set_ylabel("share of steps\naccepted")
plt.show()

# %%
# Conclusions
# -----------
#
# - Compute R-hat from chains that start *far apart*: chains that all start in one mode agree with
#   each other, but all of them may be wrong.
# - A Metropolis test removes the bias of long steps. It does not help chains that cannot cross
#   between modes; tempering does.
# - If :math:`H` is small, prefer ``sampler="exact"``. Draws are independent and need no
#   diagnostics. They cost :math:`2^{H+1}` operations, so Markov chains are needed for many hidden
#   units, and parallel tempering is the safest of them.
