"""Likelihood of binarised MNIST under a convolutional VAE with an RBM prior.

    python examples/benchmarks/images.py --data mnist.npz [--minutes 55 40 18] [--rows 1000]
                                         [--threads 1] [--save FOLDER] [--quick]

The model is trained three times for the given minutes: by the ELBO, then by the importance-weighted
bound with five draws, then at a lower learning rate. Without --data the rows are the digits of
scikit-learn, of 8 by 8 pixels. --save stores the model after each part.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from tables import markdown

from skevae import EnergyVAE, GaussianBernoulliRBMPrior, save_model
from skevae.networks import ConvResNet

N_VALIDATION = 1 / 12

PARTS = [
    {"objective": "elbo", "n_draws": 1, "learning_rate": 1e-3, "kl_warmup": 0.01},
    {"objective": "iwae-dreg", "n_draws": 5, "learning_rate": 5e-4, "kl_warmup": 0.0},
    {"objective": "iwae-dreg", "n_draws": 5, "learning_rate": 1e-4, "kl_warmup": 0.0},
]


def load_images(path):
    """Training and test rows, probabilities of pixels; and the shape of an image."""
    if path is None:
        X = load_digits().data.astype(np.float32) / 16
        return *train_test_split(X, test_size=0.2, random_state=0), (8, 8)
    with np.load(path) as arrays:
        parts = [arrays[name].astype(np.float32) for name in ("train", "test")]
    return *(part.reshape(len(part), -1) / part.max() for part in parts), parts[0].shape[1:]


def make_model(image_shape, sizes, n_hidden, max_iter):
    """Early stopping only keeps the best epoch; the time ends a part."""
    return EnergyVAE(
        40,
        network=ConvResNet(image_shape),
        hidden_layer_sizes=sizes,
        prior=GaussianBernoulliRBMPrior(n_hidden),
        likelihood="bernoulli",
        batch_size=128,
        max_iter=max_iter,
        n_iter_no_change=max_iter,
        validation_fraction=N_VALIDATION,
        precision="bfloat16",
        random_state=0,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="npz file with the images 'train' and 'test'")
    parser.add_argument("--minutes", nargs=3, type=float, default=[55, 40, 18])
    parser.add_argument("--rows", type=int, default=1000, help="test rows to score")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--save", help="folder for the model after each part")
    parser.add_argument("--quick", action="store_true", help="small networks, few epochs and rows")
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    torch.set_num_threads(options.threads)
    train, test, image_shape = load_images(options.data)
    if options.data is not None:
        generator = np.random.default_rng(2026)
        test = (generator.random(test.shape) < test).astype(np.float32)
    size = ((4, 8), 8, 2) if options.quick else ((32, 64), 200, 1000)
    vae = make_model(image_shape, *size)
    rows = 20 if options.quick else options.rows
    table = []
    for number, (part, minutes) in enumerate(zip(PARTS, options.minutes, strict=True), 1):
        vae.set_params(**part, max_time=60 * minutes, warm_start=number > 1).fit(train)
        vae.prior_.normalize(effort=1 if options.quick else 10)
        if options.save is not None:
            save_model(vae, Path(options.save) / f"part-{number}")
        result = vae.log_likelihood(test[:rows])
        score = result.log_likelihood
        low, high = vae.prior_.log_partition_interval_
        table.append(
            [
                part["objective"],
                vae.n_iter_,
                f"{-score.mean():.2f}",
                f"{score.std(ddof=1) / np.sqrt(len(score)):.2f}",
                f"{np.mean(result.pareto_k > 0.7):.1%}",
                f"[{low:.2f}, {high:.2f}]",
            ]
        )
        print(*table[-1], flush=True)
    print(f"\n{len(train)} rows, torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    header = [
        "objective",
        "epochs so far",
        "negative log-likelihood",
        "error",
        "k-hat > 0.7",
        "ln Z",
    ]
    print(markdown(header, table))


if __name__ == "__main__":
    main()
