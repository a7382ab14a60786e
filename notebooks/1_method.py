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
# # 1. The method in pictures
#
# A classifier that is trained on clean images with hard labels learns to be certain. Shown a noisy or blurred image,
# it stays certain, and is wrong. **Mollification** degrades each training image by a random amount and smooths its
# label by the matching amount, so that the network learns: *less signal, less certainty*.
#
# Source: Heinonen, Tran, Kampffmeyer, Filippone, *Robust Classification by Coupling Data Mollification with Label
# Smoothing*, AISTATS 2025 ([arXiv 2406.01494](https://arxiv.org/abs/2406.01494)), called "the paper" below.
#
# The images are scikit-learn's handwritten digits: real, small, and nothing to download.

# %%
import matplotlib.pyplot as plt
import torch
from matplotlib.ticker import PercentFormatter

from mollify_core import labels, rng
from mollify_core.classifier import Classifier
from mollify_core.corruptions.benchmark import BENCHMARK, GROUPS
from mollify_core.corruptions.suite import corrupt
from mollify_core.datasets import prepare
from mollify_core.measure.evaluation import cells, measure, row, summarise
from mollify_core.mollification import degrade, schedule
from mollify_core.normalise import Normalise
from mollify_core.provenance import commit, versions
from mollify_core.recipe import Mollify, Recipe
from mollify_core.training import Training
from mollify_core.training_data import training_data

DATASET = "digits"  # or "cifar10", "cifar100", "tin": fetched once, then the same cells run on them

torch.set_num_threads(1)  # the same numbers on any number of cores
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
plt.rcParams |= {"figure.dpi": 100, "figure.constrained_layout.use": True, "axes.spines.top": False}
plt.rcParams |= {"axes.spines.right": False, "axes.grid": True, "grid.color": "#E6E6E6", "legend.frameon": False}

prepared = prepare(DATASET)
spec, test = prepared.spec, prepared.tensors("test")
side, classes, names = spec.image_shape[-1], spec.classes, prepared.manifest["class_names"]
normalise = Normalise.make("normal", spec.mean, spec.std, "cpu")
print(f"{spec.name}: {prepared.manifest['counts']} images of {spec.image_shape}, {classes} classes")

# %% [markdown]
# Everything below acts on the **normalised** image: mean subtracted, divided by the standard deviation. Its variance
# is then about 1, so that noise of standard deviation 1 is as strong as the image. To look at one, we undo that.

# %%
rows = [(test.labels == label).nonzero()[0].item() for label in (3, 5, 8)]
x, y = normalise(test.images[rows]), test.labels[rows]
print(f"normalised: mean {normalise(test.images).mean():.2f}, standard deviation {normalise(test.images).std():.2f}")


def show(axes, image):
    """Draws one normalised image (channels, height, width)."""
    axes.imshow(normalise.undo(image[None])[0].permute(1, 2, 0))
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(False)


def grid(degraded, titles):
    """One row an image, one column a time."""
    size = 1.15 * len(degraded), 1.15 * len(x) + 0.6
    _, panels = plt.subplots(len(x), len(degraded), figsize=size, squeeze=False)
    for column, images, title in zip(panels.T, degraded, titles, strict=True):
        column[0].set_title(title, fontsize=8)
        for axes, image in zip(column, images, strict=True):
            show(axes, image)


times = torch.linspace(0, 1, 9)

# %% [markdown]
# ## Noise
#
# The image fades while noise comes in, along a time $t$ from 0 to 1 (the paper's Figure 1):
#
# $$x_t = \alpha_t\,x + \sigma_t\,\varepsilon,\qquad \varepsilon\sim\mathcal N(0, I),\qquad
# \alpha_t = \cos\tfrac{\pi t}{2},\quad \sigma_t = \sin\tfrac{\pi t}{2},\qquad \alpha_t^2+\sigma_t^2 = 1 .$$
#
# The variance stays 1, as in diffusion models, and the signal-to-noise ratio $\mathrm{SNR}_t = \alpha_t^2/\sigma_t^2$
# falls from infinity to 0. The recipe's `max_noise` lowers the ceiling: $\sigma_t = $ `max_noise` $\cdot\sin(\pi
# t/2)$.

# %%
eps = torch.randn(x.shape, generator=rng.generator(0, "picture"))  # one noise for all times: a path
levels = schedule.noise_level(times)
noisy = [degrade.noise(x, level.expand(len(x)), eps) for level in levels]
grid(noisy, [f"t = {t:.3g}\nσ = {level:.2f}" for t, level in zip(times, levels, strict=True)])

