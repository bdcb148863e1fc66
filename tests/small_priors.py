"""Small, quick forms of every prior, for the laws that all of them obey."""

from skevae.priors import PRIORS

SMALL = {
    "grbm": {"n_components": 4},
    "normal": {},
    "mixture": {"n_components": 4},
    "vamp": {"n_components": 6},
    "flow": {"n_transforms": 2, "hidden_layer_sizes": (8,)},
    "neural": {
        "hidden_layer_sizes": (8,),
        "n_langevin_steps": 4,
        "n_chains": 32,
        "n_annealing_steps": 100,
    },
}
# Priors that learn, and those of them that a test of many combinations tries sparingly.
TRAINED = [name for name in PRIORS if name != "normal"]
LATER = [name for name in PRIORS if name not in ("grbm", "normal")]


def small_prior(name, **params):
    """Make the prior of this name, with those of the parameters that it has."""
    accepted = PRIORS[name]().get_params()
    own = {key: value for key, value in params.items() if key in accepted}
    return PRIORS[name](**{**SMALL[name], **own})
