"""Estimators that make use of a density: imputation and outlier detection."""
