"""Metrics against the authors' vectors and against independent implementations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, brier_score_loss, log_loss, top_k_accuracy_score

from mollify_core.measure.metrics import Metrics, per_image
from mollify_core.measure.validation import image_values, validation_means


def compute(logits, labels, bins=15):
    return Metrics(bins).update(per_image(torch.as_tensor(logits), torch.as_tensor(labels))).compute()


def test_golden(golden):
    got = compute(golden["m_ece_logits"], golden["m_ece_labels"])
    assert got["ece"] == pytest.approx(golden["m_ece_pooled"], abs=1e-5)
    assert got["error"] == pytest.approx(golden["m_err_pooled"], abs=1e-6)
    assert got["nll"] == pytest.approx(golden["m_nll_pooled"], abs=1e-5)
    got = compute(golden["i_logits"], golden["i_labels"])
    assert got["ece"] == pytest.approx(golden["i_ece_pooled15"], abs=1e-5)
    assert compute(golden["i_logits"], golden["i_labels"], 10)["ece"] == pytest.approx(
        golden["i_ece_pooled10"], abs=1e-5
    )
    assert 100 * (1 - got["error"]) == pytest.approx(golden["i_top1"], abs=1e-4)
    assert 100 * (1 - got["top5_error"]) == pytest.approx(golden["i_top5"], abs=1e-4)
    assert got["nll"] == pytest.approx(golden["i_ce"], abs=1e-5)


def test_against_scikit_learn():
    g = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(500, 12, generator=g)
    labels = torch.randint(12, (500,), generator=g)
    f = torch.softmax(logits.double(), 1).numpy()
    y, classes = labels.numpy(), np.arange(12)
    got = compute(logits, labels)
    assert got["nll"] == pytest.approx(log_loss(y, f, labels=classes), rel=1e-5)
    assert got["top5_error"] == pytest.approx(1 - top_k_accuracy_score(y, f, k=5, labels=classes))
    assert got["brier"] == pytest.approx(brier_score_loss(y, f, labels=classes, scale_by_half=False), rel=1e-5)


def test_batches_equal_the_whole_and_batch_ece_does_not(golden):
    logits, labels = torch.tensor(golden["m_ece_logits"]), torch.tensor(golden["m_ece_labels"])
    values = per_image(logits, labels)
    streamed = Metrics()
    for part in values.split(37):
        streamed.update(part)
    assert streamed.compute() == pytest.approx(Metrics().update(values).compute())
    batches = np.mean([Metrics().update(part).compute()["ece"] for part in values.split(100)])
    assert batches > Metrics().update(values).compute()["ece"] + 0.02  # the bias of the papers' estimator


def test_edges():
    sure = compute(torch.tensor([[100.0, 0.0], [0.0, 100.0]]), torch.tensor([0, 1]))
    assert (sure["error"], sure["ece"], sure["top5_error"]) == (0, 0, 0)
    with pytest.raises(ValueError, match="at least one image"):
        Metrics().compute()
    with pytest.raises(ValueError, match="-1"):
        Metrics(-1)


def test_balanced_error_is_scikit_learns_and_the_mean_of_its_values():
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * 150 + [1] * 40 + [4] * 10)  # classes 2 and 3 have no image
    logits = torch.randn(3, 200, 6, generator=generator)
    logits[:, torch.arange(200), labels] += torch.tensor([3.0, 1.0, 0.0])[:, None]
    values = torch.stack([per_image(cell, labels) for cell in logits])
    means, images = validation_means(values, labels), image_values(values, labels)
    of_cells = [1 - balanced_accuracy_score(labels, cell.argmax(1)) for cell in logits.double()]
    assert means["clean_balanced_error"] == pytest.approx(of_cells[0])
    assert means["corrupted_balanced_error"] == pytest.approx(np.mean(of_cells[1:]))
    assert means["clean_balanced_error"] != pytest.approx(means["clean_error"], abs=0.001)
    for name in ("clean_balanced_error", "corrupted_balanced_error"):
        assert images[name].mean() == pytest.approx(means[name], rel=1e-5)


def test_balanced_error_of_equal_classes_is_the_error():
    values = torch.rand(3, 60, 5).round()
    means = validation_means(values, torch.arange(60) % 6)
    assert means["clean_balanced_error"] == pytest.approx(means["clean_error"])
    assert means["corrupted_balanced_error"] == pytest.approx(means["corrupted_error"])
