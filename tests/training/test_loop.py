"""Laws of the training loop: it knows parameters and a loss, and ends at the best state it saw."""

import copy
import math
from functools import partial

import pytest
import torch

from skevae.training import loop
from skevae.training.loop import Loop, Schedule
from skevae.training.parameters import RATE_DROP, ParameterVector, WeightAverage, make_optimizer
from skevae.training.step import RecordedStep, Step
from skevae.utils.random import make_generator

pytestmark = pytest.mark.usefixtures("global_rng_untouched")


def rows(n=23, n_features=2):
    return torch.randn(n, n_features, generator=make_generator(0), dtype=torch.float64)


def parameter(*values):
    return torch.tensor(values or (0.0, 0.0), dtype=torch.float64, requires_grad=True)


def distance(w):
    """Mean squared distance to the rows, which their mean minimises."""

    def loss(x, progress):
        value = (x - w).square().sum(1).mean()
        return value, {"objective": -value.detach()}

    return loss


def slide(w):
    """Loss with gradient 1 everywhere: step t of plain descent at rate 1 is at -t."""

    def loss(x, progress):
        value = w.sum()
        return value, {"objective": -value.detach()}

    return loss


def descent(weights, learning_rate=1.0):
    """Plain gradient descent."""
    return torch.optim.SGD([weights.values], lr=learning_rate)


def adam(learning_rate):
    return partial(make_optimizer, learning_rate=learning_rate)


def run(
    loss,
    w,
    X=None,
    *,
    seed=0,
    optimizer=descent,
    averaging=0.0,
    max_norm=math.inf,
    record=None,
    buffers=(),
    **settings,
):
    weights = ParameterVector([w], buffers)
    step = Step(loss, weights, optimizer(weights), WeightAverage(weights, averaging), max_norm)
    timing = {"batch_size": 8, "max_epochs": 5}
    for name in Schedule.__dataclass_fields__.keys() & settings.keys():
        timing[name] = settings.pop(name)
    schedule = Schedule(**timing)
    recorded = None
    if record is not None:
        recorded = RecordedStep(step, record, schedule.batch_size, schedule.warmup)
    X = rows() if X is None else X
    generator = make_generator(seed)
    return Loop(step, X, schedule, generator=generator, recorded=recorded, **settings)()


def scripted(scores):
    """Validation that returns `scores`, one an epoch."""
    queue = iter(scores)
    return lambda: next(queue)


def recorder(w):
    """`on_epoch_end` that notes the parameters it sees."""
    states = []

    def note(epoch, record):
        states.append(w.detach().clone())
        return False

    return states, note


# --- minimising -----------------------------------------------------------------------------------


