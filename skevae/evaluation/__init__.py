"""Log-likelihoods by importance sampling, and what tells how far they can be trusted."""
