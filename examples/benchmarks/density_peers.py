"""Density estimators of other packages with the methods `fit` and `score_samples`.

All networks are trained by the same loop: Adam, early stopping on a tenth of the rows, and the best
state is kept. Every score is the logarithm of a density that integrates to 1.
"""

from copy import deepcopy
from math import log, pi

import numpy as np
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_t
from sklearn.base import BaseEstimator
from sklearn.mixture import BayesianGaussianMixture
from sklearn.model_selection import train_test_split
from torch import nn

VALIDATION_FRACTION = 0.1
N_SCORE_DRAWS = 1000


class PredictiveBayesianMixture(BayesianGaussianMixture):
    r"""BayesianGaussianMixture, scored by its posterior predictive density.

    Its `score_samples` averages logarithms over the posterior. The result is not a density: it
    integrates to less than 1, which would be a disadvantage. The predictive density is a mixture of
    Student's t (Bishop 2006, eq. 10.81), with the attributes of scikit-learn

    .. math:: \sum_k \pi_k \, \mathrm{St}\Big(x; m_k,
        \frac{(1 + \beta_k) \nu_k}{\beta_k (\nu_k + 1 - d)} \Sigma_k, \nu_k + 1 - d\Big).
    """

    def score_samples(self, X):
        nu, beta = self.degrees_of_freedom_, self.mean_precision_
        freedom = nu + 1 - X.shape[1]
        shapes = ((1 + beta) * nu / (beta * freedom))[:, None, None] * self.covariances_
        components = [
            multivariate_t(mean, shape, df).logpdf(X)
            for mean, shape, df in zip(self.means_, shapes, freedom, strict=True)
        ]
        return logsumexp(np.transpose(components), b=self.weights_, axis=1)