def test_a_quadratic_is_minimised():
    w, X = parameter(3.0, -3.0), rows()
    outcome = run(distance(w), w, X, optimizer=adam(0.05), batch_size=23, max_epochs=500)
    assert outcome.status == "finished" and outcome.best_epoch == 500
    torch.testing.assert_close(w.detach(), X.mean(0), rtol=0, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_optimizer_makes_steps_of_its_rate(dtype):
    """Adam's first step has the length of the rate in each coordinate, whatever the gradient."""
    w = torch.zeros(2, dtype=dtype, requires_grad=True)
    weights = ParameterVector([w])
    weights.values.grad.copy_(torch.tensor([1e-2, -1e3]))
    make_optimizer(weights, 0.01).step()
    expected = torch.tensor([-0.01, 0.01], dtype=dtype)
    torch.testing.assert_close(w.detach(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("max_norm", [0.1, 1.0])
def test_larger_gradients_are_scaled_down_to_the_norm(max_norm):
    w = parameter(300.0, 400.0)

    def loss(x, progress):
        return 0.5 * w.square().sum(), {"objective": torch.tensor(0.0)}

    run(loss, w, batch_size=23, max_epochs=1, max_norm=max_norm)
    step = parameter(300.0, 400.0) - w
    torch.testing.assert_close(step.norm().item(), max_norm, rtol=1e-6, atol=0)
    torch.testing.assert_close(step / step.norm(), torch.tensor([0.6, 0.8]).double())


def test_smaller_gradients_are_left_alone():
    w = parameter(0.3, 0.4)

    def loss(x, progress):
        return 0.5 * w.square().sum(), {"objective": torch.tensor(0.0)}

    half = partial(descent, learning_rate=0.5)
    run(loss, w, batch_size=23, max_epochs=1, max_norm=10.0, optimizer=half)
    torch.testing.assert_close(w.detach(), torch.tensor([0.15, 0.2]).double())


# --- rows -----------------------------------------------------------------------------------------


def visits(batch_size, max_epochs=3, seed=0):
    """Batches that the loss saw, an epoch each, and the progress it was told."""
    w, X = parameter(0.0), torch.arange(23.0)[:, None]
    batches, progress = [], []

    def loss(x, at):
        batches.append(x[:, 0].int().tolist())
        progress.append(at)
        return w.sum(), {"objective": x.mean()}

    run(loss, w, X, batch_size=batch_size, max_epochs=max_epochs, seed=seed)
    n = len(batches) // max_epochs
    return [batches[i : i + n] for i in range(0, len(batches), n)], progress


@pytest.mark.parametrize("batch_size", [1, 5, 8, 23, 100])
def test_every_row_is_visited_once_an_epoch(batch_size):
    epochs, _ = visits(batch_size)
    for batches in epochs:
        assert sorted(row for batch in batches for row in batch) == list(range(23))


@pytest.mark.parametrize("batch_size", [1, 5, 8, 23, 100])
def test_batches_have_their_size_but_for_the_last(batch_size):
    for batches in visits(batch_size)[0]:
        sizes = [len(batch) for batch in batches]
        assert len(sizes) == math.ceil(23 / batch_size)
        assert set(sizes[:-1]) <= {batch_size} and sizes[-1] <= batch_size


def test_rows_are_shuffled_anew_each_epoch():
    first, second, third = visits(23)[0]
    assert first != second != third != first


def test_order_of_rows_is_determined_by_the_generator():
    assert visits(5, seed=1) == visits(5, seed=1) != visits(5, seed=2)


def test_progress_goes_evenly_from_zero_towards_one():
    _, progress = visits(8)
    assert progress == pytest.approx([i / 9 for i in range(9)])


def test_runs_of_one_seed_are_equal():
    def outcome(seed):
        w = parameter()
        history = run(distance(w), w, optimizer=adam(0.1), seed=seed).history
        return history, w.tolist()

    assert outcome(3) == outcome(3) != outcome(4)


def test_rows_are_left_as_they_were():
    X, w = rows(), parameter()
    before = X.clone()
    run(distance(w), w, X)
    assert torch.equal(X, before)


# --- history --------------------------------------------------------------------------------------


@pytest.mark.parametrize("validate", [None, lambda: 1.0])
def test_history_has_one_entry_an_epoch_of_each_term(validate):
    w = parameter()

    def loss(x, progress):
        return w.sum(), {"objective": torch.tensor(1.0), "energy": torch.tensor(2.0)}

    history = run(loss, w, max_epochs=4, validate=validate).history
    names = {"objective", "energy"} | ({"validation"} if validate else set())
    assert set(history) == names
    assert all(len(values) == 4 for values in history.values())
    assert history["energy"] == pytest.approx([2.0] * 4)


@pytest.mark.parametrize("batch_size", [1, 8, 23])
def test_history_is_a_mean_over_rows_whatever_the_batches(batch_size):
    w, X = parameter(), rows()

    def loss(x, progress):
        return w.sum(), {"objective": x.mean()}

    history = run(loss, w, X, batch_size=batch_size, max_epochs=2).history
    assert history["objective"] == pytest.approx([X.mean().item()] * 2)


def test_hooks_see_each_epoch_in_order():
    w, events = parameter(), []

    def loss(x, progress):
        events.append("batch")
        return w.sum(), {"objective": torch.tensor(0.0)}

    def end(epoch, record):
        events.append((epoch, set(record)))
        return False

    def validate():
        events.append("validate")
        return 0.0

    run(
        loss,
        w,
        batch_size=12,
        max_epochs=2,
        validate=validate,
        on_epoch_begin=lambda: events.append("begin"),
        on_epoch_end=end,
    )
    epoch = ["begin", "batch", "batch", "validate"]
    names = {"objective", "validation"}
    assert events == [*epoch, (1, names), *epoch, (2, names)]


def test_a_hook_that_returns_true_stops_the_run():
    w = parameter()
    outcome = run(slide(w), w, batch_size=23, on_epoch_end=lambda epoch, record: epoch == 3)
    assert outcome.status == "stopped" and len(outcome.history["objective"]) == 3
    assert w.tolist() == [-3.0, -3.0]


# --- the best state -------------------------------------------------------------------------------


def test_without_validation_the_last_state_is_kept():
    w = parameter()
    outcome = run(slide(w), w, batch_size=23, max_epochs=5)
    assert w.tolist() == [-5.0, -5.0] and outcome.best_epoch == 5


@pytest.mark.parametrize("best", [1, 3, 5])
def test_the_state_of_the_best_score_is_kept(best):
    w = parameter()
    scores = [-abs(epoch - best) for epoch in range(1, 6)]
    outcome = run(slide(w), w, batch_size=23, validate=scripted(scores))
    assert outcome.best_epoch == best and w.tolist() == [-best, -best]
    assert outcome.history["validation"] == scores


def test_the_first_of_equal_scores_is_kept():
    w = parameter()
    outcome = run(slide(w), w, batch_size=23, validate=lambda: 1.0)
    assert outcome.best_epoch == 1 and w.tolist() == [-1.0, -1.0]


def test_training_stops_when_the_score_has_not_risen_for_so_long():
    w = parameter()
    outcome = run(
        slide(w),
        w,
        batch_size=23,
        max_epochs=50,
        validate=scripted([1, 3, 2, 3, 2, 9]),
        patience=3,
    )
    assert outcome.status == "converged"
    assert outcome.best_epoch == 2 and len(outcome.history["validation"]) == 5
    assert w.tolist() == [-2.0, -2.0]


@pytest.mark.parametrize("averaging", [0.0, 0.5])
def test_the_rate_falls_and_training_goes_on_from_the_best_state_before_it_stops(averaging):
    w, seen = parameter(), []
    scores = [1, 3, 2, 2, 2.5, 4, 0, 0, 0, 0]
    queue = scripted(scores)

    def validate():
        seen.append(w[0].item())
        return queue()

    outcome = run(
        slide(w),
        w,
        batch_size=23,
        max_epochs=50,
        averaging=averaging,
        validate=validate,
        patience=2,
        max_drops=2,
    )
    expected, position, average, rate, best = [], 0.0, 0.0, 1.0, {}
    for epoch in range(1, 11):
        position -= rate
        decay = min(averaging, epoch / (epoch + 10))
        average = best[epoch] = decay * average + (1 - decay) * position
        expected.append(average)
        if epoch in (4, 8):  # two epochs after the best one, the 2nd and the 6th
            position = average = best[epoch - 2]
            rate *= RATE_DROP
    assert seen == pytest.approx(expected, rel=1e-12)
    assert outcome.status == "converged" and outcome.best_epoch == 6
    assert w.tolist() == pytest.approx([best[6]] * 2)


@pytest.mark.parametrize("max_drops", [0, 1])
def test_patience_that_runs_out_at_the_last_epoch_is_told(max_drops):
    w = parameter()
    outcome = run(
        slide(w),
        w,
        batch_size=23,
        max_epochs=3,
        validate=scripted([1, 0, 0]),
        patience=2,
        max_drops=max_drops,
    )
    assert outcome.status == "converged" and w.tolist() == [-1.0, -1.0]


def test_a_rise_within_the_tolerance_does_not_prolong_but_is_kept():
    w = parameter()
    outcome = run(
        slide(w),
        w,
        batch_size=23,
        max_epochs=50,
        validate=scripted([1.0, 1.05, 1.1, 1.15, 9.0]),
        patience=3,
        tol=0.1,
    )
    assert outcome.status == "converged" and outcome.best_epoch == 4
    assert w.tolist() == [-4.0, -4.0]


def test_a_rise_above_the_tolerance_starts_the_count_anew():
    w = parameter()
    scores = [1.0, 0.0, 1.2, 0.0, 1.4, 0.0, 0.0]
    outcome = run(
        slide(w), w, batch_size=23, max_epochs=50, validate=scripted(scores), patience=2, tol=0.1
    )
    assert outcome.status == "converged" and len(outcome.history["validation"]) == 7


def test_epochs_within_grace_are_no_candidates():
    w = parameter()
    scores = [9, 9, 9, 1, 2, 1, 1, 1, 1, 1]
    outcome = run(slide(w), w, batch_size=23, max_epochs=10, validate=scripted(scores), warmup=0.3)
    assert outcome.best_epoch == 5 and w.tolist() == [-5.0, -5.0]


def test_patience_does_not_run_out_within_grace():
    w = parameter()
    scores = [9, 8, 7, 6, 5, 4, 3, 2]
    outcome = run(
        slide(w),
        w,
        batch_size=23,
        max_epochs=10,
        validate=scripted(scores),
        warmup=0.5,
        patience=2,
    )
    # Epoch 6 is the first that counts; 7 and 8 do not rise above it.
    assert outcome.status == "converged" and len(outcome.history["validation"]) == 8
    assert outcome.best_epoch == 6


@pytest.mark.parametrize("validate", [None, lambda: 1.0])
def test_the_last_epoch_is_a_candidate_however_long_the_grace(validate):
    w = parameter()
    outcome = run(slide(w), w, batch_size=23, max_epochs=4, validate=validate, warmup=1.0)
    assert outcome.best_epoch == 4 and w.tolist() == [-4.0, -4.0]


# --- averages -------------------------------------------------------------------------------------


def averages(values, decay, start=0.0):
    """Moving average of `values`: the decay of update t is at most t / (t + 10)."""
    average = start
    for t, value in enumerate(values, 1):
        d = min(decay, t / (t + 10))
        average = d * average + (1 - d) * value
    return average


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9, 0.999])
def test_average_is_exponential(decay):
    w = parameter()
    average = WeightAverage(ParameterVector([w]), decay)
    for t in range(1, 31):
        with torch.no_grad():
            w.fill_(t**1.5)
        average.advance()
        average.update()
    expected = averages([t**1.5 for t in range(1, 31)], decay)
    assert average.average.tolist() == pytest.approx([expected] * 2, rel=1e-12)


def test_average_is_in_the_parameters_only_while_applied():
    w = parameter(1.0)
    average = WeightAverage(ParameterVector([w]), 0.9)
    with torch.no_grad():
        w.fill_(12.0)
    average.advance()
    average.update()
    with average.applied():
        inside = w.item()
    assert inside == pytest.approx(1 / 11 * 1 + 10 / 11 * 12) and w.item() == 12.0


def test_average_is_taken_out_again_after_an_error():
    w = parameter(1.0)
    average = WeightAverage(ParameterVector([w]), 0.9)
    with torch.no_grad():
        w.fill_(12.0)
    with pytest.raises(ZeroDivisionError), average.applied():
        raise ZeroDivisionError
    assert w.item() == 12.0


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99])
def test_the_average_of_the_steps_is_what_is_kept(decay):
    w = parameter()
    run(slide(w), w, batch_size=8, max_epochs=4, averaging=decay)  # 3 steps an epoch
    expected = averages([-t for t in range(1, 13)], decay)
    assert w.tolist() == pytest.approx([expected] * 2, rel=1e-12)


