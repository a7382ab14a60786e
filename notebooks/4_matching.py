# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 4. Information matching
#
# Mollification smooths a label by a schedule. **Information matching** measures instead: an image is distorted, and
# keeps as much of its label as it shares information with the original.
#
# Source: D. Bonilla Salvador, *Mutual Information-Guided Adaptive Label Smoothing for Robust Image Classification via
# Degradative Augmentations* (2025), and its released code; "the paper" below. Where the two differ, the code is the
# default here.

# %%
import matplotlib.pyplot as plt
import pandas as pd
import torch
import torch.nn.functional as F
from matplotlib.ticker import PercentFormatter

from mollify_core import rng
from mollify_core.classifier import Classifier
from mollify_core.datasets import prepare
from mollify_core.labels import smooth
from mollify_core.matching.distortions import KINDS, Distortions, distort
from mollify_core.matching.nmi import normalized_mutual_information
from mollify_core.matching.strength import epsilon
from mollify_core.matching.strength import strength as label_strength
from mollify_core.measure.evaluation import cells, distortion, measure, row, summarise
from mollify_core.provenance import commit, versions
from mollify_core.recipe import Matching, Recipe
from mollify_core.training import Training
from mollify_core.training_data import training_data

DATASET = "digits"  # or "cifar10", "cifar100", "tin": fetched once, then the same cells run on them

torch.set_num_threads(1)  # the same numbers on any number of cores
COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00")
plt.rcParams |= {"figure.dpi": 100, "figure.constrained_layout.use": True, "axes.spines.top": False}
plt.rcParams |= {"axes.spines.right": False, "axes.grid": True, "grid.color": "#E6E6E6", "legend.frameon": False}

prepared = prepare(DATASET)
spec, test = prepared.spec, prepared.tensors("test")
classes = spec.classes
x = test.images[:300].float() / 255  # distortions act on images in [0, 1], before normalisation

# %% [markdown]
# ## Four distortions
#
# Each has a strength $d\in[0,1]$. In training every image draws one of them and $d\sim U(0,1)$.
#
# - **diffusion**: the forward process of DDPM (Ho et al., 2020, equation 4), step $999d$ of 1,000, clipped to [0, 1]
# - **blur**: a Gaussian of $50d$ pixels, at most 51 taps
# - **dropout**: a share $d$ of the 8-pixel patches becomes black
# - **mosaic**: blocks of $\lfloor \text{side}\cdot d^2\rfloor$ pixels become their mean

# %%
strengths = torch.linspace(0, 1, 9)
original = x[(test.labels[:300] == 3).nonzero()[0]]
figure, panels = plt.subplots(len(KINDS), len(strengths), figsize=(11, 6))
for kind, line in zip(KINDS, panels, strict=True):
    for d, panel in zip(strengths, line, strict=True):
        image = distort(original, kind, d[None], Distortions(), rng.generator(0, kind))
        nmi = normalized_mutual_information(original, image).item()
        panel.imshow(image[0].permute(1, 2, 0).clamp(0, 1))
        panel.set(xticks=[], yticks=[])
        panel.set_title(f"d = {d:.3g}\nNMI = {nmi:.2f}", fontsize=8)
        panel.grid(False)
    line[0].set_ylabel(kind)
plt.show()

# %% [markdown]
# ## How much is left: NMI
#
# Both images are cut into grey levels (`bins`, 64 in the paper), and a joint histogram of co-located pixels is taken,
# channel by channel. With entropies $H$ and mutual information $I$ of it,
#
# $$\mathrm{NMI}(x, x') = \frac{2\,I(x;x')}{H(x)+H(x')}\in[0,1].$$
#
# It says how well the grey levels of one image predict those of the other. It knows nothing of classes: a photographic
# negative has NMI 1, and a shift by one pixel, which changes nothing for a reader, costs much of it. And it is an
# *estimate*: 1,024 pixels spread over a table of 64 × 64 cells look related by chance. Two images that have nothing to
# do with each other do not score 0 but a **noise floor**, which fewer bins lower, and `corrected=True` takes away (it
# is measured for every pair by shuffling the pixels of one image).