# %% [markdown]
# ## Blur
#
# The other degradation lets the image diffuse like heat. In the cosine basis (reflecting borders) every frequency
# $(\omega_k,\omega_l)$, $\omega_k = \pi k/n$, simply shrinks:
#
# $$\hat x_t(k,l) = e^{-(\omega_k^2+\omega_l^2)\,s_t^2/2}\;\hat x(k,l),\qquad s_t = s_0^{\,1-t}\,s_1^{\,t} .$$
#
# $s_t$ is the standard deviation in pixels of the equivalent Gaussian. It grows log-linearly from $s_0=0.3$
# (`min_blur`) to $s_1$, by default the image side (`max_blur`); at $t=1$ only the mean grey level is left.

# %%
scales = schedule.blur_scale(times, min_blur=0.3, max_blur=side)
blurred = [degrade.heat_blur(x, scale.expand(len(x))) for scale in scales]
grid(blurred, [f"t = {t:.3g}\ns = {scale:.2g} px" for t, scale in zip(times, scales, strict=True)])

# %% [markdown]
# Noise adds the same power to every frequency; blur takes the fine before the coarse. A sample gets one **or** the
# other.
#
# ## Labels
#
# A degraded image keeps less of its label. With the one-hot label $y$, $C$ classes and the **strength** $g\in[0,1]$,
#
# $$y_t = (1-g_t)\,y + g_t\,\tfrac1C ,\qquad
# g^{\text{noise}}_t = \Big(\frac{1}{1+\mathrm{SNR}_t}\Big)^{k_n} = \sigma_t^{\,2k_n},\qquad
# g^{\text{blur}}_t = \Big(\frac{\log (s_t/s_0)}{\log (n/s_0)}\Big)^{k_b} = t^{\,k_b} .$$
#
# The last equality is for the paper's ends, 0.3 px and the image side; in general the label follows the blur that was
# really applied. The powers $k_n, k_b$ (`noise_power`, `blur_power`, both 1 in the paper) say how soon the label goes:
# a large one keeps labels hard until the image is nearly gone, which is plain augmentation.

# %%
t = torch.linspace(0, 1, 200)
sigma, scale = schedule.noise_level(t), schedule.blur_scale(t, 0.3, side)
figure, (time, noise, blur) = plt.subplots(1, 3, figsize=(11, 3.2), sharey=True)
time.plot(t, schedule.noise_strength(sigma), color=BLUE, label="noise")
time.plot(t, schedule.blur_strength(scale, side), color=ORANGE, label="blur")
time.set(xlabel="time t", ylabel="label strength g", title="the paper's schedule")
time.legend()
powers = {0.25: "#9ECAE1", 0.5: "#6BAED6", 1: BLUE, 2: "#08519C", 8: "#08306B"}
for power, color in powers.items():
    style = {"color": color, "lw": 2.5 if power == 1 else 1.3, "label": f"power {power:g}"}
    noise.plot(sigma, schedule.noise_strength(sigma, power), **style)
    blur.semilogx(scale, schedule.blur_strength(scale, side, power), **style)
noise.set(xlabel="noise level σ", title="noise, several powers")
blur.set(xlabel="blur scale s in pixels (log)", title="blur, several powers")
blur.legend(fontsize=8)
plt.show()

# %% [markdown]
# So this is what the network is asked for: the image above, the bars below. (`label_mode` has three other forms:
# tempering `ld`, and the added "sink" class of `la` and `lm`; see `mollify_core/labels.py`.)

# %%
shown = times[::2]
widths = [1] * len(shown) + [0.3] + [1] * len(shown)
figure, panels = plt.subplots(2, len(widths), figsize=(13, 3), height_ratios=[1.3, 1], width_ratios=widths)
for panel in panels[:, len(shown)]:
    panel.axis("off")
one_hot = torch.nn.functional.one_hot(y[:1], classes).float()
paths = ("noise", noisy, schedule.noise_strength(levels)), ("blur", blurred, schedule.blur_strength(scales, side))
for start, (name, images, strengths) in zip((0, len(shown) + 1), paths, strict=True):
    for i, (image, strength) in enumerate(zip(images[::2], strengths[::2], strict=True)):
        picture, bars = panels[:, start + i]
        show(picture, image[0])
        picture.set_title(f"{name}, t = {shown[i]:.2g}\ng = {strength:.2f}", fontsize=9)
        target = labels.soften(one_hot, strength[None], "ls")[0]
        bars.bar(range(classes), target, color=[RED if c == y[0] else BLUE for c in range(classes)])
        bars.set(ylim=(0, 1), xticks=[], yticks=[0, 1])
        bars.tick_params(labelleft=start + i == 0)