def test_validation_and_hooks_see_the_average():
    w, seen = parameter(), []
    states, note = recorder(w)

    def validate():
        seen.append(w[0].item())
        return 0.0

    run(
        slide(w),
        w,
        batch_size=23,
        max_epochs=3,
        averaging=0.9,
        validate=validate,
        on_epoch_end=note,
    )
    expected = [averages([-s for s in range(1, t + 1)], 0.9) for t in (1, 2, 3)]
    assert seen == pytest.approx(expected, rel=1e-12)
    assert [state[0].item() for state in states] == pytest.approx(expected, rel=1e-12)


# --- what may go wrong ----------------------------------------------------------------------------


def failing_from(w, epoch, fail):
    """Descend at rate 1, one batch an epoch, and do `fail` from an epoch on."""
    descend, calls = slide(w), []

    def loss(x, progress):
        calls.append(None)
        return fail(w) if len(calls) >= epoch else descend(x, progress)

    return loss


def become(value):
    """Loss of that value, parameters still attached."""

    def fail(w):
        loss = w.sum() * value
        return loss, {"objective": loss.detach()}

    return fail


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("averaging", [0.0, 0.9])
def test_a_loss_that_is_not_finite_restores_the_state_before(value, averaging):
    w = parameter()
    states, note = recorder(w)
    outcome = run(
        failing_from(w, 4, become(value)),
        w,
        batch_size=23,
        max_epochs=9,
        averaging=averaging,
        on_epoch_end=note,
    )
    assert outcome.status == "diverged" and outcome.best_epoch == 3
    assert len(outcome.history["objective"]) == len(states) == 3
    assert torch.equal(w.detach(), states[-1])


