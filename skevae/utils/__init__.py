"""Randomness, devices and other tools that know nothing of densities."""