panels[1, 0].set_ylabel("target")
plt.show()

# %% [markdown]
# ## How much, how often
#
# Each sample draws a role (clean, noise, blur: a third each, `p_clean` and `noise_share`), and its time
# $t\sim\mathrm{Beta}(a,b)$. The paper takes $a=1, b=2$, the falling line $p(t)=2(1-t)$: mostly light degradation. On
# the right, what that makes of the labels: the distribution of $g$ among degraded images.

# %%
figure, (density, strengths) = plt.subplots(1, 2, figsize=(9, 3))
for b, color in {2: BLUE, 4: GREEN, 9: ORANGE}.items():
    drawn = rng.beta_times(100_000, 1, b, rng.generator(0, "times", b))
    density.plot(t, b * (1 - t) ** (b - 1), color=color, label=f"Beta(1, {b}), mean {1 / (1 + b):.2f}")
    density.hist(drawn, bins=50, density=True, color=color, alpha=0.15)
density.set(xlabel="time t", ylabel="density", title="density of t (bars: drawn)", ylim=(0, 6))
density.legend()
drawn = rng.beta_times(100_000, 1, 2, rng.generator(0, "times", 2))
strength = {
    "noise": schedule.noise_strength(schedule.noise_level(drawn)),
    "blur": schedule.blur_strength(schedule.blur_scale(drawn, 0.3, side), side),
}
for (name, g), color in zip(strength.items(), (BLUE, ORANGE), strict=True):
    style = {"bins": 50, "range": (0, 1), "density": True, "histtype": "step", "lw": 1.8, "color": color}
    strengths.hist(g, label=f"{name}, mean {g.mean():.3f}", **style)
strengths.set(xlabel="label strength g", ylabel="density", title="label strength under Beta(1, 2)")
strengths.legend()
plt.show()

# %% [markdown]
# ## A training batch
#
# In training two calls do all of this. Roles come as contiguous segments of the batch (noise, blur, clean), which is
# right because the rows of a batch are in shuffled order already, and spares a gather.

# %%
order = torch.randperm(len(test), generator=rng.generator(0, "order"))[:24]
batch = normalise(test.images[order])
draw = schedule.draw(len(batch), side, Mollify(), rng.generator(11, "mollify"))
batch = degrade.mollify_(batch, draw, rng.generator(0, "noise"))
roles = ["noise"] * len(draw.noise) + ["blur"] * len(draw.blur)
roles += ["clean"] * (len(batch) - len(roles))
figure, panels = plt.subplots(2, 12, figsize=(13, 2.9))
for axes, image, role, g, label in zip(panels.flat, batch, roles, draw.strength, test.labels[order], strict=True):
    show(axes, image)
    kept = 1 - g + g / classes
    axes.set_title(f"{role}\n{names[label]}: {kept:.0%}", fontsize=8)

# %% [markdown]
# Above each image: what its own class is asked to get.
#
# ## Does it help? A short training
#
# `Recipe` holds everything that determines a model, `Training` trains it. Two recipes that differ in what is
# done to images and labels: plain training has the method "none" and hard labels. A small network, six epochs, one
# seed.

# %%
share = min(1.0, 1200 / prepared.manifest["counts"]["train"])  # of a larger set, about so many images are enough
base = Recipe().with_(dataset=spec.name, network="resnet20", augment=spec.augment, train_fraction=share)
base = base.with_(epochs=6, batch_size=32, lr=0.05, precision="float32")
recipes = {"plain": base.with_(method="none", label="hard"), "mollified": base}
classifiers, colors = {}, {"plain": ORANGE, "mollified": BLUE}
for name, recipe in recipes.items():
    training = Training(recipe, training_data(recipe, prepared))
    *_, last = training.run()
    found = f"validation error {last.metrics['clean_error']:.1%}"
    print(f"{name}: training loss {last.metrics['train_loss']:.3f}, {found}")
    classifiers[name] = Classifier.load(training.state(), classes, spec.image_shape, spec.mean, spec.std)

# %% [markdown]
# The mollified network has the larger training loss, and must: its task is harder, and its targets are soft.
#
# **First: does it know what it does not know?** We degrade the test images along the same paths, and compare what each
# network believes (its mean confidence) with how often it is right.

