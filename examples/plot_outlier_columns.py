"""
Explaining outliers column by column
====================================

:class:`~skevae.EnergyOutlierDetector` finds rows with a low density.
:meth:`~skevae.EnergyVAE.score_features` shows why a row is unusual: it returns the log-likelihood
of each entry given all other entries of its row. A value may be common in its column and still be
improbable in its row.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

from skevae import EnergyOutlierDetector, EnergyVAE

# %%
# The data are ten measurements of cell nuclei in 569 biopsies. The detector is fitted to benign
# ones only. Of new benign rows, more than ``contamination`` are labelled as outliers, because a
# model fitted to few rows scores its training rows somewhat higher than others.
cancer = load_breast_cancer(as_frame=True)
table = cancer.data.filter(like="mean ").rename(columns=lambda name: name.removeprefix("mean "))
benign, malignant = table[cancer.target == 1], table[cancer.target == 0]
train, test = train_test_split(benign, random_state=0)
estimator = EnergyVAE(6, likelihood="gaussian", random_state=0)
detector = EnergyOutlierDetector(estimator, contamination=0.05).fit(train)
for name, rows in {"benign": test, "malignant": malignant}.items():
    print(f"{name}: {np.mean(detector.predict(rows) == -1):.0%} called outliers")
scores = np.r_[detector.score_samples(test), detector.score_samples(malignant)]
auc = roc_auc_score(np.repeat([1, 0], [len(test), len(malignant)]), scores)
print(f"ROC-AUC {auc:.3f}")

# %%
# In a benign row, one entry is changed: its area becomes that of another benign biopsy. The value
# is common in its column, but impossible with the radius of this row.
row = test[np.abs(test["radius"] - 14) < 0.3][:1]
changed = row.assign(area=benign["area"].quantile(0.1))
print(
    f"score {detector.score_samples(row)[0]:.1f}, changed {detector.score_samples(changed)[0]:.1f}"
)

# %%
# Scores of entries are log-densities, which depend on the units of their columns. To compare
# columns, the median of the training rows is subtracted.
vae = detector.estimator_
usual = np.median(vae.score_features(train), axis=0)
worst = malignant.iloc[np.argsort(detector.score_samples(malignant))[[0, 10, 40, 80, 120]]]
shown = pd.concat([row, changed, worst])
labels = ["benign", "area changed", *[f"malignant {index}" for index in worst.index]]
entries = pd.DataFrame(vae.score_features(shown) - usual, labels, table.columns)
print(entries.idxmin(axis=1))

figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.2), layout="constrained")
left.hist(
    [detector.score_samples(rows).clip(-60) for rows in (test, malignant)],
    bins=40,
    label=["benign", "malignant"],
    stacked=True,
)
left.axvline(detector.offset_, color="k", lw=1, label="offset_")
left.set(xlabel="score (nats, clipped at -60)", ylabel="rows", title="Scores of new rows")
left.legend(frameon=False)
image = right.imshow(entries.clip(-15, 0), cmap="Reds_r", aspect="auto")
right.set_xticks(range(len(entries.columns)), entries.columns, rotation=45, ha="right")
right.set_yticks(range(len(labels)), labels)
right.set_title("ln p(entry | rest of the row), minus the median")
figure.colorbar(image, ax=right, label="nats, clipped at -15")
plt.show()