def minimize(module, loss, train, validation, *, learning_rate, patience, max_epochs):
    """Train a module by Adam, and restore the state with the smallest validation loss.

    Parameters
    ----------
    module : nn.Module
    loss : callable (rows) -> scalar tensor, the mean over rows
    train, validation : tensor of shape (n, n_features)
    patience : int
        Epochs without a better validation loss after which training stops.

    Returns
    -------
    best : float
        The least validation loss.
    epoch : int
        Epochs run.
    """
    # A 32nd of the rows, as EnergyVAE has it: one batch of a small set would be one step an epoch.
    batch_size = min(256, max(16, len(train) // 32))
    optimizer = torch.optim.Adam(module.parameters(), learning_rate)
    best, best_epoch, state = float("inf"), 0, deepcopy(module.state_dict())
    for epoch in range(1, max_epochs + 1):
        module.train()
        for rows in torch.randperm(len(train)).split(batch_size):
            optimizer.zero_grad()
            loss(train[rows]).backward()
            nn.utils.clip_grad_norm_(module.parameters(), 5.0)
            optimizer.step()
        module.eval()
        with torch.no_grad():
            value = float(loss(validation))
        if value < best:
            best, best_epoch, state = value, epoch, deepcopy(module.state_dict())
        elif epoch - best_epoch >= patience:
            break
    module.load_state_dict(state)
    return best, epoch


class NetworkDensity(BaseEstimator):
    """Base class of the estimators below: tensors, held-out rows, seeds."""

    def fit(self, X, y=None):
        train, validation = train_test_split(
            torch.as_tensor(X, dtype=torch.float32),
            test_size=VALIDATION_FRACTION,
            random_state=self.random_state,
        )
        with torch.random.fork_rng():
            torch.manual_seed(self.random_state)
            self._fit(train, validation)
        return self

    def score_samples(self, X):
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(self.random_state)
            batches = torch.as_tensor(X, dtype=torch.float32).split(256)
            return torch.cat([self._log_density(batch) for batch in batches]).double().numpy()


class ZukoFlow(NetworkDensity):
    """Normalising flow of zuko, by maximum likelihood.

    Parameters
    ----------
    flow : str
        Class in `zuko.flows`: "NSF" (Durkan et al. 2019), "MAF" (Papamakarios et al. 2017), ...
    """

    def __init__(
        self,
        flow,
        *,
        transforms=3,
        hidden_features=(128, 128),
        learning_rate=1e-3,
        patience=20,
        max_epochs=500,
        random_state=0,
    ):
        self.flow = flow
        self.transforms = transforms
        self.hidden_features = hidden_features
        self.learning_rate = learning_rate
        self.patience = patience
        self.max_epochs = max_epochs
        self.random_state = random_state

    def _fit(self, train, validation):
        import zuko

        self.module_ = getattr(zuko.flows, self.flow)(
            train.shape[1], transforms=self.transforms, hidden_features=self.hidden_features
        )
        _, self.n_iter_ = minimize(
            self.module_,
            lambda rows: -self._log_density(rows).mean(),
            train,
            validation,
            learning_rate=self.learning_rate,
            patience=self.patience,
            max_epochs=self.max_epochs,
        )

    def _log_density(self, rows):
        return self.module_().log_prob(rows)


class PythaeVAE(NetworkDensity):
    r"""Variational autoencoder of pythae, with its density by importance sampling.

    pythae's decoder is N(m(z), I). The unit is the user's: the model is fitted to X / s for a few
    scales s, and the one with the highest held-out likelihood is kept,

    .. math:: \ln p(x) = \ln \int N(x / s; m(z), I) p(z) dz - d \ln s.

    pythae's own networks end in a sigmoid, for images; these are of EnergyVAE's shape and linear
    at the end. `get_nll` is not used: it has the sign of a log-likelihood, returns one mean and
    visits rows one by one. Its weights are those of `_log_density`.

    Parameters
    ----------
    model : {"VAE", "IWAE", "VAMP"}
    """

    def __init__(
        self,
        model,
        *,
        latent_dim=16,
        hidden_features=(128, 128),
        scales=(1.0, 0.5, 0.2, 0.1),
        learning_rate=1e-3,
        patience=20,
        max_epochs=500,
        random_state=0,
    ):
        self.model = model
        self.latent_dim = latent_dim
        self.hidden_features = hidden_features
        self.scales = scales
        self.learning_rate = learning_rate
        self.patience = patience
        self.max_epochs = max_epochs
        self.random_state = random_state

    def _fit(self, train, validation):
        fits = []
        for scale in self.scales:
            self.scale_ = scale  # what `_log_density` below goes by
            self.module_ = self._build(train.shape[1])
            _, n_iter = minimize(
                self.module_,
                lambda rows: self.module_({"data": rows / self.scale_}).loss,
                train,
                validation,
                learning_rate=self.learning_rate,
                patience=self.patience,
                max_epochs=self.max_epochs,
            )
            with torch.no_grad():
                held_out = [self._log_density(rows).sum() for rows in validation.split(256)]
            fits.append((float(sum(held_out)), scale, self.module_, n_iter))
        _, self.scale_, self.module_, self.n_iter_ = max(fits, key=lambda fit: fit[0])

    def _build(self, n_features):
        from pythae import models
        from pythae.models.base.base_utils import ModelOutput
        from pythae.models.nn import BaseDecoder, BaseEncoder

        def trunk(n_inputs, widths):
            sizes = [n_inputs, *widths]
            layers = [
                layer
                for a, b in zip(sizes[:-1], sizes[1:], strict=True)
                for layer in (nn.Linear(a, b), nn.SiLU())
            ]
            return nn.Sequential(*layers)

        hidden, latent_dim = self.hidden_features, self.latent_dim

        class Encoder(BaseEncoder):
            def __init__(self):
                super().__init__()
                self.net = trunk(n_features, hidden).append(nn.Linear(hidden[-1], 2 * latent_dim))

            def forward(self, x):
                mean, log_variance = self.net(x).chunk(2, dim=-1)
                return ModelOutput(embedding=mean, log_covariance=log_variance)

        class Decoder(BaseDecoder):
            def __init__(self):
                super().__init__()
                self.net = trunk(latent_dim, hidden[::-1]).append(nn.Linear(hidden[0], n_features))

            def forward(self, z):
                return ModelOutput(reconstruction=self.net(z))

        config = getattr(models, f"{self.model}Config")(
            input_dim=(n_features,), latent_dim=latent_dim
        )
        module = getattr(models, self.model)(config, Encoder(), Decoder())
        if self.model == "VAMP":
            # pythae keeps pseudo-inputs in [0, 1], the range of images; these rows are not.
            module.pseudo_inputs = nn.Linear(config.number_components, n_features)
        return module

    def _log_density(self, rows):
        x = rows / self.scale_
        posterior = self.module_.encoder(x)
        mean, log_variance = posterior.embedding, posterior.log_covariance
        draws = []
        for _ in range(10):  # a tenth of the draws at once
            noise = torch.randn(N_SCORE_DRAWS // 10, *mean.shape)
            z = mean + (0.5 * log_variance).exp() * noise
            flat = z.reshape(-1, z.shape[-1])
            # Without their common ln 2 pi / 2 per latent, as pythae's own `_log_p_z`.
            log_prior = (
                self.module_._log_p_z(flat).reshape(z.shape[:-1])
                if self.model == "VAMP"
                else -0.5 * z.square().sum(-1)
            )
            log_posterior = -0.5 * (log_variance + noise.square()).sum(-1)
            decoded = self.module_.decoder(flat).reconstruction.reshape(len(z), *x.shape)
            log_likelihood = -0.5 * (x - decoded).square().sum(-1)
            draws.append(log_likelihood + log_prior - log_posterior)
        log_weights = torch.cat(draws)
        constant = x.shape[-1] * (0.5 * log(2 * pi) + np.log(self.scale_))
        return torch.logsumexp(log_weights, dim=0) - log(len(log_weights)) - constant
