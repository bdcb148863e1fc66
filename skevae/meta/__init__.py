"""Estimators that make use of densities: ensembles, imputation and outlier detection."""
