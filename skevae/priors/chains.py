"""Priors with Markov chains that can be run on the fitted model."""

from __future__ import annotations

import torch
from sklearn.utils import Bunch
from sklearn.utils._param_validation import validate_parameter_constraints
from sklearn.utils.validation import check_is_fitted

from skevae.priors.trained import TrainedDensityPrior
from skevae.samplers.chains import run_chains
from skevae.samplers.diagnostics import chain_effective_sample_size, split_r_hat
from skevae.utils.constraints import at_least
from skevae.utils.device import copy_to, own_context, resolve_device
from skevae.utils.random import make_generator

# Default number of chains.
N_CHAINS = 100


class MarkovPrior(TrainedDensityPrior):
    """Base of the priors whose density, an `AnnealedDensity`, has Markov chains."""

    @own_context()
    def run_chains(
        self,
        n_chains=None,
        n_steps=100,
        *,
        burn_in=0,
        sampler=None,
        X=None,
        random_state=None,
    ):
        """Run Markov chains on the fitted density, to check whether and how fast a sampler mixes.

        Parameters
        ----------
        n_chains : int, default=None
            Number of chains. None is the number of rows of X, or 100 without X.
        n_steps : int, default=100
            Number of transitions that are kept; at least 4.
        burn_in : int, default=0
            Number of transitions before them.
        sampler : str or sampler object, default=None
            As the parameter ``sampler``. None uses the sampler of the fitted density.
        X : array-like of shape (n_chains, n_features), default=None
            Starting points of the chains. None draws them from a Gaussian with the mean and
            variance of the data.
        random_state : int, RandomState instance or None, default=None
            None uses the ``random_state`` of the estimator.

        Returns
        -------
        Bunch
            samples : ndarray of shape (n_steps, n_chains, n_features)
                On the scale of X.
            acceptance_rate : float
                Fraction of accepted Metropolis proposals; nan for a sampler without Metropolis
                tests.
            r_hat : ndarray of shape (n_features,)
                Split R-hat. Above about 1.05 the chains have not mixed.
            effective_sample_size : ndarray of shape (n_features,)
                Number of independent draws whose mean would be as precise.

        Raises
        ------
        ValueError
            If an argument is out of its range, or ``n_chains`` is not the number of rows of X.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from skevae import GaussianBernoulliRBMPrior
        >>> prior = GaussianBernoulliRBMPrior(8, max_iter=2, random_state=0).fit(load_iris().data)
        >>> prior.run_chains(3, n_steps=10, random_state=0).samples.shape
        (10, 3, 4)
        """
        check_is_fitted(self, "density_")
        validate_parameter_constraints(
            {
                "n_chains": [at_least(1), None],
                "n_steps": [at_least(4)],
                "burn_in": [at_least(0)],
                "sampler": [*self._parameter_constraints["sampler"], None],
            },
            {"n_chains": n_chains, "n_steps": n_steps, "burn_in": burn_in, "sampler": sampler},
            caller_name=f"{type(self).__name__}.run_chains",
        )
        device = resolve_device(self.device)
        density = copy_to(self.density_, device, torch.float64)
        generator = make_generator(self._seed_for(random_state), device)
        if sampler is not None:
            density.sampler = density.checked_sampler(sampler)
        if X is None:
            z = density.noise(N_CHAINS if n_chains is None else n_chains, generator)
        else:
            z = self._standardizer.tensor(self._check_rows(X), device, torch.float64)
            if n_chains not in (None, len(z)):
                raise ValueError(
                    f"n_chains={n_chains} does not match the {len(z)} rows of X, each of which "
                    "starts a chain. Omit n_chains, or pass as many rows."
                )
        transition = density.make_transition()
        states = run_chains(transition, z, generator, n_steps=n_steps, burn_in=burn_in)
        rows = self._standardizer.rows(states.flatten(0, 1)).reshape(states.shape)
        return Bunch(
            samples=rows,
            acceptance_rate=transition.sampler.acceptance_rate,
            r_hat=split_r_hat(states).cpu().numpy(),
            effective_sample_size=chain_effective_sample_size(states).cpu().numpy(),
        )
