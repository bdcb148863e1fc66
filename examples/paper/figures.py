"""Figures of "Variational Inference with Unnormalized Priors", from the models of `table2.py`.

    python examples/paper/figures.py --quick                           # digits, seconds
    python examples/paper/figures.py --data binarized_mnist.npz        # after table2.py --data ...

Figure 1: the objective and the energy of the prior during training, three runs each by eq. 3 and by
the exact ln Z. The paper shows the objective. Here it is compared with the importance-weighted
bound of held-out rows with the correct ln Z. (Energies have no absolute zero: only their changes
can be compared.)
Figure 2: reconstructions of test rows; samples by five Gibbs steps from noise, and exact ones.
Figure 3: samples from Gaussian mixtures that were fitted to the latents after training.

Options and models are those of `table2.py`; models that it has not fitted yet are fitted now.
"""

import warnings

import joblib
import numpy as np
import table2
import torch
from report import OUTPUT, Results, publish, pyplot
from sklearn.exceptions import ConvergenceWarning

PAPER, OURS = "ECVVAE", "RBM, 24 units, exact ln Z"
MIXTURES = ("ECVVAE, mixture of 4 ex post", "ECVVAE, mixture of 10 ex post")
# Of Okabe & Ito, which colour-blind readers tell apart.
CAPTIONS = {
    "figure1": "The objective of training, beside the bound of held-out rows with the right "
    ":math:`\\ln Z`; and the energy of the prior. Three runs each.",
    "figure2": "Test rows, their reconstructions, and samples: by five Gibbs steps from noise, as "
    "in the paper, and from what the prior really is.",
    "figure3": "Samples from Gaussian mixtures fitted to the latents after training.",
}
COLOURS = {PAPER: "#D55E00", OURS: "#0072B2"}
LABELS = {PAPER: "ECVVAE, by eq. 3", OURS: "by the exact ln Z"}
BOUNDS = ("objective", "validation")
N_RUNS, N_SIDE = 3, 8


def training_runs(options, folder, n_epochs):
    """History of each run, held-out bound included: (model, seed) -> dict of arrays."""
    histories = {}
    trained = f"{table2.data_name(options)}-{n_epochs}-{options.precision}"
    for name in (PAPER, OURS):
        for seed in range(N_RUNS):
            file = folder / "histories" / f"{trained}-{len(histories)}.joblib"
            if not file.exists():
                effort = table2.EFFORTS[options.effort]
                model = table2.make_model(name, effort, n_epochs, seed, folder, options.precision)
                # Monitored by the correct bound, but without early stopping.
                model.set_params(early_stopping=True, n_iter_no_change=n_epochs + 1)
                file.parent.mkdir(parents=True, exist_ok=True)
                joblib.dump(model.fit(table2.load(options)[0]).history_, file)
            histories[name, seed] = joblib.load(file)
    return histories


def draw_training(histories):
    """Figure 1."""
    plt = pyplot()
    figure, (bound, energy) = plt.subplots(1, 2, figsize=(9.5, 3.8), layout="constrained")
    for (name, seed), history in histories.items():
        epochs = np.arange(1, len(history["objective"]) + 1)
        style = {"color": COLOURS[name], "lw": 1.2}
        bound.plot(epochs, history["objective"], ls="--", **style)
        bound.plot(epochs, history["validation"], **style)
        energy.plot(epochs, history["energy"], **style, label=LABELS[name] if seed == 0 else None)
    bound.plot([], [], color="0.3", ls="--", label="the objective of training")
    bound.plot([], [], color="0.3", label="held-out rows, right ln Z")
    # Early epochs would take the whole axis.
    finals = [history[term][-1] for history in histories.values() for term in BOUNDS]
    reach = max(finals) - min(finals)
    bound.set_ylim(min(finals) - 0.5 * reach, max(finals) + 0.3 * reach)
    bound.set(xlabel="epoch", ylabel="nats a row", title="Bound, as claimed and as it is")
    energy.set(xlabel="epoch", ylabel="E(z) at draws of q(z | x)", title="Energy of the prior")
    for axis in (bound, energy):
        axis.grid(color="0.92")
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False)
    return figure


