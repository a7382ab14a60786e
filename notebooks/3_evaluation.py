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
# # 3. Evaluation and calibration
#
# A sweep compares recipes on validation images. This notebook measures its networks where nothing was chosen: on the
# test set, clean and under the benchmark's corruptions, and asks not only *how often are they right?* but also *do
# they know when they are not?*

# %%
import os
import shlex
import subprocess
import sys
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.ticker import PercentFormatter

import mollify_core
from mollify_core import rng
from mollify_core.classifier import Classifier
from mollify_core.corruptions.benchmark import GROUPS
from mollify_core.corruptions.suite import corrupt
from mollify_core.datasets import prepare
from mollify_core.measure import calibration
from mollify_core.measure.evaluation import measure
from mollify_core.provenance import commit, versions
from mollify_core.training_data import split_rows

with warnings.catch_warnings(action="ignore"):  # tqdm would like ipywidgets
    from mollify_sweeps.evaluation.models import find

torch.set_num_threads(1)  # the same numbers on any number of cores
ROOT = Path(mollify_core.__file__).resolve().parents[1]
COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00")
plt.rcParams |= {"figure.dpi": 100, "figure.constrained_layout.use": True, "axes.spines.top": False}
plt.rcParams |= {"axes.spines.right": False, "axes.grid": True, "grid.color": "#E6E6E6", "legend.frameon": False}


