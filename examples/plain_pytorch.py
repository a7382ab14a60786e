"""A training loop of one's own, with a schedule that a sweep has found: `plain_pytorch.py [best_recipe.json]`.

Real handwritten digits, which scikit-learn brings along, and any network; without a recipe, the paper's schedule.
"""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from mollify_core.datasets import DATASETS, prepare
from mollify_core.normalise import Normalise
from mollify_core.transforms import Mollify


def main(recipe: str | None = None, epochs: int = 3) -> float:
    """Trains, and returns the error on the test set."""
    torch.manual_seed(0)
    digits, spec = prepare("digits"), DATASETS["digits"]
    train, test = digits.tensors("train"), digits.tensors("test")
    if recipe:
        mollify = Mollify.from_recipe(recipe)
    else:
        mollify = Mollify(spec.classes, mean=spec.mean, std=spec.std)
    network = nn.Sequential(
        *(
            nn.Conv2d(3, 32, 3, 2),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, 2),
            nn.BatchNorm2d(64),
            nn.ReLU(),
        ),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, spec.classes)),
    )
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    criterion = nn.CrossEntropyLoss()
    loader = DataLoader(TensorDataset(train.images, train.labels), batch_size=64, shuffle=True)
    for epoch in range(epochs):
        for images, labels in loader:
            x, soft = mollify(images, labels)  # the one line that is new
            loss = criterion(network(x), soft)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}")
    network.eval()
    with torch.inference_mode():
        shown = Normalise.make("normal", spec.mean, spec.std, "cpu")(test.images)
        error = (network(shown).argmax(dim=1) != test.labels).float().mean().item()
    print(f"test error {error:.1%}")
    return error


if __name__ == "__main__":
    main(*sys.argv[1:])
