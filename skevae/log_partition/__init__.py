"""The log-partition function ln Z itself: exactly, or by annealing."""