# %%
variants = {
    "64 bins (paper)": {"bins": 64},
    "16 bins": {"bins": 16},
    "8 bins": {"bins": 8},
    "64 bins, corrected": {"bins": 64, "corrected": True},
}
shuffled = x.flatten(2)[:, :, torch.randperm(x[0, 0].numel(), generator=rng.generator(0, "shuffle"))].view_as(x)
pairs = {
    "itself": x,
    "its negative": 1 - x,
    "itself, 80 % as bright": 0.8 * x,
    "itself, shifted by a pixel": x.roll(1, 3),
    "another image": x.roll(1, 0),
    "itself, pixels shuffled (the floor)": shuffled,
    "uniform noise": torch.rand(x.shape, generator=rng.generator(0, "noise")),
}
table = {
    name: {text: normalized_mutual_information(x, other, **options).mean().item() for text, other in pairs.items()}
    for name, options in variants.items()
}
print("mean NMI of a test image and …")
pd.DataFrame(table).style.format(precision=2)

# %%
d = torch.linspace(0, 1, 21)
distorted = {
    kind: [distort(x, kind, torch.full((len(x),), level.item()), Distortions(), rng.generator(0, kind)) for level in d]
    for kind in KINDS
}
figure, panels = plt.subplots(1, 4, figsize=(13, 3.2), sharey=True)
for kind, panel in zip(KINDS, panels, strict=True):
    for (name, options), color in zip(variants.items(), COLORS, strict=True):
        nmi = [normalized_mutual_information(x, image, **options).mean() for image in distorted[kind]]
        panel.plot(d, nmi, color=color, lw=1.8, label=name)
    panel.set(title=kind, xlabel="strength d", ylim=(0, 1.02))
panels[0].set_ylabel("mean NMI")
panels[0].legend(fontsize=8)
plt.show()

# %% [markdown]
# Strengths of different kinds are not comparable: blur has done its work at $d=0.2$, a quarter of all mosaics (blocks
# of one pixel) change nothing, and dropout is gradual. The label follows what is left, not $d$; that is the point of
# the method.
#
# **The identity rule.** A channel of one grey level has no entropy, so NMI is 0 divided by 0. The released code says
# 0, even for an image and itself, which would take the whole label from an undistorted blank image. By default NMI is
# 1 here where both channels fill the same bin (`constants_match`):

# %%
blank = torch.zeros(1, 3, 32, 32)
for rule in (False, True):
    value = normalized_mutual_information(blank, blank, constants_match=rule).item()
    print(f"a blank image and itself, constants_match={rule}: {value:.0f}")

# %% [markdown]
# ## The target
#
# $$\varepsilon = \min(0.9,\;1-\mathrm{NMI}),\qquad
# y_c = \begin{cases} 1-\varepsilon+\varepsilon/C & \text{true class}\\ \varepsilon/C & \text{others}\end{cases}$$
#
# is ordinary label smoothing of strength $\varepsilon$ (the released code, `spread="all"`). The paper's text gives
# $1-\varepsilon$ and $\varepsilon/(C-1)$ instead (`spread="others"`). For ten classes and one blurred image:

# %%
level = 0.05
blurred = distort(original, "blur", torch.tensor([level]), Distortions(), rng.generator(0))
nmi = normalized_mutual_information(original, blurred)
targets = {}
for spread in ("all", "others"):
    config = Matching(spread=spread)
    strength = label_strength(epsilon(nmi, config), classes, config)
    targets[f'spread="{spread}"'] = smooth(F.one_hot(torch.tensor([3]), classes).float(), strength)[0].tolist()
print(f"blur at d = {level}: NMI {nmi.item():.3f}, epsilon {epsilon(nmi, config).item():.3f}")
pd.DataFrame(targets).T.style.format(precision=3)

# %% [markdown]
# What a training batch is asked for, with $d\sim U(0,1)$: the floor keeps $\varepsilon$ well below 0.9 for diffusion,
# however strong the noise.

# %%
uniform = torch.rand(len(x), generator=rng.generator(0, "d"))
figure, panels = plt.subplots(1, 4, figsize=(13, 2.6), sharey=True)
for kind, panel in zip(KINDS, panels, strict=True):
    image = distort(x, kind, uniform, Distortions(), rng.generator(0, kind))
    for (name, bins), color in zip({"64 bins": 64, "8 bins": 8}.items(), (COLORS[0], COLORS[2]), strict=True):
        eps = epsilon(normalized_mutual_information(x, image, bins), Matching())
        style = {"bins": 20, "range": (0, 1), "histtype": "step", "lw": 1.8, "color": color}
        panel.hist(eps, label=f"{name}, mean {eps.mean():.2f}", **style)
    panel.set(title=kind, xlabel="ε")
    panel.legend(fontsize=8)
