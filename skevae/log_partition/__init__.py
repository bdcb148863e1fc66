"""The log-partition function ln Z: exact, or by annealing."""
