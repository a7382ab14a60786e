"""PyTorch Lightning with a schedule that a sweep has found: `lightning_module.py [best_recipe.json]`.

Real handwritten digits, which scikit-learn brings along; without a recipe, the paper's schedule. Needs
`pip install pytorch-lightning`.
"""

import sys

import pytorch_lightning as pl
import timm
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from mollify_core.datasets import DATASETS, prepare
from mollify_core.normalise import Normalise
from mollify_core.transforms import Mollify


class Mollified(pl.LightningModule):
    """A network of timm's, trained on mollified images and soft labels."""

    def __init__(self, mollify: Mollify, normalise: Normalise) -> None:
        super().__init__()
        self.network = timm.create_model("test_resnet", num_classes=mollify.num_classes)
        self.mollify, self.normalise, self.criterion = mollify, normalise, nn.CrossEntropyLoss()

    def training_step(self, batch, index):
        x, soft = self.mollify(*batch)  # the one line that is new: uint8 images and labels in, on any device
        loss = self.criterion(self.network(x), soft)
        self.log("loss", loss, prog_bar=True)
        return loss

    def test_step(self, batch, index):
        images, labels = batch
        guess = self.network(self.normalise.to(self.device)(images)).argmax(dim=1)
        self.log("error", (guess != labels).float().mean())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.network.parameters(), 3e-3)


def main(recipe: str | None = None, epochs: int = 3) -> float:
    """Trains, and returns the error on the test set."""
    pl.seed_everything(0)
    digits, spec = prepare("digits"), DATASETS["digits"]
    train, test = (TensorDataset(part.images, part.labels) for part in map(digits.tensors, ("train", "test")))
    constants = {"mean": spec.mean, "std": spec.std}
    mollify = Mollify.from_recipe(recipe) if recipe else Mollify(spec.classes, **constants)
    model = Mollified(mollify, Normalise.make("normal", **constants, device="cpu"))
    trainer = pl.Trainer(max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.fit(model, DataLoader(train, batch_size=64, shuffle=True))
    return trainer.test(model, DataLoader(test, batch_size=500))[0]["error"]


if __name__ == "__main__":
    main(*sys.argv[1:])
