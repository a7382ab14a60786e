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
# # 2. A sweep and its report
#
# Which schedule suits these data? A **sweep** trains many recipes and compares them on held-out images: Optuna
# proposes, Ray Tune runs the trials, weak ones are stopped early, and everything is kept on storage. This notebook
# runs a small but real one on scikit-learn's digits, reads its report, continues it, and trains the best recipe alone.
#
# All of it is done by commands. They are run here as in a terminal:

# %%
import os
import shlex
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Image, Markdown, display

import mollify_core
from mollify_core.provenance import commit, versions

ROOT = Path(mollify_core.__file__).resolve().parents[1]
SWEEP = Path("runs/notebook")


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
# Without a space file a sweep searches ten settings in built-in ranges. A handful of trials cannot cover ten
# dimensions, so this one searches four, and narrows the learning rate; what the file does not name keeps its default.
# In the terms of notebook 1: `max_noise` is the noise level at $t=1$, `max_blur` the blur in pixels there, `smoothing`
# a factor on every label strength, `lr` the learning rate.

# %%
space = """\
max_noise: search                # in its built-in range
max_blur: {low: 2}               # pixels, up to the built-in end, the image side
smoothing: search
lr: {low: 0.02, high: 0.1}
"""
Path("runs").mkdir(exist_ok=True)
_ = Path("runs/space.yaml").write_text(space)

# %% [markdown]
# ## The plan
#
# `--dry-run` shows what would happen: how many images, trials, epochs, how many trials at once and why, how long, and
# where it all goes. The objective is the **NLL under held-out corruptions**: validation images are held out of the
# training set, and the four corruptions used here are not among the benchmark's fifteen. The test set is never read by
# a sweep.

# %%
search = shlex.split(
    "sweeps/search.py --dataset digits --epochs 4 --space runs/space.yaml --storage runs --name notebook"
)
run(*search, "--trials", "6", "--dry-run")

# %% [markdown]
# ## The sweep
#
# In a terminal this is a live table; here, a line whenever a trial ends. Trial 0 is always the paper's schedule and
# trial 1 plain training, so that every sweep says whether it was worth it. (Run before, the sweep is complete, and the
# command only shows the report again.)

# %%
run(*search, "--trials", "6")

# %% [markdown]
# ## More trials: the same command
#
# The same command continues a sweep, whether it was finished, stopped by Ctrl-C, or killed; here it grows from 6
# trials to 8. Nothing is trained twice: the study, an Optuna study on disk, knows every trial.

# %%
run(*search, "--trials", "8")

# %% [markdown]
# ## What is on storage
#
# `sweep.json` and the study say what the sweep is; each trial has its recipe, metrics and checkpoints; the report is
# made of the study alone.

# %%
for path in sorted([*SWEEP.iterdir(), *(SWEEP / "report").iterdir(), *(SWEEP / "trials/00000").iterdir()]):
    print(path, "/" if path.is_dir() else f"  {path.stat().st_size / 1024:,.0f} kB")

# %% [markdown]
# ## The table of trials
#
# `trials.parquet` has one row a trial: state, searched parameters, the whole recipe, final metrics, checkpoint. Pruned
# trials have no final metrics.

# %%
trials = pd.read_parquet(SWEEP / "report/trials.parquet").set_index("number")
params = [name for name in trials if name.startswith("param_")]
metrics = ["corrupted_nll", "corrupted_error", "clean_error"]
shown = trials.sort_values("corrupted_nll")[["state", "reference", "epochs_done", *params, *metrics]]
shown.rename(columns=lambda name: name.removeprefix("param_")).style.format(precision=3, na_rep="–")

# %%
done = trials[trials.state == "COMPLETE"]
figure, axes = plt.subplots(figsize=(6, 4), constrained_layout=True)
points = axes.scatter(100 * done.clean_error, 100 * done.corrupted_error, c=done.corrupted_nll, s=70, cmap="viridis")
for number, trial in done.iterrows():
    text = f"{number} {trial.reference}" if isinstance(trial.reference, str) else f"{number}"
    axes.annotate(text, (100 * trial.clean_error, 100 * trial.corrupted_error), (6, 4), textcoords="offset points")
figure.colorbar(points, label="corrupted NLL (the objective; darker is better)")
axes.set(xlabel="clean validation error (%)", ylabel="corrupted validation error (%)", title="completed trials")
axes.grid(color="#E6E6E6")
axes.set_axisbelow(True)
plt.show()

# %% [markdown]
# ## The report
#
# `summary.md` answers "was it worth it?" in words and tables, with what the numbers cannot say. This is the file
# itself:

# %%
summary = (SWEEP / "report/summary.md").read_text()
display(Markdown(summary.replace("\n#", "\n##").replace("# Sweep", "### Sweep", 1)))

# %% [markdown]
# And its pictures: how the search went, learning curves, and each parameter by itself.

# %%
for name in ("history", "curves", "slices"):
    display(Image(SWEEP / f"report/plots/{name}.png", width=850))

# %% [markdown]
# ## The best recipe, alone
#
# `best_recipe.json` determines a model completely. `mollify_core.train` trains it in plain PyTorch, without Ray, and
# says how far its numbers are from the trial's: on one machine and one thread they are equal.

# %%
run("-m", "mollify_core.train", f"{SWEEP}/report/best_recipe.json", "--out", "runs/best")

# %% [markdown]
# ## What this can show, and what not
#
# That everything works, and how to read it; not which schedule is best. Plain training tends to win this sweep, and
# the report says so: the held-out corruptions hardly hurt digits, so that there is nothing to gain under them, and
# four epochs see only the beginning of a training, where the harder task looks bad. 287 validation images put a
# standard error of about a per cent on an error of a few per cent; the winner of several trials looks better than it
# is; and an objective answers only its own question: notebook 3 measures the same networks under the benchmark's
# fifteen corruptions.
#
# A sweep to draw conclusions from has a few dozen trials of a training's real length, and its best recipe is trained
# again with other seeds and judged on the test set.
#
# From here: `python sweeps/search.py --dataset cifar100`, and `python sweeps/search.py --help`.

# %%
print(" ".join(f"{name} {version}" for name, version in versions().items()), "commit", commit())
