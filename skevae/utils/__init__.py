"""Randomness, devices and other tools that do not depend on densities."""
