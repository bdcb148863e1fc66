"""Estimators that use densities: ensembles, imputation and outlier detection."""
