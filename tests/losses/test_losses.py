"""Losses of occupancy logits against their definitions."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import permutations

import pytest
import torch

from occlift.errors import ConfigError, DataError
from occlift.label_space import FREE, NUM_CLASSES, UNKNOWN
from occlift.losses.lovasz import lovasz_geometric, lovasz_occupied, lovasz_softmax
from occlift.losses.occupancy import (
    LovaszForm,
    OccupancyLossConfig,
    class_weights,
    cross_entropy,
    known_voxels,
    occupancy_loss,
)
from occlift.losses.scal import geo_scal, sem_scal

LOVASZ_FORMS: tuple[LovaszForm, ...] = ("classes", "geometric", "both", "split")
EVERYTHING = OccupancyLossConfig(focal_gamma=2.0, lovasz_form="split", geo_scal=0.5, sem_scal=0.25)


def random_case(n: int, *, seed: int, classes: tuple[int, ...] = (0, 3, 11, FREE)) -> tuple[torch.Tensor, torch.Tensor]:
    """float64 logits that ask for a gradient, and labels of a few classes, all of which occur."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, NUM_CLASSES, generator=generator, dtype=torch.float64)
    labels = torch.tensor([classes[i % len(classes)] for i in range(n)])
    return logits.requires_grad_(), labels


def slow_softmax(row: list[float]) -> list[float]:
    exponentials = [math.exp(value) for value in row]
    return [value / sum(exponentials) for value in exponentials]


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


@pytest.mark.usefixtures("without_shape_checks")
def test_labels_of_another_grid_or_class_list_are_refused() -> None:
    logits, labels = torch.zeros(1, 3, 4, 4, 2), torch.zeros(1, 4, 4, 2, dtype=torch.uint8)
    for wrong, classes in ((labels[:, :3], 3), (labels, 4), (labels.repeat(2, 1, 1, 1), 3)):
        with pytest.raises(
            DataError, match=r"logits of shape \[1, 3, 4, 4, 2\] .* are the labels of another grid or class"
        ):
            occupancy_loss(logits, wrong, weights=torch.ones(classes), config=OccupancyLossConfig())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_lovasz_voxels": 0}, "at least one voxel"),
        ({"geo_scal": -1.0}, "finite and not negative"),
        ({"lovasz": math.nan}, "finite and not negative"),
        ({"sem_scal": math.inf}, "finite and not negative"),
        ({"cross_entropy": 0.0, "lovasz": 0.0}, "one must be positive"),
        ({"focal_gamma": -0.5}, "focal_gamma is -0.5"),
        ({"focal_gamma": math.nan}, "focal_gamma is nan"),
        ({"lovasz_form": "softmax"}, "classes, geometric, both, split"),
        ({"unknown": "Free"}, "ignore, free"),
        ({"class_weighting": "inverse"}, "inverse_sqrt, inverse_log"),
    ],
)
def test_wrong_configurations_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        OccupancyLossConfig(**wrong)  # type: ignore[arg-type]