def test_divergence_restores_the_best_state_not_the_last():
    w = parameter()
    outcome = run(
        failing_from(w, 4, become(math.nan)), w, batch_size=23, validate=scripted([1, 5, 2])
    )
    assert outcome.status == "diverged" and outcome.best_epoch == 2
    assert w.tolist() == [-2.0, -2.0]


def test_divergence_in_the_first_epoch_restores_the_start():
    w = parameter(1.0, 2.0)
    outcome = run(failing_from(w, 1, become(math.nan)), w)
    assert outcome.status == "diverged" and outcome.best_epoch == 0
    assert w.tolist() == [1.0, 2.0]
    assert all(values == [] for values in outcome.history.values())


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_is_divergence(score):
    w = parameter()
    outcome = run(slide(w), w, batch_size=23, validate=scripted([1, 2, score]))
    assert outcome.status == "diverged" and w.tolist() == [-2.0, -2.0]
    assert outcome.history["validation"] == [1, 2]


@pytest.mark.parametrize("max_epochs", [4, 6])
def test_a_gradient_that_is_not_finite_is_divergence_though_the_loss_was_finite(max_epochs):
    """The last step of an epoch can break the parameters when the epoch's terms are known."""
    w = parameter()

    def broken_root(w):
        loss = (w - w.detach()).sqrt().sum()  # 0, with an infinite slope
        return loss, {"objective": loss.detach()}

    outcome = run(failing_from(w, 4, broken_root), w, batch_size=23, max_epochs=max_epochs)
    assert outcome.status == "diverged"
    assert torch.isfinite(w).all()


