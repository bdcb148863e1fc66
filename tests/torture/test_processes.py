"""What a process of its own shows: forked children, threads, sockets and the array API."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Imports, fits, scores, and forks children that do so too; prints what became of each.
SCRIPT = """
import os, sys, time
REACHING_OUT = ("connect", "getaddrinfo", "gethostbyname", "sendto", "bind")
def refuse(event, args):
    if event.startswith("socket.") and event[7:] in REACHING_OUT:
        print("reached out:", event, args, flush=True)
        raise RuntimeError("no network")
sys.addaudithook(refuse)
import warnings
warnings.simplefilter("ignore")
import numpy, pandas, scipy.stats, sklearn.mixture, torch
def n_threads():
    return len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0
before = n_threads()
from skevae import EnergyVAE, GaussianBernoulliRBMPrior
print("threads", n_threads() - before)

X = numpy.random.RandomState(0).randn(200, 3)
def work(X=X):
    quick = {"max_iter": 1, "random_state": 0}
    vae = EnergyVAE(2, hidden_layer_sizes=(8,), prior="normal", n_score_draws=100, **quick)
    vae.fit(X).score(X[:100])
    vae.transform(X), vae.sample(10)
    return vae, GaussianBernoulliRBMPrior(4, **quick).fit(X)

def child(call):
    pid = os.fork()
    if not pid:
        try:
            call()
        except RuntimeError as error:
            os._exit(3 if "'loky'" in str(error) and "spawn" in str(error) else 4)
        except BaseException:
            os._exit(5)
        os._exit(0)
    end = time.monotonic() + 30
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return "hangs"

def one_thread():
    torch.set_num_threads(1)
    work()

torch.set_num_threads(1)
vae, rbm = work()
expected = vae.score(X), rbm.score(X)
with sklearn.config_context(array_api_dispatch=True):
    vae, rbm = work(torch.from_numpy(X))
    T, ones = torch.from_numpy(X), torch.ones(len(X))
    scores = vae.score(T), rbm.score(T, sample_weight=ones)
    vae.partial_fit(T, sample_weight=ones), vae.transform(T), vae.inverse_transform(T[:, :2])
print("array API", numpy.allclose(scores, expected))
print("one thread", child(work), child(lambda: vae.score(X)))
torch.set_num_threads(2)
print("never used", child(work))
vae, rbm = work()
scores = vae.score(X), rbm.score(X)
print("two threads agree", numpy.allclose(scores, expected, rtol=0, atol=1e-3))
calls = [work] if sys.argv[1] == "short" else [
         work, lambda: vae.score(X), lambda: vae.sample(9), lambda: vae.transform(X),
         lambda: vae.inverse_transform(X[:, :2]), lambda: vae.partial_fit(X),
         lambda: rbm.score(X), lambda: rbm.sample(9), lambda: rbm.energy(X)]
print("two threads", *map(child, calls))
if sys.argv[1] == "short":
    sys.exit()
print("grandchild", child(lambda: os._exit(child(work))))
print("one in the child", child(one_thread))
work()
print("parent goes on")
"""


EXPECTED = [
    "threads 0",
    "array API True",
    "one thread 0 0",
    "never used 0",
    "two threads agree True",
    "two threads" + 9 * " 3",
    "grandchild 3",
    "one in the child 0",
    "parent goes on",
]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize(
    "form",
    [
        pytest.param("short", marks=pytest.mark.slow),
        pytest.param("long", marks=pytest.mark.torture),
    ],
)
def test_forked_children_work_or_say_what_to_do_and_nothing_reaches_out(form):
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, form],
        capture_output=True,
        text=True,
        timeout=400,
        cwd=Path(__file__).resolve().parents[2],
        # Threads that wait must not take a processor from those that work.
        env={**os.environ, "SCIPY_ARRAY_API": "1", "OMP_WAIT_POLICY": "passive"},
    )
    expected = EXPECTED if form == "long" else [*EXPECTED[:5], "two threads 3"]
    assert run.stdout.splitlines() == expected, run.stderr