panels[0].set_ylabel("images")
plt.show()

# %% [markdown]
# ## Three labels
#
# The comparison that isolates the idea: three networks see the same distorted images, bit for bit, and differ in the
# label alone: **hard**, **fixed** (smoothed by 0.1 for every image) and **coupled** (by what its own image lost), the
# paper's three arms. (The released code also trains them with different crops, flips and learning rates, so that its
# figures mix several causes; `mollify_core/presets.py` has both set-ups.) The optimiser is AdamW, as in the paper.

# %%
share = min(1.0, 1200 / prepared.manifest["counts"]["train"])
base = Recipe().with_(dataset=spec.name, network="resnet20", augment=spec.augment, train_fraction=share)
base = base.with_(epochs=6, batch_size=32, optimizer="adamw", lr=3e-3, weight_decay=1e-4, precision="float32")
classifiers = {}
for label in ("hard", "fixed", "coupled"):
    recipe = base.with_(method="matching", label=label)
    training = Training(recipe, training_data(recipe, prepared))
    *_, last = training.run()
    print(f"{label:9}  training loss {last.metrics['train_loss']:.3f}, on undistorted validation images: ", end="")
    print(f"error {last.metrics['clean_error']:.1%}, ECE {last.metrics['clean_ece']:.1%}")
    classifiers[label] = Classifier.load(training.state(), classes, spec.image_shape, spec.mean, spec.std)

# %% [markdown]
# On the test set, clean and under each distortion: accuracy (solid), and mean confidence (dashed). A network that
# knows its limits has them together.

# %%
images, truth = test.images[:400], test.labels[:400]
measured = {label: [] for label in classifiers}
for cell in cells(types=(), levels=(0, 0.1, 0.25, 0.5, 0.75, 1)):
    change = distortion(cell, seed=0) if cell.kind == "distortion" else None
    for label, classifier in classifiers.items():
        log_probabilities, _ = measure(classifier, images, distort=change)
        measured[label].append(row(cell, log_probabilities, truth))

figure, panels = plt.subplots(1, 4, figsize=(13, 3.4), sharey=True)
for kind, panel in zip(KINDS, panels, strict=True):
    for (label, rows), color in zip(measured.items(), (COLORS[1], COLORS[2], COLORS[0]), strict=True):
        shown = [found for found in rows if found["name"] == kind]
        levels = [found["level"] for found in shown]
        panel.plot(levels, [1 - found["error"] for found in shown], color=color, marker="o", ms=4, label=label)
        panel.plot(levels, [found["confidence"] for found in shown], color=color, ls="--", lw=1.3)
    panel.axhline(1 / classes, color="grey", lw=1, ls=":")
    panel.set(title=kind, xlabel="strength d", ylim=(0, 1.02))
panels[0].yaxis.set_major_formatter(PercentFormatter(1))
panels[0].legend(fontsize=8)
plt.show()

# %%
columns = {
    f"{scope}_{metric}": f"{scope} {metric}" for metric in ("error", "nll", "ece") for scope in ("clean", "distorted")
}
means = {label: summarise(rows) for label, rows in measured.items()}
found = {label: {text: values[key] for key, text in columns.items()} for label, values in means.items()}
pd.DataFrame(found).T.style.format(precision=3)

# %% [markdown]
# **What this can show, and what not.** Here coupled labels read undistorted digits best. Most blurs and half of the
# diffusions leave nothing to be read; a hard label on such an image is noise to learn from, and coupling turns its
# weight down. The price stands in the same picture: on images with little left it gives up first, where the others
# still guess better than by chance. All three are less sure of clean images than they might be, since none of their
# training images is undistorted (`p_undistorted` = 0, the paper's choice), and six epochs are short. One seed and 359
# test images: another seed may change the order of the labels. The levels are those that they were trained on; notebook
# 3 shows how to measure on corruptions that a network has not seen.

# %%
print(" ".join(f"{name} {version}" for name, version in versions().items()), "commit", commit())
