"""Losses of occupancy logits against their definitions."""

from __future__ import annotations

import math

import pytest
import torch

from occlift.classes import FREE, NUM_CLASSES, UNKNOWN
from occlift.errors import ConfigError
from occlift.losses.occupancy import (
    OccupancyLossConfig,
    class_weights,
    cross_entropy,
    known_voxels,
    lovasz_softmax,
    occupancy_loss,
)


def jaccard_loss(foreground: list[bool], mispredicted: set[int]) -> float:
    """1 − |∩| / |∪| of a class when exactly the voxels in `mispredicted` are wrong."""
    truth = {i for i, f in enumerate(foreground) if f}
    union = truth | mispredicted
    return 1 - len(truth - mispredicted) / len(union) if union else 0.0


def slow_lovasz(probabilities: torch.Tensor, labels: torch.Tensor) -> float:
    """The definition: errors in descending order, each times what its voxel adds to the Jaccard loss of a set."""
    losses = []
    for c in sorted(set(labels.tolist())):
        foreground = [label == c for label in labels.tolist()]
        errors = [abs(float(f) - p) for f, p in zip(foreground, probabilities[:, c].tolist(), strict=True)]
        mispredicted: set[int] = set()
        loss = before = 0.0
        for i in sorted(range(len(errors)), key=lambda i: -errors[i]):
            mispredicted.add(i)
            after = jaccard_loss(foreground, mispredicted)
            loss += errors[i] * (after - before)
            before = after
        losses.append(loss)
    return sum(losses) / len(losses)


def test_lovasz_follows_the_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(60, NUM_CLASSES, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 5, (60,), generator=generator)
    assert float(lovasz_softmax(logits, labels)) == pytest.approx(slow_lovasz(logits.softmax(-1), labels), abs=1e-12)


def test_lovasz_of_hard_predictions_is_the_jaccard_loss() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    predicted = torch.tensor([0, 0, 1, 1, 1, 1])
    logits = 1e4 * torch.nn.functional.one_hot(predicted, NUM_CLASSES).double()
    expected = ((1 - 2 / 3) + (1 - 2 / 4) + 1) / 3
    assert float(lovasz_softmax(logits, labels)) == pytest.approx(expected)


def test_lovasz_gradient_is_that_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(12, NUM_CLASSES, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 4, (12,), generator=generator)
    assert torch.autograd.gradcheck(lambda x: lovasz_softmax(x, labels), (logits,))


def test_no_voxels_give_zero_with_a_gradient() -> None:
    logits = torch.zeros(0, NUM_CLASSES, requires_grad=True)
    labels = torch.zeros(0, dtype=torch.long)
    for loss in (lovasz_softmax(logits, labels), cross_entropy(logits, labels, torch.ones(NUM_CLASSES))):
        assert float(loss.detach()) == 0
        loss.backward()


def test_class_weights() -> None:
    counts = torch.zeros(NUM_CLASSES, dtype=torch.long)
    counts[3], counts[FREE] = 100, 10_000
    for weighting, ratio in (("none", 1), ("inverse_sqrt", 10), ("inverse_log", math.log(10_000) / math.log(100))):
        weights = class_weights(counts, weighting)  # type: ignore[arg-type]
        assert float(weights[3] / weights[FREE]) == pytest.approx(ratio)
        assert float(weights[[3, FREE]].mean()) == pytest.approx(1)
        assert int((weights > 0).sum()) == 2
    with pytest.raises(ConfigError, match="inverse"):
        class_weights(counts, "inverse")  # type: ignore[arg-type]


def test_cross_entropy_is_a_weighted_mean() -> None:
    logits = torch.randn(5, NUM_CLASSES, generator=torch.Generator().manual_seed(2))
    labels = torch.tensor([0, 1, 1, 3, 17])
    weights = torch.arange(1.0, NUM_CLASSES + 1)
    terms = -logits.log_softmax(-1)[torch.arange(5), labels]
    expected = (terms * weights[labels]).sum() / weights[labels].sum()
    assert float(cross_entropy(logits, labels, weights)) == pytest.approx(float(expected), rel=1e-6)
    assert float(cross_entropy(logits, labels)) == pytest.approx(float(terms.mean()), rel=1e-6)


def test_unknown_voxels_do_not_matter() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(1, NUM_CLASSES, 4, 4, 2, generator=generator)
    labels = torch.randint(0, NUM_CLASSES, (1, 4, 4, 2), generator=generator).to(torch.uint8)
    labels[0, 1:] = UNKNOWN
    changed = logits.clone()
    changed[:, :, 1:] += 5
    config = OccupancyLossConfig()
    terms, same = (occupancy_loss(x, labels, weights=torch.ones(NUM_CLASSES), config=config) for x in (logits, changed))
    assert set(terms) == {"cross_entropy", "lovasz"}
    for name in terms:
        assert float(terms[name]) == float(same[name])
    gone = occupancy_loss(logits, torch.full_like(labels, UNKNOWN), weights=torch.ones(NUM_CLASSES), config=config)
    assert all(float(term) == 0 for term in gone.values())


def test_limits_draw_known_voxels_reproducibly() -> None:
    labels = torch.full((2, 10, 10, 5), UNKNOWN, dtype=torch.uint8)
    labels[:, :5] = FREE
    one, two, three = (
        known_voxels(labels, limit=50, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert len(one) == len(one.unique()) == 50
    assert (labels.flatten()[one] == FREE).all()
    assert torch.equal(one, two)
    assert not torch.equal(one, three)
    assert len(known_voxels(labels, limit=10_000)) == 500


def test_gradient_of_the_whole_loss_reaches_known_voxels_only() -> None:
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(1, NUM_CLASSES, 4, 4, 4, generator=generator, requires_grad=True)
    labels = torch.randint(0, NUM_CLASSES, (1, 4, 4, 4), generator=generator).to(torch.uint8)
    labels[0, 2:] = UNKNOWN
    terms = occupancy_loss(
        logits,
        labels,
        weights=torch.ones(NUM_CLASSES),
        config=OccupancyLossConfig(max_lovasz_voxels=16),
        generator=generator,
    )
    sum(terms.values()).backward()  # type: ignore[union-attr]
    assert logits.grad is not None
    assert (logits.grad[:, :, 2:] == 0).all()
    assert (logits.grad[:, :, :2].abs().sum(1) > 0).all()


def test_bad_limits_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least one voxel"):
        OccupancyLossConfig(max_lovasz_voxels=0)
