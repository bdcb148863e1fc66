"""Log-likelihoods by importance sampling, with diagnostics of their reliability."""
