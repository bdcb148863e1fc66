"""Draw docs/_static/front.png, the picture of the front page: python docs/pictures.py.

It takes two minutes on one core. The fit is that of the code next to the picture on the front page.
"""

from io import BytesIO
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from skevae import EnergyVAE
from skevae.datasets import toy_density

X = toy_density("8gaussians").sample(5000, random_state=0)
vae = EnergyVAE(random_state=0).fit(X)
X_test = toy_density("8gaussians").sample(5000, random_state=1)
print(
    f"{vae.score(X_test):.3f} of at most {toy_density('8gaussians').log_density(X_test).mean():.3f}"
)

reach = 4.0
side = np.linspace(-reach, reach, 100)
grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
density = np.exp(vae.score_samples(grid)).reshape(100, 100)

figure, axes = plt.subplots(1, 3, figsize=(7, 2.6), layout="constrained", facecolor="white")
points = {"s": 0.8, "linewidths": 0, "color": "#1f3b73"}
axes[0].scatter(*X.T, **points)
axes[1].imshow(density, origin="lower", extent=(-reach, reach) * 2, cmap="Blues", vmax=0.25)
axes[2].scatter(*vae.sample(5000, random_state=0).T, **points)
for axis, title in zip(
    axes, ["X", "exp(vae.score_samples(grid))", "vae.sample(5000)"], strict=True
):
    axis.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[], aspect="equal")
    axis.set_title(title, family="monospace", fontsize=9)
# In few colours, which makes a small file.
drawn = BytesIO()
figure.savefig(drawn, dpi=150)
picture = Image.open(drawn).convert("RGB").quantize(32, dither=Image.Dither.NONE)
picture.save(Path(__file__).parent / "_static" / "front.png", optimize=True)
