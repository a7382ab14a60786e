"""timm's training loop with information matching in the place of its `mixup_fn`: `timm_training.py [best_recipe.json]`.

Real handwritten digits, which scikit-learn brings along; the recipe is one of the method `matching`, without it the
paper's settings. Needs the extra `timm`.
"""

import sys

import timm
import torch
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch.utils.data import DataLoader, TensorDataset

from mollify_core.datasets import DATASETS, prepare
from mollify_core.normalise import Normalise
from mollify_core.transforms import Match


def main(recipe: str | None = None, epochs: int = 3) -> float:
    """Trains, and returns the error on the test set."""
    torch.manual_seed(0)
    digits, spec = prepare("digits"), DATASETS["digits"]
    train, test = digits.tensors("train"), digits.tensors("test")
    loader = DataLoader(TensorDataset(train.images, train.labels), batch_size=64, shuffle=True)
    mixup_fn = Match.from_recipe(recipe) if recipe else Match(spec.classes, mean=spec.mean, std=spec.std)
    model = timm.create_model("test_resnet", num_classes=spec.classes)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-2, weight_decay=0.05)
    scheduler, criterion = CosineLRScheduler(optimizer, t_initial=epochs), SoftTargetCrossEntropy()
    for epoch in range(epochs):
        model.train()
        for images, target in loader:
            x, target = mixup_fn(images, target)  # as timm's own scripts call it
            loss = criterion(model(x), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scheduler.step(epoch + 1)
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}")
    model.eval()
    with torch.inference_mode():
        shown = Normalise.make("normal", spec.mean, spec.std, "cpu")(test.images)
        error = (model(shown).argmax(dim=1) != test.labels).float().mean().item()
    print(f"test error {error:.1%}")
    return error


if __name__ == "__main__":
    main(*sys.argv[1:])
