"""
Conditional distribution of a column
====================================

A regression gives one value, or a few quantiles, for each x. A density of the whole table gives the
full distribution of any column given any others, from a single fit. This example shows the
flavonoids of 178 wines given their colour. The wines are of three cultivars, so the distribution
has two peaks for some colours.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import load_wine

from skevae import EnergyVAE

# %%
# One model is fitted to all thirteen columns, without the cultivars. ``mask_rate`` prepares the
# encoder for rows with only one or two known entries.
wine = load_wine(as_frame=True)
table = wine.data
vae = EnergyVAE(8, mask_rate=0.5, random_state=0).fit(table)

# %%
# Rows are drawn given one of their entries. Bands between quantiles of the draws show the width of
# the distribution.
given, column = "color_intensity", "flavanoids"
grid = np.linspace(*table[given].quantile([0.01, 0.99]), 25)
levels = [0.05, 0.25, 0.5, 0.75, 0.95]
bands = np.array(
    [vae.sample(1000, given={given: x}, random_state=0)[column].quantile(levels) for x in grid]
)
inside = table[given].between(grid[0], grid[-1])
low, high = (np.interp(table[given][inside], grid, bands[:, k]) for k in (0, -1))
share = np.mean(table[column][inside].between(low, high))
print(f"{share:.0%} of the wines are within the bands of 90%")

# %%
# The conditional density itself, ln p(flavonoids | colour), is computed at points of a grid. All
# other columns are missing, and therefore excluded from the likelihood.
heights = np.linspace(-1, 6, 71)
rows = pd.DataFrame(np.nan, index=range(len(grid) * len(heights)), columns=table.columns)
rows[given], rows[column] = np.repeat(grid, len(heights)), np.tile(heights, len(grid))
result = vae.log_likelihood(rows, given=[given])
density = np.exp(result.log_likelihood).reshape(len(grid), len(heights))
areas = np.trapezoid(density, heights, axis=1)
print(f"areas under the curves: {areas.min():.3f} to {areas.max():.3f}")

# %%
# The density shows what bands hide: at medium colours there are two kinds of wine.
figure, axes = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
axes[0].fill_between(grid, bands[:, 0], bands[:, 4], alpha=0.2, color="C0", label="90%")
axes[0].fill_between(grid, bands[:, 1], bands[:, 3], alpha=0.4, color="C0", label="50%")
axes[0].plot(grid, bands[:, 2], color="C0", label="median")
axes[0].scatter(table[given], table[column], s=6, color="0.3", label="wines")
axes[0].set(title="Bands", ylabel=column)
axes[0].legend(frameon=False)
axes[1].pcolormesh(grid, heights, density.T, shading="gouraud", cmap="Blues")
for cultivar in range(3):
    own = table[wine.target == cultivar]
    axes[1].scatter(own[given], own[column], s=6, color=f"C{cultivar + 1}")
axes[1].set(title="Density, and the wines by cultivar")
for ax in axes[:2]:
    ax.set(xlabel=given, xlim=(grid[0], grid[-1]), ylim=(0, 5.3))
for x in (3, 5, 8):
    k = np.abs(grid - x).argmin()
    axes[2].plot(heights, density[k], label=f"{given} {grid[k]:.1f}")
axes[2].set(title="Density at three colours", xlabel=column, xlim=(0, 5.3), ylim=(0, None))
axes[2].legend(frameon=False)
plt.show()