def mosaic(axis, images, title):
    """Draw square images side by side, ink on paper."""
    side = int(np.sqrt(images.shape[1]))
    gap = max(1, side // 14)
    framed = np.pad(
        images.reshape(-1, N_SIDE, side, side), [(0, 0), (0, 0), (gap, gap), (gap, gap)]
    )
    pitch = side + 2 * gap
    axis.imshow(
        framed.transpose(0, 2, 1, 3).reshape(-1, N_SIDE * pitch), cmap="gray_r", vmin=0, vmax=1
    )
    axis.set_title(title, fontsize="medium")
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_color("0.8")


def five_gibbs_steps(model, n):
    """Latents after five sweeps from noise, as the paper samples."""
    chains = model.prior_.run_chains(n, 4, burn_in=1, random_state=0)
    return chains.samples[-1]


def draw_samples(models, X):
    """Figure 2."""
    plt = pyplot()
    n = N_SIDE**2
    figure, axes = plt.subplots(len(models), 4, figsize=(11, 5.9), layout="constrained")
    for line, (name, model) in zip(axes, models.items(), strict=True):
        how = "exactly" if model.prior_.density_.samples_exactly else "by long chains"
        mosaic(line[0], X[:n], "test rows")
        mosaic(line[1], model.reconstruct(X[:n]), "reconstructed")
        five = model.inverse_transform(five_gibbs_steps(model, n))
        mosaic(line[2], five, "sampled by five Gibbs steps")
        mosaic(line[3], decoded_samples(model.prior_, model, n), f"sampled {how}")
        line[0].set_ylabel(LABELS[name])
    return figure


def decoded_samples(density, model, n):
    """Decoder means of samples of a density of the latents, in random order."""
    drawn = density.sample(n)
    # Mixtures return the components as well, and sort by them.
    Z = drawn[0] if isinstance(drawn, tuple) else drawn
    return model.inverse_transform(np.random.default_rng(0).permutation(Z))


def draw_mixtures(models):
    """Figure 3."""
    plt = pyplot()
    figure, axes = plt.subplots(1, len(models), figsize=(8, 4.3), layout="constrained")
    for axis, model in zip(axes, models.values(), strict=True):
        n = model.ex_post_.n_components
        images = decoded_samples(model.ex_post_, model, N_SIDE**2)
        mosaic(axis, images, f"ECVVAE, mixture of {n} ex post")
    return figure


def main():
    options = table2.parse()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore", ConvergenceWarning)
    n_epochs = options.epochs or table2.EFFORTS[options.effort].n_epochs
    output = options.output or OUTPUT / f"table2-{options.effort}"
    data = table2.data_name(options)
    results = Results(output / "results.jsonl", table2.KEY)
    options.only, options.seeds = [PAPER, *MIXTURES, OURS], [0]
    table2.run(options, output, results, n_epochs)
    models = {
        name: joblib.load(table2.model_file(output, data, name, n_epochs, options.precision, 0))
        for name in options.only
    }
    train, test = table2.load(options)
    X = np.random.default_rng(0).permutation(test)
    figures = {
        "figure1": draw_training(training_runs(options, output, n_epochs)),
        "figure2": draw_samples({name: models[name] for name in (PAPER, OURS)}, X),
        "figure3": draw_mixtures({name: models[name] for name in MIXTURES}),
    }
    parts = []
    for name, figure in figures.items():
        figure.savefig(output / f"{name}.png", dpi=110)
        print(output / f"{name}.png")
        trained = f"{data}, {len(train):,} training rows, {n_epochs} epochs"
        parts.append(f".. figure:: results/{name}.png\n\n    {CAPTIONS[name]} ({trained})\n")
    (output / "figures.rst").write_text("\n".join(parts))
    publish([output / "figures.rst", *(output / f"{name}.png" for name in figures)], options.docs)


if __name__ == "__main__":
    main()
