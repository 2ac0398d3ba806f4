"""The terms of the bird's-eye-view loss against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from occlift.errors import ConfigError
from occlift.losses.bev import BevLossConfig, LearnedBalance, bev_loss, centre_loss, offset_loss, segmentation_loss


def test_segmentation_by_hand() -> None:
    # One class, one row of three cells; p = σ(0) = ½, σ(ln 3) = ¾, and one that is ignored.
    logits = torch.tensor([[[[0.0, math.log(3), 9.0]]]])
    truth = torch.tensor([[[[True, False, True]]]])
    counted = torch.tensor([[[[True, True, False]]]])
    loss = segmentation_loss(logits, truth, counted, positive_weight=2.13)
    assert loss.item() == pytest.approx((2.13 * math.log(2) + math.log(4)) / 2)
    # In another class of another frame nothing counts: it is a mean over (frame, class), and that one is 0.
    logits, truth = logits.expand(2, 2, 1, 3), truth.expand(2, 2, 1, 3)
    mask = counted.expand(2, 2, 1, 3).clone()
    mask[1, 1] = False
    assert segmentation_loss(logits, truth, mask, positive_weight=2.13).item() == pytest.approx(loss.item() * 3 / 4)


def test_centres_by_hand() -> None:
    logits = torch.tensor([[[[0.0, 0.0, 0.0, 0.0]]]])
    heat = torch.tensor([[[[1.0, 0.5, 0.0, 0.25]]]])
    counted = torch.tensor([[[[True, True, True, False]]]])
    # Above ½: (½)²; the others: 0 and (½)².
    assert centre_loss(logits, heat, counted).item() == pytest.approx(0.5 * (0.25 + (0.0 + 0.25) / 2))
    assert centre_loss(logits, torch.zeros_like(heat), counted).item() == pytest.approx(0.5 * 0.25)


def test_offsets_by_hand() -> None:
    true = torch.zeros(2, 2, 1, 3)
    offset_m = torch.tensor([[1.0, 2.0, 30.0], [-0.5, 0.0, 40.0]])[None, :, None].expand(2, 2, 1, 3)
    inside = torch.tensor([[True, True, False], [False, False, False]])[:, None, None]
    # The first frame: (1.5 + 2) / 2; the second has no object.
    assert offset_loss(offset_m, true, inside).item() == pytest.approx(1.75 / 2)


def _example() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(4)
    ignored = torch.rand(2, 3, 6, 5, generator=generator) < 0.2
    return {
        "truth": (torch.rand(2, 3, 6, 5, generator=generator) < 0.3) | ignored,
        "ignored": ignored,
        "true_centre": torch.rand(2, 1, 6, 5, generator=generator),
        "true_offset_m": torch.randn(2, 2, 6, 5, generator=generator),
        "inside_object": torch.rand(2, 1, 6, 5, generator=generator) < 0.4,
    }


def _outputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return tuple(torch.randn(2, n, 6, 5, generator=generator, dtype=torch.float64).requires_grad_() for n in (3, 1, 2))  # type: ignore[return-value]


def test_ignored_cells_have_no_gradient_and_the_others_have() -> None:
    example, outputs = _example(), _outputs()
    terms = bev_loss(*outputs, **example, config=BevLossConfig())  # type: ignore[arg-type]
    assert list(terms) == ["segmentation", "centre", "offset"]
    torch.stack(list(terms.values())).sum().backward()
    segmentation, centre, offset_m = (output.grad for output in outputs)
    assert segmentation is not None
    assert centre is not None
    assert offset_m is not None
    assert torch.equal(segmentation == 0, example["ignored"])
    assert torch.equal(centre == 0, example["ignored"].any(1, keepdim=True))
    assert torch.equal(offset_m == 0, ~example["inside_object"].expand(2, 2, 6, 5))
    everything = bev_loss(*outputs, **{**example, "ignored": None}, config=BevLossConfig())  # type: ignore[arg-type]
    assert everything["segmentation"] != terms["segmentation"]


def test_a_batch_is_the_mean_of_its_frames() -> None:
    example, outputs = _example(), _outputs()
    config = BevLossConfig(centre=2.0, offset=3.0)
    whole = bev_loss(*outputs, **example, config=config)  # type: ignore[arg-type]
    parts = [
        bev_loss(
            *(output[i : i + 1] for output in outputs),
            **{name: target[i : i + 1] for name, target in example.items()},
            config=config,
        )  # type: ignore[arg-type]
        for i in range(2)
    ]
    for name, term in whole.items():
        torch.testing.assert_close(term, (parts[0][name] + parts[1][name]) / 2)


def test_perfect_outputs_cost_next_to_nothing_and_empty_frames_are_finite() -> None:
    example = _example()
    sure = torch.where(example["truth"], 30.0, -30.0)
    heat = example["true_centre"].clamp(1e-4, 1 - 1e-4)
    terms = bev_loss(sure, heat.logit(), example["true_offset_m"], **example, config=BevLossConfig())  # type: ignore[arg-type]
    assert max(term.item() for term in terms.values()) < 1e-6
    nothing = {name: torch.zeros_like(target) for name, target in example.items()}
    nothing["ignored"] = torch.ones_like(example["ignored"])
    outputs = _outputs()
    terms = bev_loss(*outputs, **nothing, config=BevLossConfig())  # type: ignore[arg-type]
    torch.stack(list(terms.values())).sum().backward()
    assert all(term.item() == 0 for term in terms.values())
    assert all(output.grad is not None and not output.grad.any() for output in outputs)


def test_factors() -> None:
    example, outputs = _example(), _outputs()
    one = bev_loss(*outputs, **example, config=BevLossConfig(centre=1.0, offset=1.0))  # type: ignore[arg-type]
    two = bev_loss(*outputs, **example, config=BevLossConfig(segmentation=2.0, centre=0.0, offset=0.5))  # type: ignore[arg-type]
    assert list(two) == ["segmentation", "offset"]
    torch.testing.assert_close(two["segmentation"], 2 * one["segmentation"])
    torch.testing.assert_close(two["offset"], one["offset"] / 2)
    for wrong in ({"centre": -1.0}, {"segmentation": 0.0}, {"positive_weight": 0.0}):
        with pytest.raises(ConfigError, match="must"):
            BevLossConfig(**wrong)


def test_the_learned_balance_starts_with_the_factors_of_the_configuration() -> None:
    """SimpleBEV's 10 : ½ : ½ by default, its offsets in cells of half a metre."""
    example, outputs = _example(), _outputs()
    one = bev_loss(*outputs, **example, config=BevLossConfig(centre=1.0, offset=1.0))  # type: ignore[arg-type]
    balanced = LearnedBalance()(bev_loss(*outputs, **example, config=BevLossConfig()))  # type: ignore[arg-type]
    of_cells = {**one, "offset": one["offset"] / 0.5}
    segmentation, centre, offset = ((balanced[name] / of_cells[name]).item() for name in of_cells)
    assert (centre / segmentation, offset / segmentation) == pytest.approx((0.5 / 10, 0.5 / 10))


def test_the_learned_balance_settles_where_the_equation_says() -> None:
    balance = LearnedBalance()
    losses = {"segmentation": torch.tensor(0.4), "centre": torch.tensor(0.1), "offset": torch.tensor(2.0)}
    optimizer = torch.optim.SGD(balance.parameters(), lr=0.5)
    for _ in range(300):
        optimizer.zero_grad()
        torch.stack(list(balance(losses).values())).sum().backward()
        optimizer.step()
    # d/ds (e⁻ˢ L + ½ s) = 0 where e⁻ˢ = ½ / L.
    torch.testing.assert_close(balance.log_variance.detach().exp(), torch.tensor([0.8, 0.2, 4.0]), atol=1e-3, rtol=1e-3)
    assert list(balance.state_dict()) == ["log_variance"]