@pytest.mark.parametrize("end", [-301.0, -1e9, -math.inf, math.nan])
def test_a_run_that_ends_far_below_its_start_has_diverged_finite_as_it_is(end):
    w = parameter(1.0, 2.0)
    outcome = run(slide(w), w, check=scripted([-100.0, end]))
    assert outcome.status == "diverged" and outcome.best_epoch == 0
    assert w.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("start, end", [(-100.0, -299.0), (0.0, -99.0), (500.0, -99.0), (0.0, 9.0)])
def test_a_run_that_ends_a_little_below_its_start_or_above_is_no_divergence(start, end):
    w = parameter()
    outcome = run(slide(w), w, batch_size=23, check=scripted([start, end]))
    assert outcome.status == "finished" and outcome.best_epoch == 5
    assert w.tolist() == [-5.0, -5.0]


@pytest.mark.parametrize("averaging", [0.0, 0.9])
def test_divergence_is_judged_at_the_start_and_at_the_state_that_is_kept(averaging):
    w, seen = parameter(), []
    outcome = run(
        slide(w),
        w,
        batch_size=23,
        averaging=averaging,
        validate=scripted([1, 5, 2, 1, 1]),
        check=lambda: seen.append(w[0].item()) or 0.0,
    )
    assert outcome.best_epoch == 2
    assert seen == pytest.approx([0.0, averages([-1, -2], averaging)])


