"""
Outliers, explained column by column
====================================

:class:`~skevae.EnergyOutlierDetector` finds rows of low density. Why a row is odd is told by
:meth:`~skevae.EnergyVAE.score_features`: the log-likelihood of each entry given all others of its
row. A value may be quite ordinary by itself and still be improbable in its row.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

from skevae import EnergyOutlierDetector, EnergyVAE

# %%
# Ten measurements of cell nuclei in 569 biopsies. The detector sees benign ones alone. More than
# ``contamination`` of new benign rows are called outliers, because a model of few rows scores those
# that it has seen somewhat higher than others.
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
# One entry is changed in a benign row: its area becomes that of another benign biopsy. By itself it
# is ordinary; with the radius of this row it is impossible.
row = test[np.abs(test["radius"] - 14) < 0.3][:1]
changed = row.assign(area=benign["area"].quantile(0.1))
print(
    f"score {detector.score_samples(row)[0]:.1f}, changed {detector.score_samples(changed)[0]:.1f}"
)

# %%
# Scores of entries are densities in units of their columns. To compare columns, each is measured by
# how far it is below the median of the training rows.
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
right.set_title("ln p(entry | rest of the row), below what is usual")
figure.colorbar(image, ax=right, label="nats, clipped at -15")
plt.show()
