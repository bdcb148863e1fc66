r"""Training objectives: a bound for each row, with the chosen estimate of ln Z.

With draws z_1..z_n ~ q(z | x) and log-ratios r_k = -E(z_k) - ln q(z_k | x), every objective is

.. math::
    \mathrm{reduce}_k\,[\ln p(x \mid z_k) + r_k] - \widehat{\ln Z}

where reduce is the mean ("elbo") or the log of the mean exponential ("iwae"; Burda et al. 2016),
and the estimate of ln Z is one of `PARTITIONS`. The pairs ("elbo", "posterior") and ("iwae",
"posterior") are eqs. 3 and 5 of "Variational Inference with Unnormalized Priors".
"""

from __future__ import annotations

from torch import Tensor

from skevae.partitions.base import PartitionEstimate
from skevae.posteriors.base import Posterior
from skevae.posteriors.draws import LatentDraws
from skevae.utils.log_mean import log_mean_exp
from skevae.utils.weights import weighted_mean


class Objective:
    """The reduction of the log-weights of a row, and the estimate of its gradient."""

    def __call__(self, log_weights: Tensor) -> Tensor:
        """Reduce the draws: (n_draws, n) -> (n,)."""
        raise NotImplementedError

    def check(self, posterior: Posterior, partition: PartitionEstimate) -> None:
        """Raise if it does not support this posterior or partition."""

    def draw_weights(self, draws: LatentDraws, kl_weight: float) -> Tensor | None:
        """Log-weights of the draws of each row in the gradient, (n_draws, n); None if equal."""
        return None

    def reparametrize(
        self, draws: LatentDraws, posterior: Posterior, kl_weight: float
    ) -> LatentDraws:
        """Return draws with the same values, whose bound has the gradient for training."""
        return draws


class EvidenceLowerBound(Objective):
    """The mean over draws (Kingma & Welling 2014)."""

    def __call__(self, log_weights: Tensor) -> Tensor:
        return log_weights.mean(0)


class ImportanceWeightedBound(Objective):
    """The log of the mean weight (Burda et al. 2016)."""

    def __call__(self, log_weights: Tensor) -> Tensor:
        return log_mean_exp(log_weights)

    def draw_weights(self, draws: LatentDraws, kl_weight: float) -> Tensor:
        log_ratio = -draws.energy - draws.log_posterior
        return (draws.log_likelihood + kl_weight * log_ratio).detach()


class DoublyReparametrizedBound(ImportanceWeightedBound):
    r"""The importance-weighted bound, with the encoder's gradient reparametrised twice.

    Let v_k be the weight of draw k and w_k its normalised value. The gradient with respect to the
    parameters :math:`\phi` of the posterior has a part through the draws and a direct part, the
    score function of q. The direct part is noise with mean zero or can be rewritten as a gradient
    through the draws, which gives

    .. math::
        \nabla_\phi = \sum_k w_k \, (1 - \beta + \beta w_k) \,
            \frac{\partial \ln v_k}{\partial z_k} \frac{\partial z_k}{\partial \phi}

    where :math:`\beta` is the power of prior and posterior in v_k. It is less than 1 during
    warm-up, and then 1, so that the factor is :math:`w_k^2` (Tucker et al. 2019, "Doubly
    reparameterized gradient estimators for Monte Carlo objectives", eq. 8). The estimate has the
    same mean as the gradient of the bound, and its variance vanishes when q is the true posterior.
    The value, and the gradients of decoder and prior, are those of the bound.
    """

    def check(self, posterior: Posterior, partition: PartitionEstimate) -> None:
        if not posterior.has_log_density:
            raise ValueError(
                "objective='iwae-dreg' needs the density of the posterior at given latents, for "
                f"which {type(posterior).__name__} would be inverted at every step. Use "
                "objective='iwae', or posterior='diagonal' or 'fixed'."
            )
        if partition.needs_posterior:
            raise ValueError(
                "objective='iwae-dreg' cannot be combined with an estimate of ln Z from the "
                f"posteriors' draws ({type(partition).__name__}), whose gradient would be weighted "
                "like that of the bound. Use objective='iwae', or partition='auto'."
            )

    def reparametrize(
        self, draws: LatentDraws, posterior: Posterior, kl_weight: float
    ) -> LatentDraws:
        share = self.draw_weights(draws, kl_weight).softmax(0).unsqueeze(-1)
        if draws.z.requires_grad:  # False if the user has frozen the encoder
            draws.z.register_hook(lambda gradient: gradient * (1 - kl_weight + kl_weight * share))
        # With fixed parameters of q, but not fixed z.
        held = posterior.log_density(draws.z, draws.posterior_outputs.detach())
        return draws._replace(log_posterior=held)


def negative_bound(
    draws: LatentDraws,
    log_partition: Tensor,
    objective: Objective,
    kl_weight: float = 1.0,
    weight: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of a minibatch and its named terms.

    Parameters
    ----------
    draws : LatentDraws
    log_partition : Tensor, scalar or (n,)
        Estimate of ln Z.
    objective : Objective
    kl_weight : float
        Weight of all terms except the reconstruction, below 1 during warm-up.
    weight : Tensor of shape (n,), optional
        Weights of the rows.

    Returns
    -------
    loss : Tensor, scalar
        Minus the mean (weighted) bound, in nats.
    terms : dict of str to Tensor, scalars, detached
        "objective" (the bound at weight 1), "reconstruction" E[ln p(x | z)], "energy" E[E(z)] and
        "log_partition", each a mean over the minibatch, in nats.
    """
    log_ratio = -draws.energy - draws.log_posterior
    bound = objective(draws.log_likelihood + log_ratio) - log_partition
    weighted = bound
    if kl_weight != 1.0:
        weighted = objective(draws.log_likelihood + kl_weight * log_ratio)
        weighted = weighted - kl_weight * log_partition
    terms = {
        "objective": weighted_mean(bound, weight),
        "reconstruction": weighted_mean(draws.log_likelihood, weight),
        "energy": weighted_mean(draws.energy, weight),
        "log_partition": log_partition.mean(),
    }
    return -weighted_mean(weighted, weight), {name: term.detach() for name, term in terms.items()}