def interrupt(w):
    raise KeyboardInterrupt


@pytest.mark.parametrize("averaging", [0.0, 0.9])
def test_an_interrupt_in_the_loss_keeps_the_best_state(averaging):
    w = parameter()
    states, note = recorder(w)
    outcome = run(
        failing_from(w, 4, interrupt),
        w,
        batch_size=23,
        averaging=averaging,
        validate=scripted([1, 5, 2]),
        on_epoch_end=note,
    )
    assert outcome.status == "interrupted" and outcome.best_epoch == 2
    assert torch.equal(w.detach(), states[1])


def test_an_interrupt_in_validation_keeps_the_best_state():
    w = parameter()
    scores = scripted([1, 2])

    def validate():
        try:
            return scores()
        except StopIteration:
            raise KeyboardInterrupt from None

    outcome = run(slide(w), w, batch_size=23, averaging=0.5, validate=validate)
    assert outcome.status == "interrupted" and outcome.best_epoch == 2
    expected = averages([-1, -2], 0.5)
    assert w.tolist() == pytest.approx([expected] * 2)


def test_an_interrupt_before_the_end_of_an_epoch_keeps_the_start():
    w = parameter(1.0, 2.0)
    outcome = run(failing_from(w, 2, interrupt), w, batch_size=8)
    assert outcome.status == "interrupted" and outcome.best_epoch == 0
    assert w.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    "fail, status", [(interrupt, "interrupted"), (become(math.nan), "diverged")]
)
def test_the_latest_state_is_kept_and_named_if_the_run_ends_within_grace(fail, status):
    w = parameter()
    outcome = run(
        failing_from(w, 4, fail),
        w,
        batch_size=23,
        max_epochs=10,
        warmup=0.9,
        validate=lambda: 0.0,
    )
    assert outcome.status == status and w.tolist() == [-3.0, -3.0]
    assert outcome.best_epoch == 3


def test_other_errors_are_the_callers():
    w = parameter()

    def fail(w):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(failing_from(w, 2, fail), w)


# --- time -----------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """Clock that goes on by a second at each training step of `ticking`."""
    now = [0.0]
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])
    return now


def ticking(w, clock):
    inner = slide(w)

    def loss(x, progress):
        clock[0] += 1
        return inner(x, progress)

    return loss


@pytest.mark.parametrize("seconds, steps", [(0.5, 1), (1, 1), (3.5, 4), (7, 7), (9, 9)])
def test_the_run_stops_at_the_step_at_which_time_is_over(seconds, steps, clock):
    w = parameter()
    outcome = run(ticking(w, clock), w, batch_size=8, max_epochs=50, max_seconds=seconds)
    assert outcome.status == "out of time" and w.tolist() == [-steps, -steps]
    assert outcome.best_epoch == len(outcome.history["objective"]) == math.ceil(steps / 3)


@pytest.mark.parametrize("seconds", [15, 100, math.inf])
def test_time_that_suffices_changes_nothing(seconds, clock):
    w = parameter()
    outcome = run(ticking(w, clock), w, batch_size=8, max_epochs=5, max_seconds=seconds)
    assert outcome.status == "finished" and w.tolist() == [-15, -15]


def test_an_epoch_that_was_cut_short_has_the_mean_of_the_rows_it_saw(clock):
    w, X, seen = parameter(), rows(), []

    def loss(x, progress):
        clock[0] += 1
        seen.append(x)
        return w.sum(), {"objective": x.mean()}

    history = run(loss, w, X, batch_size=8, max_epochs=5, max_seconds=5).history
    expected = [X.mean().item(), torch.cat(seen[3:]).mean().item()]
    assert history["objective"] == pytest.approx(expected)


