"""
A table with missing values and categories
==========================================

The table has four hundred patients with numbers, an integer, a category, and a tenth of all entries
missing. One fit of :class:`~skevae.EnergyVAE` gives a density of rows, new rows, and all
conditional distributions. This example compares imputed entries with the true ones, and plots the
distribution of one column given another as bands.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import load_diabetes
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer

from skevae import EnergyVAE

# %%
# The data of Efron et al. (2004), with names instead of codes, and entries missing at random.
truth = load_diabetes(as_frame=True, scaled=False).data
truth = truth.rename(columns={"s1": "cholesterol", "s2": "ldl", "s3": "hdl", "s6": "glucose"})
truth["sex"] = truth["sex"].map({1.0: "female", 2.0: "male"})
truth["age"] = truth["age"].astype(int)
holes = np.random.RandomState(0).rand(*truth.shape) < 0.1
table = truth.mask(holes)
print(table.head())

# %%
# The kinds of columns are inferred from their dtypes: strings are categories.
vae = EnergyVAE(8, mask_rate=0.2, random_state=0).fit(table)
print(f"{vae.score(table):.2f} nats a row, of the observed entries")
print(vae.sample(3, random_state=0))

# %%
# Errors of imputed means, compared with two imputers of scikit-learn, which only accept numbers.
# Errors are relative to the standard deviation of the column.
numbers = [name for name in truth if name != "sex"]
filled = vae.impute(table)
peers = {
    "IterativeImputer": IterativeImputer(random_state=0, max_iter=20),
    "KNNImputer": KNNImputer(),
}
filled_by = {"EnergyVAE": filled[numbers]}
for name, imputer in peers.items():
    values = imputer.fit_transform(table[numbers].astype(float))
    filled_by[name] = pd.DataFrame(values, columns=numbers)
where = holes[:, [truth.columns.get_loc(name) for name in numbers]]
errors = {
    name: ((values.to_numpy(float) - truth[numbers]) / truth[numbers].std()).to_numpy()[where]
    for name, values in filled_by.items()
}
for name, error in errors.items():
    print(f"{name:18} root mean square error {np.sqrt(np.mean(error**2)):.3f}")
hidden = table["sex"].isna()
right = (filled["sex"].to_numpy() == truth["sex"].to_numpy())[hidden]
print(f"sex: {right.mean():.0%} of {hidden.sum()} missing entries right")

# %%
# The distribution of ldl given only cholesterol: 2,000 draws for each of 12 values, as bands.
grid = np.linspace(*truth["cholesterol"].quantile([0.02, 0.98]), 12).round()
levels = [0.05, 0.25, 0.5, 0.75, 0.95]
draws = [vae.sample(2000, given={"cholesterol": x}, random_state=0)["ldl"] for x in grid]
bands = np.array([drawn.quantile(levels) for drawn in draws])

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
left.scatter(truth["cholesterol"], truth["ldl"], s=5, color="0.4", label="patients")
left.fill_between(grid, bands[:, 0], bands[:, 4], alpha=0.2, color="C0", label="90%")
left.fill_between(grid, bands[:, 1], bands[:, 3], alpha=0.4, color="C0", label="50%")
left.plot(grid, bands[:, 2], color="C0", label="median")
left.set(xlabel="cholesterol", ylabel="ldl", title="ldl given cholesterol")
left.legend(frameon=False)
right.boxplot(
    [np.abs(error) for error in errors.values()], tick_labels=list(errors), showfliers=False
)
right.set(ylabel="error / standard deviation", title="Imputed numbers, absolute error")

# %%
# Why a row is unusual: ln p of each entry given the rest of its row.
row = truth[:1].assign(hdl=150.0)
scores = pd.Series(vae.score_features(row)[0], truth.columns)
print(scores.round(1).sort_values().head(3))
plt.show()
