"""Imputers of scikit-learn and miceforest for mixed tables, for `imputation.py`.

Each is a function of a table with missing entries and a seed, which returns the imputed table.
"""

import numpy as np
import pandas as pd
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer


def one_hot(imputer, frame):
    """Impute with an imputer of numbers: categories are one-hot columns, and the largest is chosen.

    The column of the first category is dropped: otherwise regressions would predict each column
    from the others, which are missing at the same time. Columns are standardised, which
    `KNNImputer` needs.
    """
    parts = []
    for name in frame:
        part = frame[[name]]
        if not pd.api.types.is_numeric_dtype(frame[name]):
            part = pd.get_dummies(frame[name], dtype=float).iloc[:, 1:]
            part[frame[name].isna()] = np.nan
        parts.append(part.to_numpy(float))
    X = np.hstack(parts)
    centre, scale = np.nanmean(X, 0), np.nanstd(X, 0)
    scale[scale == 0] = 1
    filled = imputer.fit_transform((X - centre) / scale) * scale + centre
    blocks = np.split(filled, np.cumsum([part.shape[1] for part in parts])[:-1], axis=1)
    result = {}
    for name, block in zip(frame, blocks, strict=True):
        if pd.api.types.is_numeric_dtype(frame[name]):
            result[name] = block[:, 0]
        else:
            block = np.column_stack([1 - block.sum(1), block])
            result[name] = np.array(frame[name].cat.categories)[block.argmax(1)]
    return pd.DataFrame(result)


def trees(seed):
    forest = ExtraTreesRegressor(n_estimators=30, min_samples_leaf=3, n_jobs=1, random_state=seed)
    return IterativeImputer(forest, max_iter=5, random_state=seed)


def miceforest(frame, seed):
    """Chained equations of gradient-boosted trees; their predictions themselves, not draws."""
    from miceforest import ImputationKernel

    # LightGBM refuses some characters in names.
    renamed = frame.set_axis([f"x{j}" for j in range(frame.shape[1])], axis=1)
    kernel = ImputationKernel(renamed, mean_match_candidates=0, random_state=seed)
    kernel.mice(5, num_threads=1)
    return kernel.complete_data(0).set_axis(frame.columns, axis=1)


PEERS = {
    "SimpleImputer": lambda frame, seed: one_hot(SimpleImputer(), frame),
    "KNNImputer": lambda frame, seed: one_hot(KNNImputer(), frame),
    "IterativeImputer": lambda frame, seed: one_hot(IterativeImputer(random_state=seed), frame),
    "IterativeImputer (trees)": lambda frame, seed: one_hot(trees(seed), frame),
    "miceforest": miceforest,
}