# %%
count = min(len(test), 400)
clean, truth = normalise(test.images[:count]), test.labels[:count]
eps = torch.randn(clean.shape, generator=rng.generator(1, "picture"))
paths = {
    "noise": [degrade.noise(clean, level.expand(count), eps) for level in levels],
    "blur": [degrade.heat_blur(clean, scale.expand(count)) for scale in scales],
}
strengths = {"noise": schedule.noise_strength(levels), "blur": schedule.blur_strength(scales, side)}
figure, panels = plt.subplots(1, 4, figsize=(13, 3.2), sharey=True)
for panel, (kind, name) in zip(panels, [(k, n) for k in paths for n in classifiers], strict=True):
    with torch.inference_mode():
        probabilities = [torch.softmax(classifiers[name].logits(image), 1) for image in paths[kind]]
    sure = [p.amax(1).mean() for p in probabilities]
    right = [(p.argmax(1) == truth).float().mean() for p in probabilities]
    panel.plot(times, right, color="black", marker="o", ms=4, label="accuracy")
    panel.plot(times, sure, color=colors[name], marker="s", ms=4, label="mean confidence")
    panel.fill_between(times, right, sure, color=colors[name], alpha=0.15)
    if name == "mollified":
        asked = 1 - strengths[kind] + strengths[kind] / classes
        panel.plot(times, asked, color="black", lw=1, ls="--", label="asked for")
    panel.axhline(1 / classes, color="grey", lw=1, ls=":")
    panel.set(title=f"{name}, under {kind}", xlabel="time t", ylim=(0, 1.02))
    panel.legend(loc="lower left", fontsize=8)
panels[0].yaxis.set_major_formatter(PercentFormatter(1))
plt.show()

# %% [markdown]
# Where nothing can be seen any more the plain network is still sure of itself, at chance level (dotted). The mollified
# one says so, and it also recognises digits under more noise and blur. In between it is *less* sure than it could be:
# it learned to answer with the confidence that its labels asked for (dashed), and these digits are still readable
# where the schedule has taken half of the label away. Larger powers $k_n$, $k_b$ would hold on to the label longer:
# what they should be depends on the data, and is the reason to search them.
#
# But these are the very degradations that it was trained on.
#
# **Second: under corruptions that neither has seen.** The benchmark's corruptions (Hendrycks & Dietterich, ICLR 2019)
# on the test images, severities 1, 3 and 5; `frost` is left out here, since it needs photographs. Error, negative
# log-likelihood (NLL), and calibration error (ECE, notebook 3).

# %%
images, truth = test.images[:count], test.labels[:count]
measured = {name: [] for name in classifiers}
for cell in cells([name for name in BENCHMARK if name != "frost"], levels=()):
    if cell.severity in (0, 1, 3, 5):  # 0: clean
        shown = corrupt(images, cell.name, cell.severity) if cell.kind == "corruption" else images
        for name, classifier in classifiers.items():
            log_probabilities, _ = measure(classifier, shown)
            measured[name].append(row(cell, log_probabilities, truth))
means = {name: summarise(found) for name, found in measured.items()}

scopes = {"clean": "clean", **{group: f"corrupted_{group}" for group in GROUPS}}
figure, panels = plt.subplots(1, 3, figsize=(12, 3.2))
for panel, metric in zip(panels, ("error", "nll", "ece"), strict=True):
    for offset, name in zip((-0.2, 0.2), classifiers, strict=True):
        heights = [means[name][f"{scope}_{metric}"] for scope in scopes.values()]
        bars = panel.bar(torch.arange(len(scopes)) + offset, heights, 0.38, color=colors[name], label=name)
        panel.bar_label(bars, [f"{h:.2f}" if metric == "nll" else f"{h:.0%}" for h in heights], fontsize=7)
    panel.set(title="ECE" if metric == "ece" else metric, xticks=range(len(scopes)))
    panel.set_xticklabels(scopes, fontsize=9)
    if metric == "nll":
        panel.set(title="NLL (log scale)", yscale="log")
    else:
        panel.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
panels[0].legend()
plt.show()

# %% [markdown]
# **What this can show, and what not.** With this seed and these digits the mollified network errs less under weather
# and digital corruptions, and its NLL there is several times smaller, because it is rarely sure of a wrong answer. On
# clean images, and where a corruption hardly hurts, it is *under*confident, and its NLL and ECE are the larger ones:
# smooth labels teach modesty everywhere, and six epochs are short for the harder task. Enlarged from 8 pixels a side,
# digits have no fine detail to lose, so that the benchmark's noise and blur, the method's home ground, leave next to
# nothing to win. One seed, a few hundred test images: differences of a per cent or two mean nothing here. Whether it
# helps on *your* data is a question for a sweep (notebook 2) and a proper evaluation (notebook 3).

# %%
print(" ".join(f"{name} {version}" for name, version in versions().items()), "commit", commit())
