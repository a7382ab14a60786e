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
# # 2. A sweep, its report, and its confirmation
#
# Does mollification make this classifier better, and with which schedule? A **sweep** trains many recipes, with the
# method and without, and compares them on held-out images: Optuna proposes, Ray Tune runs the trials, weak ones are
# stopped early, and everything is kept on storage. What it finds is a suggestion; a **confirmation** with further
# seeds tells what the method itself does. This notebook runs both, small but real, on scikit-learn's digits.
#
# All of it is done by commands. They are run here as in a terminal:

# %%
import os
import shlex
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import optuna
from IPython.display import Image, Markdown, display

import mollify_core
import mollify_sweeps
from mollify_core.provenance import commit, versions

ROOT = Path(mollify_core.__file__).resolve().parents[1]
SWEEP = Path("runs/digits")


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
# ## What is searched
#
# `--methods plain,mollification`, the default, holds mollification against plain training. Each is searched alike, by
# a sampler of its own that sees only its own trials: a tuned method against a plain training that nobody tuned would
# prove nothing. A method's own settings are searched in its trials alone, all others, **shared** by the methods, in
# everyone's.
#
# Built in, ten settings are searched. A handful of trials cannot cover so many dimensions, so this space file names
# four; the others keep their defaults. In the terms of notebook 1: `max_noise` is the noise level at $t=1$,
# `max_blur` the blur in pixels there, `smoothing` a factor on every label strength. These are mollification's own;
# the learning rate `lr` is shared.

# %%
space = """\
max_noise: search                # in its built-in range
max_blur: {low: 2}               # pixels, up to the built-in end, the image side
smoothing: search
lr: {low: 0.03, high: 0.2}
"""
Path("runs").mkdir(exist_ok=True)
_ = Path("runs/space.yaml").write_text(space)

# %% [markdown]
# ## The plan, and the sweep
#
# The command first prints its plan (with `--dry-run` it ends there): what is searched in which method, how many trials
# at once and why, how long, and where it all goes. The objective is the **NLL under held-out corruptions**, four that
# are not among the benchmark's fifteen. Validation images are held out of the training set. Half of them **choose**:
# they give a trial its value, stop weak trials and decide which is best. The other half only **judges** what was
# chosen. (With so few images the plan warns of what they can tell.) The test set is never read by a sweep.
#
# The methods take turns. The first trial of each has default settings, for mollification the paper's schedule: an
# anchor for the eye, not what the methods are compared by. The default pruner is successive halving: after a quarter
# and after half of the epochs only the better half of a method's trials goes on. In a terminal this is a live table;
# here, a line whenever a trial ends. (Run before, the sweep is complete, and the command only shows the report
# again.)

# %%
search = shlex.split(
    "sweeps/search.py --dataset digits --train-fraction 1 --batch-size 16 --epochs 4 --methods plain,mollification "
    "--space runs/space.yaml --storage runs --name digits --wandb off"
)
run(*search, "--trials", "6")

# %% [markdown]
# ## More trials: the same command
#
# The same command continues a sweep, whether it was finished, stopped by Ctrl-C, or killed; here it grows from 6
# trials to 8. Nothing is trained twice: the study on disk knows every trial.

# %%
run(*search, "--trials", "8")

# %% [markdown]
# ## What is on storage
#
# `sweep.json` and the study say what the sweep is; each trial has its recipe, metrics and checkpoints; the report is
# made of the study, and of the trials' values per image.

# %%
for path in sorted([*SWEEP.iterdir(), *(SWEEP / "report").iterdir(), *(SWEEP / "trials/00000").iterdir()]):
    print(path, "/" if path.is_dir() else f"  {path.stat().st_size / 1024:,.0f} kB")

# %% [markdown]
# `study.sqlite` holds an Optuna study of each method. Trials are numbered through all of them.

# %%
for name in optuna.get_all_study_names(f"sqlite:///{SWEEP / 'study.sqlite'}"):
    print(name)

# %% [markdown]
# ## The same from Python
#
# `mollify_sweeps.search(options)` does what the command does, prints nothing, and returns the sweep; for one that is
# complete it has nothing to train. `open_sweep` only looks, also while a sweep runs.

# %%
recipe = mollify_sweeps.RecipeOptions(epochs=4, batch_size=16, train_fraction=1)
sweep = mollify_sweeps.search(
    mollify_sweeps.Search(
        "digits",
        recipe,
        methods=("plain", "mollification"),
        trials=8,
        space="runs/space.yaml",
        name="digits",
        running=mollify_sweeps.Running(following=mollify_sweeps.Following(wandb="off")),
    )
)
print(sweep.answer)

# %% [markdown]
# ## The table of trials
#
# `sweep.trials`, on storage `trials.parquet`, has one row a trial: method, state, searched parameters, the whole
# recipe, final metrics, checkpoint. Pruned trials have no final metrics. What a method has no use for is empty.