@pytest.mark.parametrize("scores, best", [([1, 5, 2], -6), ([1, 2, 5], -7)])
def test_the_best_state_is_kept_when_time_is_over(scores, best, clock):
    w = parameter()
    validate = scripted(scores)
    outcome = run(ticking(w, clock), w, batch_size=8, validate=validate, max_seconds=7)
    assert outcome.status == "out of time" and w.tolist() == [best, best]
    assert outcome.history["validation"] == scores


class Memory:
    """Checkpoint that keeps the last state in memory."""

    saved = None

    def load(self, resume):
        if self.saved is not None:
            resume(self.saved)
        return self.saved is not None

    def save(self, state, *, last):
        if last:
            self.saved = copy.deepcopy(state())


@pytest.mark.parametrize("seconds", [0.5, 4, 6])
def test_with_a_checkpoint_whole_epochs_are_made_and_the_run_goes_on(seconds, clock):
    def outcome(w, checkpoint=None, **settings):
        settings |= {"optimizer": adam(0.1), "averaging": 0.9, "batch_size": 8, "max_epochs": 6}

        def loss(x, progress):
            clock[0] += 1
            return distance(w)(x, progress)

        return run(loss, w, checkpoint=checkpoint, **settings)

    whole, memory, n_epochs = parameter(), Memory(), []
    expected = outcome(whole)
    for _ in range(6):
        w = parameter()
        result = outcome(w, memory, max_seconds=seconds)
        n_epochs.append(len(result.history["objective"]))
        assert result.best_epoch == n_epochs[-1]
        if result.status == "finished":
            break
    at_once = math.ceil(seconds / 3)
    assert n_epochs == list(range(at_once, 7, at_once))
    assert torch.equal(w, whole) and result.history == expected.history


# --- one vector -----------------------------------------------------------------------------------


def tensors():
    """Parameters of several shapes, the last of which no loss here depends on."""
    shapes = [(2, 3), (), (4,), (3, 2)]
    return [
        torch.randn(shape, generator=make_generator(i), requires_grad=True)
        for i, shape in enumerate(shapes)
    ]


def curve(a, b, c, d):
    return (a.square().sum() * b + c.exp().sum() * b).tanh()


def test_parameters_keep_their_values_and_follow_the_vector():
    parameters, originals = tensors(), tensors()
    weights = ParameterVector(parameters)
    for parameter, original in zip(parameters, originals, strict=True):
        assert torch.equal(parameter, original) and parameter.requires_grad
    weights.values.add_(1.0)
    for parameter, original in zip(parameters, originals, strict=True):
        assert torch.equal(parameter, original + 1.0)
    with torch.no_grad():
        parameters[1].fill_(7.0)
    assert weights.values[6] == 7.0


def test_a_parameter_that_went_elsewhere_is_noticed():
    w = parameter(1.0, 2.0)

    def loss(x, progress):
        w.data = w.data * torch.tensor([1.0, 0.0])
        return w.sum(), {"objective": torch.tensor(0.0)}

    with pytest.raises(ValueError, match="replaced the memory of a parameter"):
        run(loss, w)


def test_gradient_is_that_of_each_parameter_in_its_place_and_zero_where_it_does_not_reach():
    parameters, originals = tensors(), tensors()
    weights = ParameterVector(parameters)
    expected = torch.autograd.grad(curve(*originals), originals[:3])
    for _ in range(2):  # nothing is left of the step before
        gradient = weights.differentiate(curve(*parameters))
    assert gradient is weights.values.grad
    expected = torch.cat([*(part.flatten() for part in expected), torch.zeros(6)])
    torch.testing.assert_close(gradient, expected)


def test_the_epoch_that_failed_is_told():
    w = parameter()
    assert run(failing_from(w, 4, become(math.nan)), w, batch_size=23).failed_epoch == 4
    falling = iter([0.0, -1e9])
    outcome = run(slide(w), w, batch_size=23, max_epochs=3, check=lambda: next(falling))
    assert (outcome.status, outcome.failed_epoch) == ("diverged", 0)