def test_defaults_draw_in_one_order_and_add_up_as_before() -> None:
    """Results that were written down with a seed depend on it: first the voxels, then those of the Lovász term."""
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(2, NUM_CLASSES, 6, 5, 4, generator=generator)
    labels = torch.randint(0, NUM_CLASSES, (2, 6, 5, 4), generator=generator).to(torch.uint8)
    labels[0, :2] = UNKNOWN
    weights = torch.rand(NUM_CLASSES, generator=generator)
    config = OccupancyLossConfig(max_voxels=100, max_lovasz_voxels=40)
    terms = occupancy_loss(logits, labels, weights=weights, config=config, generator=torch.Generator().manual_seed(9))
    draws = torch.Generator().manual_seed(9)
    known = (labels.flatten() != UNKNOWN).nonzero()[:, 0]
    chosen = known[torch.randperm(len(known), generator=draws)[:100].sort().values]
    rows, target = logits.movedim(1, -1).reshape(-1, NUM_CLASSES)[chosen], labels.flatten()[chosen].long()
    torch.testing.assert_close(
        terms["cross_entropy"], torch.nn.functional.cross_entropy(rows, target, weights), rtol=1e-6, atol=0
    )
    some = torch.randperm(100, generator=draws)[:40]
    slow = slow_lovasz(rows[some].double().softmax(-1), target[some])
    assert float(terms["lovasz"]) == pytest.approx(slow, rel=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_focal_loss_and_confidence_follow_the_formula(gamma: float, weighted: bool) -> None:
    logits, labels = random_case(9, seed=6)
    weights = [1.0 + c for c in range(NUM_CLASSES)]
    confidence = [0.0, 0.25, 1.0, 0.5, 0.0, 1.0, 0.75, 0.1, 1.0]
    total = mass = 0.0
    for row, label, sure in zip(logits.tolist(), labels.tolist(), confidence, strict=True):
        p = slow_softmax(row)[label]
        weight = (weights[label] if weighted else 1.0) * sure
        total += weight * (1 - p) ** gamma * -math.log(p)
        mass += weight
    loss = cross_entropy(
        logits,
        labels,
        torch.tensor(weights, dtype=torch.float64) if weighted else None,
        confidence=torch.tensor(confidence, dtype=torch.float64),
        focal_gamma=gamma,
    )
    assert float(loss.detach()) == pytest.approx(total / mass, rel=1e-12)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_loss_has_the_gradient_of_finite_differences(gamma: float) -> None:
    logits, labels = random_case(6, seed=7)
    confidence = torch.linspace(0, 1, 6).double()
    weights = torch.linspace(0.5, 2, NUM_CLASSES).double()
    assert torch.autograd.gradcheck(
        lambda x: cross_entropy(x, labels, weights, confidence=confidence, focal_gamma=gamma), (logits,)
    )


def brute_lovasz(errors: list[float], foreground: list[bool]) -> float:
    """The Lovász extension of a submodular function is the largest of all orders' sums (Edmonds' greedy theorem)."""
    best = -math.inf
    for order in permutations(range(len(errors))):
        taken: set[int] = set()
        value = before = 0.0
        for i in order:
            taken.add(i)
            after = jaccard_loss(foreground, taken)
            value += errors[i] * (after - before)
            before = after
        best = max(best, value)
    return best


def test_lovasz_is_the_largest_sum_over_all_orders() -> None:
    for seed in range(5):
        logits, labels = random_case(6, seed=seed)
        losses = []
        for c in set(labels.tolist()):
            foreground = [label == c for label in labels.tolist()]
            p = [slow_softmax(row)[c] for row in logits.tolist()]
            losses.append(brute_lovasz([abs(f - q) for f, q in zip(foreground, p, strict=True)], foreground))
        assert float(lovasz_softmax(logits, labels).detach()) == pytest.approx(sum(losses) / len(losses), rel=1e-12)


def test_geometric_lovasz_asks_for_occupied_or_free() -> None:
    logits, labels = random_case(40, seed=8)
    p_free = torch.tensor([slow_softmax(row)[FREE] for row in logits.tolist()], dtype=torch.float64)
    two = torch.stack((1 - p_free, p_free), 1)
    slow = slow_lovasz(two, (labels == FREE).long())
    assert float(lovasz_geometric(logits, labels).detach()) == pytest.approx(slow, rel=1e-12)
    # Which of the 17 classes it is does not matter.
    other = labels.where(labels == FREE, 5)
    assert float(lovasz_geometric(logits, other).detach()) == pytest.approx(slow, rel=1e-12)


def test_lovasz_of_the_occupied_asks_for_the_class_of_occupied_voxels_only() -> None:
    logits, labels = random_case(40, seed=9)
    occupied = [i for i, label in enumerate(labels.tolist()) if label != FREE]
    renormalised = []
    for i in occupied:
        p = slow_softmax(logits[i].tolist())
        renormalised.append([value / (1 - p[FREE]) for value in p[:FREE]])
    slow = slow_lovasz(torch.tensor(renormalised, dtype=torch.float64), labels[occupied])
    loss = lovasz_occupied(logits, labels)
    assert float(loss.detach()) == pytest.approx(slow, rel=1e-12)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert (gradient[labels == FREE] == 0).all()
    assert (gradient[:, FREE] == 0).all()


def slow_affinity(p: list[float], truth: list[bool]) -> float:
    """−log of precision, recall and specificity, as far as the labels can ask for them."""
    hits = sum(q for q, t in zip(p, truth, strict=True) if t)
    rejections = sum(1 - q for q, t in zip(p, truth, strict=True) if not t)
    loss = 0.0
    if any(truth):
        loss -= math.log(hits / sum(p)) + math.log(hits / sum(truth))
    if not all(truth):
        loss -= math.log(rejections / (len(truth) - sum(truth)))
    return loss


@pytest.mark.parametrize("classes", [(0, 3, 11, FREE), (FREE,), (2,), (2, 7)])
def test_affinity_losses_follow_the_formula(classes: tuple[int, ...]) -> None:
    logits, labels = random_case(30, seed=10, classes=classes)
    p = [slow_softmax(row) for row in logits.tolist()]
    geometric = slow_affinity([1 - row[FREE] for row in p], [label != FREE for label in labels.tolist()])
    assert float(geo_scal(logits, labels).detach()) == pytest.approx(geometric, rel=1e-10)
    semantic = [slow_affinity([row[c] for row in p], [label == c for label in labels.tolist()]) for c in set(classes)]
    assert float(sem_scal(logits, labels).detach()) == pytest.approx(sum(semantic) / len(semantic), rel=1e-10)


def test_probabilities_near_one_keep_what_is_left_of_them() -> None:
    """Both voxels are held for occupied: P = 1/2, R = 1, S = p_free, too small to be 1 − p in float32."""
    logits = torch.zeros(2, NUM_CLASSES)
    logits[:, FREE] = -40
    expected = math.log(2) + 40 + math.log(17)
    assert float(geo_scal(logits, torch.tensor([0, FREE]))) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("loss", [geo_scal, sem_scal, lovasz_geometric, lovasz_occupied])
def test_gradients_are_those_of_finite_differences(
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> None:
    logits, labels = random_case(8, seed=11)
    assert torch.autograd.gradcheck(lambda x: loss(x, labels), (logits,))


@pytest.mark.parametrize("loss", [geo_scal, sem_scal, lovasz_geometric, lovasz_occupied])
def test_without_voxels_every_loss_is_zero_with_a_gradient(
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> None:
    logits = torch.zeros(0, NUM_CLASSES, requires_grad=True)
    value = loss(logits, torch.zeros(0, dtype=torch.long))
    assert float(value.detach()) == 0
    value.backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("size", [0.0, 30.0, 300.0, 3e4])
def test_extreme_logits_have_finite_losses_and_gradients(dtype: torch.dtype, gamma: float, size: float) -> None:
    """Surely right, surely wrong, and all the same."""
    labels = torch.tensor([0, 0, 3, 3, FREE, FREE, 5, FREE], dtype=torch.uint8).view(1, 2, 2, 2)
    answers = ([0, 0, 3, 3, 17, 17, 5, 17], [17, 17, 17, 17, 0, 0, 17, 3], [17] * 8, [3] * 8)
    for answer in answers:
        logits = torch.zeros(8, NUM_CLASSES)
        logits[torch.arange(8), answer] = size
        logits = logits.T.reshape(1, NUM_CLASSES, 2, 2, 2).to(dtype).requires_grad_()
        for form in LOVASZ_FORMS:
            config = OccupancyLossConfig(focal_gamma=gamma, lovasz_form=form, geo_scal=1.0, sem_scal=1.0)
            terms = occupancy_loss(logits, labels, weights=torch.ones(NUM_CLASSES), config=config)
            assert all(term.dtype == torch.float32 and bool(term.isfinite()) for term in terms.values()), terms
            # What a loss scaler multiplies with; a gradient in float16 itself has no room for it.
            scale = 1 if dtype == torch.float16 else 65536
            (gradient,) = torch.autograd.grad(scale * torch.stack(tuple(terms.values())).sum(), logits)
            assert bool(gradient.isfinite().all()), (answer, form)


@pytest.mark.parametrize(
    ("form", "names"),
    [
        ("classes", {"lovasz"}),
        ("geometric", {"lovasz_geometric"}),
        ("both", {"lovasz", "lovasz_geometric"}),
        ("split", {"lovasz_geometric", "lovasz_occupied"}),
    ],
)
def test_every_term_has_a_name_and_its_factor(form: LovaszForm, names: set[str]) -> None:
    logits, labels = random_case(64, seed=12)
    volume, target = logits.detach().T.reshape(1, NUM_CLASSES, 4, 4, 4), labels.view(1, 4, 4, 4).to(torch.uint8)
    weights = torch.rand(NUM_CLASSES, generator=torch.Generator().manual_seed(0))
    config = OccupancyLossConfig(cross_entropy=0.5, lovasz=2.0, lovasz_form=form, geo_scal=3.0, sem_scal=4.0)
    terms = occupancy_loss(volume, target, weights=weights, config=config)
    rows = logits.detach().float()
    expected = {
        "cross_entropy": 0.5 * cross_entropy(rows, labels, weights),
        "lovasz": 2 * lovasz_softmax(rows, labels),
        "lovasz_geometric": 2 * lovasz_geometric(rows, labels),
        "lovasz_occupied": 2 * lovasz_occupied(rows, labels),
        "geo_scal": 3 * geo_scal(rows, labels),
        "sem_scal": 4 * sem_scal(rows, labels),
    }
    assert terms.keys() == {"cross_entropy", "geo_scal", "sem_scal"} | names
    for name, term in terms.items():
        torch.testing.assert_close(term, expected[name], rtol=1e-6, atol=0)


def small_volume(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, NUM_CLASSES, 4, 4, 3, generator=generator)
    labels = torch.randint(0, NUM_CLASSES, (2, 4, 4, 3), generator=generator).to(torch.uint8)
    labels[:, :, 2:] = FREE
    return logits, labels


def test_unknown_voxels_count_as_free_where_that_is_asked_for() -> None:
    logits, labels = small_volume(13)
    labels[0, 0] = UNKNOWN
    weights = torch.linspace(0.5, 1.5, NUM_CLASSES)
    as_free = OccupancyLossConfig(**{**vars(EVERYTHING), "unknown": "free"})
    written = labels.where(labels != UNKNOWN, torch.tensor(FREE, dtype=torch.uint8))
    counted = occupancy_loss(logits, labels, weights=weights, config=as_free)
    assert counted == occupancy_loss(logits, written, weights=weights, config=EVERYTHING)
    assert counted != occupancy_loss(logits, labels, weights=weights, config=EVERYTHING)
    # Files say confidence 0 where nothing was seen; counted as free, such a voxel counts fully.
    confidence = torch.full(labels.shape, 0.5).masked_fill(labels == UNKNOWN, 0.0)
    sure = occupancy_loss(logits, labels, weights=weights, config=as_free, confidence=confidence)
    expected = confidence.masked_fill(labels == UNKNOWN, 1.0)
    assert sure == occupancy_loss(logits, written, weights=weights, config=EVERYTHING, confidence=expected)
    # A byte of 255 is as sure as that.
    bytes_ = torch.full(labels.shape, 255, dtype=torch.uint8).masked_fill(labels == UNKNOWN, 0)
    surely = occupancy_loss(logits, labels, weights=weights, config=as_free, confidence=bytes_)
    for name, term in surely.items():
        torch.testing.assert_close(term, counted[name], rtol=1e-6, atol=0)


def test_a_mask_leaves_unknown_voxels_out_that_would_count_as_free() -> None:
    logits, labels = small_volume(18)
    labels[0, 0] = UNKNOWN
    mask = torch.rand(labels.shape, generator=torch.Generator().manual_seed(19)) < 0.5
    assert 0 < int(mask[0, 0].sum()) < mask[0, 0].numel()
    weights = torch.linspace(0.5, 1.5, NUM_CLASSES)
    as_free = OccupancyLossConfig(**{**vars(EVERYTHING), "unknown": "free"})
    written = labels.masked_fill(labels == UNKNOWN, FREE).masked_fill(~mask, UNKNOWN)
    expected = occupancy_loss(logits, written, weights=weights, config=EVERYTHING)
    masked = occupancy_loss(logits, labels, weights=weights, config=as_free, confidence=mask)
    for name, term in masked.items():
        torch.testing.assert_close(term, expected[name], rtol=1e-6, atol=0)


def test_a_voxel_with_confidence_zero_is_absent_from_every_term() -> None:
    logits, labels = small_volume(14)
    doubted = torch.rand(labels.shape, generator=torch.Generator().manual_seed(15)) < 0.4
    weights = torch.linspace(0.5, 1.5, NUM_CLASSES)
    without = labels.masked_fill(doubted, UNKNOWN)
    expected = occupancy_loss(logits, without, weights=weights, config=EVERYTHING)
    for confidence in (~doubted, (~doubted).float(), (~doubted).to(torch.uint8) * 255):
        terms = occupancy_loss(logits, labels, weights=weights, config=EVERYTHING, confidence=confidence)
        for name, term in terms.items():
            torch.testing.assert_close(term, expected[name], rtol=1e-6, atol=0)
    nothing = occupancy_loss(
        logits.requires_grad_(), labels, weights=weights, config=EVERYTHING, confidence=torch.zeros(labels.shape)
    )
    assert all(float(term.detach()) == 0 for term in nothing.values())
    torch.stack(tuple(nothing.values())).sum().backward()
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_confidence_of_a_file_is_a_fraction_of_255() -> None:
    logits, labels = small_volume(16)
    weights = torch.linspace(0.5, 1.5, NUM_CLASSES)
    stored = torch.randint(0, 256, labels.shape, generator=torch.Generator().manual_seed(17)).to(torch.uint8)
    config = OccupancyLossConfig(lovasz=0.0)
    loss = occupancy_loss(logits, labels, weights=weights, config=config, confidence=stored)["cross_entropy"]
    total = mass = 0.0
    for row, label, sure in zip(
        logits.double().movedim(1, -1).reshape(-1, NUM_CLASSES).tolist(),
        labels.flatten().tolist(),
        stored.flatten().tolist(),
        strict=True,
    ):
        weight = float(weights[label]) * sure / 255
        total -= weight * math.log(slow_softmax(row)[label])
        mass += weight
    assert float(loss) == pytest.approx(total / mass, rel=1e-6)