# %%
trials = sweep.trials.set_index("number")
params = [name for name in trials if name.startswith("param_")]
metrics = ["corrupted_nll", "corrupted_error", "clean_error"]
shown = trials.sort_values("corrupted_nll")[["method", "state", "epochs_done", *params, *metrics]]
shown.rename(columns=lambda name: name.removeprefix("param_")).style.format(precision=3, na_rep="–")

# %% [markdown]
# Does the method make the difference, or the learning rate? Best against best changes both at once:

# %%
done = trials[trials.state == "COMPLETE"]
figure, axes = plt.subplots(figsize=(6, 4), constrained_layout=True)
for (method, group), color in zip(done.groupby("method"), ("#E69F00", "#0072B2"), strict=True):
    axes.scatter(group.recipe_lr, group.corrupted_nll, s=70, color=color, label=method)
for number, trial in done.iterrows():
    text = f"{number} default" if isinstance(trial.reference, str) else f"{number}"
    axes.annotate(text, (trial.recipe_lr, trial.corrupted_nll), (6, 4), textcoords="offset points")
axes.set(xlabel="learning rate", ylabel="corrupted NLL (the objective)", title="completed trials", ylim=(0, None))
axes.grid(color="#E6E6E6")
axes.set_axisbelow(True)
axes.legend()
plt.show()

# %% [markdown]
# ## The report
#
# `summary.md` says in words and tables what the search suggests, and what its numbers cannot say: `best` is the best
# recipe with mollification, `plain` the best one without, `paper` the first trial with mollification. The paired
# interval is of the judging images. This is the file itself; `report.html` beside it is a page that says more:

# %%
summary = (SWEEP / "report/summary.md").read_text()
display(Markdown(summary.replace("\n#", "\n##").replace("# Sweep", "### Sweep", 1)))

# %% [markdown]
# And its pictures: how the search went, learning curves, and each parameter by itself.

# %%
for name in ("history", "curves", "slices"):
    display(Image(SWEEP / f"report/plots/{name}.png", width=850))

# %% [markdown]
# ## Is it the method?
#
# Best against best does not tell. One search may have met with the better learning rate, and each recipe is one
# training. `--confirm` **crosses** them: with the best plain recipe's other settings $a$ and those of the best
# mollified one, $b$, it trains
#
# | | at $a$ | at $b$ |
# |---|---|---|
# | plain | the best plain recipe | the best mollified recipe, without the method |
# | mollified | the best plain recipe, with the method | the best mollified recipe |
#
# each with `--seeds` further seeds. (Where $a$ and $b$ are equal, two recipes are enough.) Down a column only the
# method changes: the mean of both columns is what **the method itself** does. Along a row only the other settings
# change. Both together are best against best. It is the same command once more; the search is complete, and the
# confirmation is a sweep of its own beside it:

# %%
run(*search, "--trials", "8", "--confirm", "--seeds", "2")

# %%
confirmation = (SWEEP / "report/confirmation.md").read_text()
display(Markdown(confirmation.replace("\n#", "\n##").replace("# Confirmation", "### Confirmation", 1)))

# %% [markdown]
# The answer is one of five: *better*; *worse*; *no difference that matters* (the interval lies within 1 % of the
# plain value; `--matters`); *cannot be told*, with what would be likely to tell where that is known; *depends on the
# other settings* (better at $a$ and worse at $b$, or the reverse).
#
# **Two seeds tell very little.** They are the fewest that give an interval at all: two recipes then leave it one
# degree of freedom, four recipes three, and Student's interval reaches up to 12.7 and 3.2 standard errors to either
# side. So only large effects can be told, *cannot be told* does not mean that there is none, and even a *better* or
# *worse* is that of two trainings of each recipe. The default is five seeds; small effects take more.
#
# With `--parts` it also trains degraded images with hard labels, clean images with soft labels, and both with every
# label softened by the same mean amount: so it says whether the **coupling** of image and label matters.
#
# ## The best recipe, alone
#
# `best_recipe.json` is the best of all trials, `best_recipe_plain.json` and `best_recipe_mollification.json` the best
# of each method. Each determines a model completely. `mollify_core.train` trains it in plain PyTorch, without Ray,
# and says how far its numbers are from the trial's: on one machine and one thread they are equal.

# %%
run("-m", "mollify_core.train", f"{SWEEP}/report/best_recipe.json", "--out", "runs/best")

# %% [markdown]
# ## What this can show, and what not
#
# That everything works, and how to read it; not whether mollification helps. Four epochs see only the beginning of a
# training, where the harder task looks bad. The held-out corruptions hardly hurt digits: compare clean and corrupted
# error in the table; where nothing is lost, there is nothing to gain. Some 290 images judge. And an objective answers
# only its own question: notebook 3 measures the same networks under the benchmark's fifteen corruptions.
#
# A sweep to draw conclusions from has a few dozen trials of a training's real length, a confirmation with five seeds
# or more, and a last look at the test set.
#
# From here: `python sweeps/search.py --dataset cifar100 --confirm`, and `python sweeps/search.py --help`.

# %%
print(" ".join(f"{name} {version}" for name, version in versions().items()), "commit", commit())
