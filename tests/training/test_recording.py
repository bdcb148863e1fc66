"""Laws of recorded training steps: replayed, they do what the steps themselves would have done.

CUDA graphs need a GPU. `Recorder` stands for them on a CPU and has their rules: nothing happens
while recording, no value can be read, and a replay does the same operations, with the same numbers,
on the same memory.
"""

from itertools import product

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from pairs import quick_and_slow
from small_priors import small_prior
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from skevae import EnergyVAE, vae_fit
from skevae.log_partition import ising
from skevae.log_partition.blocks import configurations
from skevae.partitions import PARTITIONS
from skevae.posteriors import POSTERIORS
from skevae.priors import PRIORS
from skevae.samplers import SAMPLERS
from skevae.training import OBJECTIVES
from skevae.training.step import STEPS_BEFORE_RECORDING, RecordedStep
from skevae.utils.device import graph_recorder

pytestmark = pytest.mark.usefixtures("global_rng_untouched")

# What would have to wait for the device, or copy from the host.
READS = {
    "aten::_local_scalar_dense",
    "aten::_unique2",
    "aten::equal",
    "aten::lift_fresh",
    "aten::masked_select",
    "aten::nonzero",
}


class Recorder(TorchDispatchMode):
    """Writes down every operation, with the tensors it was given and those it returned."""

    def __init__(self):
        super().__init__()
        self.operations = []
        self.own = set()  # memory that was laid out while recording
        self.before = {}  # memory from before, and what it held

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        masks = [t for t in tensors(args[1:]) if t.dtype == torch.bool]
        if function._schema.name in READS or (function._schema.name == "aten::index" and masks):
            raise RuntimeError(f"{function} while recording")
        for tensor in tensors((args, kwargs)):
            memory = tensor.untyped_storage()
            if memory.data_ptr() not in self.own | self.before.keys():
                self.before[memory.data_ptr()] = (memory, memory.clone())
        # Apart, as some operations change the shape of what they are given.
        given = apart((args, kwargs or {}))
        result = function(*args, **(kwargs or {}))
        made = {tensor.untyped_storage().data_ptr() for tensor in tensors(result)}
        self.own |= made - self.before.keys()
        self.operations.append((function, given, apart(result)))
        return result

    def undo(self):
        for memory, content in self.before.values():
            memory.copy_(content)


def tensors(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def apart(tree):
    """The same with other tensors on the same memory."""
    return tree_map_only(torch.Tensor, torch.Tensor.detach, tree)


def memory_of(tensor):
    return tensor.untyped_storage().data_ptr()


def recorder(generators, graphs, monkeypatch):
    """Stand in for `graph_recorder` on a CPU; what it records is added to a list."""

    def record(function):
        states = [generator.get_state() for generator in generators]
        tape = Recorder()
        with monkeypatch.context() as patch, tape:
            patch.setattr(ising, "_is_recorded", lambda: True)
            function()
        tape.undo()
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)

        def replay():
            with torch.no_grad():
                for operation, given, result in tape.operations:
                    args, kwargs = apart(given)
                    again = operation(*args, **kwargs)
                    for old, new in zip(tensors(result), tensors(again), strict=True):
                        if memory_of(old) != memory_of(new):
                            old.copy_(new)

        graphs.append(replay)
        return replay

    return record


@pytest.fixture
def recorded(monkeypatch):
    """Let estimators with ``cuda_graph=True`` record on the CPU; the graphs made are listed."""
    graphs = []

    def make(device, generators):
        return recorder(generators, graphs, monkeypatch)

    monkeypatch.setattr(vae_fit, "graph_recorder", make)
    return graphs


X = np.random.default_rng(0).normal(size=(70, 3))
# Pairs that are refused with or without recording.
POSSIBLE = [
    (objective, partition)
    for objective in OBJECTIVES
    for partition in PARTITIONS
    if not (objective == "iwae-dreg" and partition in ("posterior", "aggregate"))
]


def fitted(prior="grbm", *, cuda_graph, sampler="gibbs", **params):
    defaults = {
        "hidden_layer_sizes": (8,),
        "prior": small_prior(prior, sampler=sampler),
        "n_draws": 3,
        "batch_size": 16,
        "max_iter": 8,
        "kl_warmup": 0.3,
        "n_score_draws": 30,
        "random_state": 0,
    }
    return EnergyVAE(3, cuda_graph=cuda_graph, **{**defaults, **params}).fit(X)


def assert_recorded_training_is_equal(graphs, **params):
    plain = fitted(cuda_graph=False, **params)
    assert not graphs
    recorded = fitted(cuda_graph=True, **params)
    assert len(graphs) == 1
    for name, values in plain.history_.items():
        assert_array_equal(recorded.history_[name], values, err_msg=name)
    assert_array_equal(recorded.score_samples(X), plain.score_samples(X))


@quick_and_slow(
    "objective, partition",
    [*product(OBJECTIVES, ["exact"]), *product(["iwae"], PARTITIONS)],
    POSSIBLE,
)
def test_recorded_training_is_equal_for_every_bound(objective, partition, recorded):
    assert_recorded_training_is_equal(recorded, objective=objective, partition=partition)


