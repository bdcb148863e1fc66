"""
Imputation against KNNImputer and IterativeImputer
==================================================

A fifth of the entries of a table of wines are removed and imputed by :class:`~skevae.EnergyImputer`
and by two imputers of scikit-learn. A density needs no encoding of categories. It can also draw
imputations at random: the spread of many draws shows the uncertainty of an imputed entry.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import load_wine
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer
from sklearn.preprocessing import StandardScaler

from skevae import EnergyImputer, EnergyVAE

# %%
# The data are thirteen measurements of 178 wines, and their cultivar, a category.
wine = load_wine(as_frame=True)
truth = wine.data.assign(cultivar=[f"cultivar {k}" for k in wine.target])
removed = np.random.RandomState(0).rand(*truth.shape) < 0.2
table = truth.mask(removed)
print(table.iloc[:4, -4:])

# %%
# :class:`~skevae.EnergyImputer` uses the table without preprocessing. The others need numbers: for
# them, cultivars are one-hot encoded and all columns are standardised. The column of the first
# cultivar is dropped; otherwise regressions would predict it from the other two, which are missing
# at the same time.
imputer = EnergyImputer(EnergyVAE(8, mask_rate=0.2, random_state=0))
filled = {"EnergyImputer": imputer.fit_transform(table)}
numbers, names = wine.data.columns, np.unique(truth["cultivar"])
dummies = pd.get_dummies(table["cultivar"], dtype=float)[names[1:]]
dummies[table["cultivar"].isna()] = np.nan
encoded = pd.concat([table[numbers], dummies], axis=1)
scaler = StandardScaler().set_output(transform="pandas").fit(encoded)
for peer in (KNNImputer(), IterativeImputer(random_state=0)):
    values = scaler.inverse_transform(peer.fit_transform(scaler.transform(encoded)))
    frame = pd.DataFrame(values, columns=encoded.columns)
    shares = frame[names[1:]].assign(rest=1 - frame[names[1:]].sum(axis=1))[["rest", *names[1:]]]
    filled[type(peer).__name__] = frame.assign(cultivar=names[shares.to_numpy().argmax(axis=1)])

# %%
# Errors of the removed entries, for numbers in standard deviations of their column.
where = removed[:, :-1]
for name, frame in filled.items():
    gap = ((frame[numbers] - truth[numbers]) / truth[numbers].std()).to_numpy()[where]
    hidden = removed[:, -1]
    right = (frame["cultivar"] == truth["cultivar"])[hidden].mean()
    print(f"{name:18} rms error {np.sqrt(np.mean(gap**2)):.2f}, cultivars right {right:.0%}")

# %%
# Each removed entry is drawn many times. The interval between quantiles of the draws should contain
# the true value with its nominal probability. It contains it somewhat less often, because the model
# is fitted to few rows and the quantiles are those of 30 draws.
density = imputer.estimator_
draws = np.array(
    [density.impute(table, method="draw", random_state=s)[numbers].to_numpy() for s in range(30)]
)
levels = np.array([0.2, 0.4, 0.6, 0.8, 0.9])
held = []
for level in levels:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    held.append(((truth[numbers] >= low) & (truth[numbers] <= high)).to_numpy()[where].mean())

figure, axes = plt.subplots(1, 3, figsize=(12, 3.9), layout="constrained")
for ax, column in zip(axes, ("flavanoids", "malic_acid"), strict=False):
    j = numbers.get_loc(column)
    at, x = where[:, j], truth[column][where[:, j]]
    ends = np.quantile(draws[:, at, j], [0.05, 0.95], axis=0)
    ax.vlines(x, *ends, color="C0", alpha=0.4, label="90% of the draws")
    for marker, (name, frame) in zip("ox+", filled.items(), strict=True):
        ax.scatter(x, frame[column][at], s=16, marker=marker, label=name, alpha=0.8)
    ax.axline((x.mean(), x.mean()), slope=1, color="k", lw=0.8)
    ax.set(xlabel="truth", ylabel="filled in", title=column)
axes[0].legend(frameon=False, fontsize=8)
axes[2].plot([0, 1], [0, 1], color="k", lw=0.8)
axes[2].plot(levels, held, "o-")
axes[2].set(
    xlabel="level of the interval", ylabel="removed entries within", title="Intervals of draws"
)
plt.show()
