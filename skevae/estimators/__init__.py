"""Shared code of all estimators: checking and standardising X, the fit, and callbacks."""