@pytest.mark.parametrize("prior", PRIORS)
def test_recorded_training_is_equal_for_every_prior(prior, recorded):
    sampler = "metropolis-langevin" if prior == "neural" else "gibbs"
    assert_recorded_training_is_equal(recorded, prior=prior, sampler=sampler)


@pytest.mark.parametrize("posterior", POSTERIORS)
def test_recorded_training_is_equal_for_every_posterior(posterior, recorded):
    assert_recorded_training_is_equal(recorded, posterior=posterior)


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "exact"])
def test_recorded_training_is_equal_for_samplers(sampler, recorded):
    assert_recorded_training_is_equal(recorded, sampler=sampler, partition="persistent")


def test_recorded_training_hears_of_a_lower_rate(recorded):
    assert_recorded_training_is_equal(
        recorded, n_iter_no_change=4, tol=5.0, kl_warmup=0.0, max_iter=12
    )


@pytest.mark.parametrize("early_stopping", [True, False])
def test_recorded_training_is_equal_on_binary_rows_that_are_drawn_anew(early_stopping, recorded):
    probabilities = 1 / (1 + np.exp(-X))
    models = [
        EnergyVAE(
            3,
            likelihood="bernoulli",
            batch_size=16,
            max_iter=8,
            cuda_graph=cuda_graph,
            early_stopping=early_stopping,
            random_state=0,
        ).fit(probabilities)
        for cuda_graph in (False, True)
    ]
    assert len(recorded) == 1
    assert_array_equal(*(model.history_["objective"] for model in models))


def test_a_step_is_recorded_once_the_loss_has_settled_and_only_for_full_minibatches():
    seen, told = [], []

    class Counted:
        class average:
            @staticmethod
            def advance():
                seen.append("advance")

        def __call__(self, x, progress, share):
            seen.append("step")

        def update(self, x, progress, share):
            seen.append(("update", len(x), progress, share))
            told.append(self.optimizer.param_groups[0]["capturable"])

        optimizer = torch.optim.Adam([torch.zeros(1)])

    def record(function):
        function()
        return lambda: seen.append("replay")

    take = RecordedStep(Counted(), record, batch_size=4, settled=0.5)
    full, rest = torch.zeros(4, 1), torch.zeros(3, 1)
    take(full, 0.4, 0.1)
    for _ in range(STEPS_BEFORE_RECORDING):
        take(full, 0.5, 0.1)
    assert seen == ["step"] * (STEPS_BEFORE_RECORDING + 1)
    seen.clear()
    take(full, 0.6, 0.1)
    take(rest, 0.6, 0.1)
    take(full, 0.7, 0.1)
    assert seen == [("update", 4, 1.0, 0.1), "advance", "replay", "step", "advance", "replay"]
    # torch wants to know, and warns of steps that are not recorded when it was told they would be.
    assert told == [True] and not Counted.optimizer.param_groups[0]["capturable"]


def test_steps_that_cannot_be_recorded_are_made_one_by_one(monkeypatch):
    asked = []
    plain = fitted(cuda_graph=False)
    monkeypatch.setattr(vae_fit, "graph_recorder", lambda *args: asked.append)
    unrecorded = fitted(cuda_graph=True)
    assert len(asked) == 1
    assert_array_equal(unrecorded.score_samples(X), plain.score_samples(X))


def test_chains_that_are_drawn_exactly_cannot_be_recorded(recorded):
    with pytest.raises(RuntimeError, match="while recording"):
        fitted(cuda_graph=True, sampler="exact", partition="persistent")


def test_partial_fit_and_a_cpu_record_nothing(recorded):
    EnergyVAE(3, cuda_graph=True, batch_size=16, random_state=0).partial_fit(np.tile(X, (9, 1)))
    assert not recorded
    assert graph_recorder(torch.device("cpu"), []) is None


def test_an_underflow_that_nobody_could_look_at_is_told_by_nan(monkeypatch):
    """Couplings so strong that the tables underflow: right if they can be seen, else nan."""
    n_units = 9
    coupling = torch.zeros(n_units, n_units, dtype=torch.float64)
    a, b, c = 0, 3, 6
    coupling[a, b] = coupling[b, a] = 3000.0
    coupling[b, c] = coupling[c, b] = -3000.0
    coupling[a, c] = coupling[c, a] = 2000.0
    bias = torch.zeros(n_units, dtype=torch.float64)
    h = configurations(n_units, torch.float64, torch.device("cpu"))
    exact = (h @ bias + 0.5 * ((h @ coupling) * h).sum(1)).logsumexp(0)
    torch.testing.assert_close(ising.IsingModel(bias, coupling).log_partition, exact)
    monkeypatch.setattr(ising, "_is_recorded", lambda: True)
    unseen = ising.IsingModel(bias, coupling).log_partition
    assert unseen.isnan() or torch.isclose(unseen, exact)
    mild = ising.IsingModel(bias, 1e-3 * coupling).log_partition
    torch.testing.assert_close(mild, (0.5e-3 * ((h @ coupling) * h).sum(1)).logsumexp(0))
