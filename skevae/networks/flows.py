"""Normalising flows from zuko's masked autoregressive transforms. zuko is imported late."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

# The order of variables is reversed between the two steps, so that each depends on all others.
N_STEPS = 2


def import_zuko() -> ModuleType:
    """Import zuko.

    Raises
    ------
    ImportError
        If it is not installed; the message tells how to install it.
    """
    checks_arguments = Distribution._validate_args
    try:
        import zuko
    except ImportError as error:
        raise ImportError(
            "Normalising flows (posterior='iaf', prior='flow') need zuko, which is not installed. "
            "Install it with `pip install \"skevae[flows]\"`, or use posterior='diagonal' and "
            "prior='grbm'."
        ) from error
    finally:
        # zuko globally disables torch's checks of distribution arguments.
        Distribution.set_default_validate_args(checks_arguments)
    return zuko


class AutoregressiveFlow(nn.Module):
    r"""Invertible map composed of masked autoregressive steps, given a context c.

    .. math::
        y_i = x_i \, e^{a_i(x_{<i}, c)} + b_i(x_{<i}, c)

    where a and b are the outputs of a masked network (MADE; Germain et al. 2015). Its Jacobian is
    triangular. Evaluation takes one pass, and inversion takes one pass per variable. It is
    initialised as the identity.

    Parameters
    ----------
    n_features : int
        Number of variables D.
    n_context : int
        At least 1.
    volume_preserving : bool
        Whether a = 0, so that the determinant is 1.

    Raises
    ------
    ImportError
        If zuko is not installed.
    """

    def __init__(self, n_features: int, n_context: int, *, volume_preserving: bool) -> None:
        zuko = import_zuko()
        super().__init__()
        self.n_features = n_features
        # Each unit depends on the variables up to some i, with a few units for every i.
        self.n_hidden = max(64, 4 * n_features)
        kind = {"univariate": zuko.transforms.AdditiveTransform, "shapes": ((),)}
        ascending = torch.arange(n_features)
        steps = [
            zuko.flows.MaskedAutoregressiveTransform(
                n_features,
                n_context,
                order=ascending if step % 2 == 0 else ascending.flip(0),
                hidden_features=(self.n_hidden,),
                # Bounded, so that a and b are bounded, and extreme inputs do not overflow.
                activation=nn.Tanh,
                **(kind if volume_preserving else {}),
            )
            for step in range(N_STEPS)
        ]
        for step in steps:
            nn.init.zeros_(step.hyper[-1].weight)
            nn.init.zeros_(step.hyper[-1].bias)
        self.steps = zuko.lazy.LazyComposedTransform(*steps)

    def __repr__(self) -> str:
        # The repr of zuko's modules draws from torch's global generator.
        return f"{type(self).__name__}(n_features={self.n_features}, n_hidden={self.n_hidden})"

    def forward(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Map x to y, with ln |det dy/dx|: (..., D), (..., C) -> (..., D), (...)."""
        # zuko broadcasts values, but not determinants.
        shape = torch.broadcast_shapes(x.shape[:-1], context.shape[:-1])
        return self.steps(context).call_and_ladj(x.expand(*shape, -1))

    def inverse(self, y: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Map y to x, with ln |det dx/dy|: (..., D), (..., C) -> (..., D), (...)."""
        return self.steps(context).inv.call_and_ladj(y)