def run(*words):
    """Runs a Python program, shows what it prints, and fails when it does."""
    print("$ python", shlex.join(words))
    env = {**os.environ, "COLUMNS": "110"}
    env.pop("FORCE_COLOR", None)  # Jupyter's: the live table would be written again and again, as to a terminal
    command = [sys.executable, *(str(ROOT / word) if word.startswith("sweeps/") else word for word in words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env) as process:
        for line in process.stdout:
            print(line, end="")
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


# %% [markdown]
# ## A sweep to evaluate
#
# The one of notebook 2. Where that has run, nothing is trained again.

# %%
space = """\
max_noise: search
max_blur: {low: 2}
smoothing: search
lr: {low: 0.03, high: 0.2}
"""
if not Path("runs/digits/report/best_recipe.json").exists():
    Path("runs").mkdir(exist_ok=True)
    Path("runs/space.yaml").write_text(space)
    search = (
        "sweeps/search.py --dataset digits --train-fraction 1 --batch-size 16 --epochs 4 "
        "--methods plain,mollification --space runs/space.yaml --storage runs --name digits --wandb off"
    )
    run(*shlex.split(search), "--trials", "8")

# %% [markdown]
# ## The evaluation
#
# `evaluate` takes sweeps, trials or checkpoints, any number of them. Of a sweep it measures what its report compares:
# `best`, the best recipe with a method; `plain`, the best of plain training, which was searched as well; `paper`, the
# first trial of the best one's method, with default settings (where that is the best one too, it goes by this name);
# and of a sweep of several methods the best of each further one, by the method's name. A confirmation
# (`runs/digits-confirm`) can be evaluated too: all its recipes with all their seeds.
#
# This is the only program that reads the test set. The corrupted images of CIFAR and TinyImageNet are published
# arrays; of other data, as here, they are made, with the published algorithms and strengths. (`--no-extra` leaves out
# the four that tuning may see, `--levels none` the distortions of information matching; without photographs for it,
# `frost` is left out too, and said so.)

# %%
evaluate = "sweeps/evaluate.py runs/digits --corruptions made --no-extra --levels none --out runs/evaluation"
run(*shlex.split(evaluate))

# %% [markdown]
# Besides `summary.md` and plots it leaves one row for each model and cell (a corruption at a severity) in
# `evaluation.parquet`. Error, NLL and calibration error by severity, 0 being clean:

# %%
rows = pd.read_parquet("runs/evaluation/evaluation.parquet")
models = list(rows.model.unique())
style = {
    model: {"color": color, "marker": marker} for model, color, marker in zip(models, COLORS, "osDv", strict=False)
}
by_severity = rows.groupby(["model", "severity"])[["error", "nll", "ece"]].mean()
figure, panels = plt.subplots(1, 3, figsize=(12, 3.2))
for panel, metric in zip(panels, by_severity, strict=True):
    for model in models:
        panel.plot(by_severity.loc[model, metric], label=model, **style[model])
    panel.set(
        xlabel="severity",
        title={"error": "error", "nll": "NLL", "ece": "ECE (pooled in a cell)"}[metric],
        ylim=(0, None),
    )
    if metric != "nll":
        panel.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
panels[0].legend()
plt.show()

# %% [markdown]
# Read the curves from both ends: what a method costs on clean images (severity 0), and what it is worth where images
# are bad. They need not answer alike, nor need error and NLL: the NLL, and the ECE, also see what a network says of
# its own certainty. Means hide where it happens. The error of each corruption, mean over severities, in per cent:

# %%
by_type = rows[rows.kind == "corruption"].pivot_table(
    index=["group", "name"], columns="model", values="error", sort=False
)
(100 * by_type[models]).style.format(precision=1).background_gradient(cmap="Oranges", vmin=0, vmax=80)

# %% [markdown]
# ## Reliability
#
# A network is **calibrated** when it is right in 80 % of the cases in which it says 80 %. The reliability diagram
# sorts images into bins of confidence, and compares each bin's accuracy with its mean confidence. The expected
# calibration error is the mean gap, each bin weighted by its images (Guo et al., ICML 2017, equation 3):
#
# $$\mathrm{ECE} = \sum_b \frac{n_b}{n}\,\big|\mathrm{acc}_b-\mathrm{conf}_b\big| .$$
#
# The library gives the same from a checkpoint, in a few calls. Here: the test images, clean, and under all "weather"
# and "digital" corruptions (but frost) at severity 3, pooled.

# %%
prepared = prepare("digits")
spec, test, train = prepared.spec, prepared.tensors("test"), prepared.tensors("train")
hard = [name for group in ("weather", "digital") for name in GROUPS[group] if name != "frost"]
views = {"clean": test.images, "corrupted": torch.cat([corrupt(test.images, name, 3) for name in hard])}
truth = {"clean": test.labels, "corrupted": test.labels.repeat(len(hard))}

outputs, held_out = {}, {}
for model in find(["runs/digits"], print):
    classifier = Classifier.load(model.state, spec.classes, spec.image_shape, spec.mean, spec.std)
    outputs[model.label] = {view: measure(classifier, images)[0] for view, images in views.items()}
    validation = train.select(split_rows(train.labels.numpy(), model.recipe, prepared)[1])
    held_out[model.label] = measure(classifier, validation.images)[0], validation.labels

figure, panels = plt.subplots(2, 2 * len(outputs), figsize=(5.5 * len(outputs), 4), height_ratios=[3, 1], sharex=True)
for column, (label, view) in zip(panels.T, [(label, view) for label in outputs for view in views], strict=True):
    confidence, correct = calibration.predictions(outputs[label][view], truth[view])
    bins = calibration.reliability(confidence, correct)
    edges = torch.arange(len(bins.counts)) / len(bins.counts)
    bar = {"width": 1 / len(bins.counts), "align": "edge", "edgecolor": "white"}
    column[0].bar(edges, bins.accuracy, color=style[label]["color"], alpha=0.6, **bar)
    bar |= {"facecolor": "none", "edgecolor": "#D55E00", "hatch": "////"}
    column[0].bar(edges, bins.confidence - bins.accuracy, bottom=bins.accuracy, label="gap", **bar)
    column[0].plot([0, 1], [0, 1], color="black", lw=1, ls="--")
    column[0].set_title(f"{label}, {view}\nECE {calibration.ece(confidence, correct):.1%}", fontsize=9)
    column[1].bar(edges, bins.counts / bins.counts.sum(), width=1 / len(edges), align="edge", color="grey")
    column[1].set(ylim=(0, 1), xlabel="confidence")
panels[0, 0].set_ylabel("accuracy")
panels[1, 0].set_ylabel("images")
panels[0, 0].legend(loc="upper left", fontsize=8)
plt.show()

# %% [markdown]
# Bars below the diagonal mean that the network is surer than it is right (overconfident), above it, less sure.
#
# ## Temperature scaling
#
# The simplest repair: divide the logits by one number $T$, which changes no decision, only the confidence (Guo et
# al., section 4.2). $T$ is fitted by NLL on the validation images; $T>1$ cools an overconfident network down, $T<1$
# sharpens an underconfident one. `evaluate` reports calibration with and without it.

# %%
scales = torch.logspace(-0.7, 0.7, 40)
figure, axes = plt.subplots(figsize=(5.5, 3.2))
table = {}
for label, (output, labels) in held_out.items():
    best = calibration.fit_temperature(output, labels)
    losses = [torch.nn.functional.nll_loss(calibration.scaled(output, scale.item()), labels).item() for scale in scales]
    axes.loglog(scales, losses, color=style[label]["color"], label=f"{label}: T = {best:.2f}")
    axes.axvline(best, color=style[label]["color"], lw=1, ls=":")
    for view, output in outputs[label].items():
        for text, used in (("T = 1", output), ("fitted T", calibration.scaled(output, best))):
            table[label, text, f"{view} ECE (%)"] = 100 * calibration.ece(*calibration.predictions(used, truth[view]))
            table[label, text, f"{view} NLL"] = torch.nn.functional.nll_loss(used, truth[view]).item()
axes.set(xlabel="temperature T", ylabel="validation NLL", title="clean validation images")
axes.set_xticks([0.2, 0.5, 1, 2, 5], [0.2, 0.5, 1, 2, 5])
axes.xaxis.minorticks_off()
axes.legend()
plt.show()
pd.Series(table).unstack().style.format(precision=2)

# %% [markdown]
# After so short a training, and with softened labels, a network may well be *under*confident on clean images, so that
# the fitted $T$ is below 1. Under corruptions the accuracy falls, and whether the confidence falls with it is another
# matter: a network that is underconfident when clean may be overconfident there, and then the temperature that
# repairs it on clean images makes it worse on corrupted ones. A repair fitted on clean data holds for clean data:
# that is why everything is reported with and without it.
#
# ## An estimate has errors too
#
# ECE is computed from finitely many images, and even a perfectly calibrated network gets one above 0: in a bin with
# few images the accuracy misses the confidence by chance, and the absolute value never cancels. How much depends on
# the estimator:
#
# - **pooled** (`ece`): one set of 15 bins for all images; `adaptive_ece`: the same with bins of equal mass;
# - **batch mean** (`batch_mean_ece`, as in mollification's released code): the ECE of each batch of 100, averaged;
# - **batch and bin mean** (`matching_ece`, as in information matching's): all batches *and bins* averaged, unweighted.
#
# Below, a simulated network that is perfectly calibrated *by construction*: confidences are drawn, and each answer is
# right with exactly that probability. The true ECE is 0; about 80 % of its answers are right.

# %%
estimators = {
    "pooled": calibration.ece,
    "adaptive": calibration.adaptive_ece,
    "batch mean": calibration.batch_mean_ece,
    "batch and bin mean": calibration.matching_ece,
}
sizes = 100, 200, 500, 1000, 2000, 5000, 10000
found = {name: [] for name in estimators}
for size in sizes:
    generator = rng.generator(0, "calibrated", size)
    draws = []
    for _ in range(20):
        confidence = 1 - 0.9 * torch.rand(size, generator=generator, dtype=torch.float64) ** 3.5
        draws.append((confidence, (torch.rand(size, generator=generator) < confidence).double()))
    for name, estimate in estimators.items():
        found[name].append(sum(estimate(*draw) for draw in draws) / len(draws))
figure, axes = plt.subplots(figsize=(6.5, 3.4))
for (name, values), color in zip(found.items(), COLORS, strict=True):
    axes.semilogx(sizes, values, color=color, marker="o", ms=4, label=name)
axes.axhline(0, color="black", lw=1, ls="--")
axes.axvline(len(test), color="grey", lw=1, ls=":")
axes.text(1.05 * len(test), 0.115, "our test set", fontsize=8, color="grey")
axes.set(xlabel="images", ylabel="estimated ECE", title="a perfectly calibrated network", ylim=(-0.004, 0.24))
axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
axes.legend(loc="upper right", fontsize=8, ncols=2)
plt.show()

# %% [markdown]
# More images cure the pooled estimates; they do nothing for the other two, whose batches stay at 100. So the papers'
# figures can be compared with one another, but not read as calibration errors, and small differences between them say
# little. Of our networks, on the corrupted images above:

# %%
biased = {
    label: {
        name: 100 * estimate(*calibration.predictions(output["corrupted"], truth["corrupted"]))
        for name, estimate in estimators.items()
    }
    for label, output in outputs.items()
}
print("ECE (%) by estimator")
pd.DataFrame(biased).T.style.format(precision=1)

# %% [markdown]
# **What this can show, and what not.** How each number is made, and what it means. Not which method is better: each
# of these networks is one training of four epochs, chosen by best against best. 359 test images put a standard error
# of two per cent on an error of 20 %, and a bias of a few per cent on the ECE of a cell. What a method itself does, a
# confirmation tells (notebook 2). In the service's tables clean and corrupted ECE are pooled in the same way, so that
# they can be compared; still, read them beside the NLL, which has no bins.

# %%
print(" ".join(f"{name} {version}" for name, version in versions().items()), "commit", commit())
