"""The count of a teacher's operations is what a hand counts."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch
import transformers

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def cost(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("teacher_cost")


def test_a_convolution_counts_two_operations_per_product(cost: ModuleType) -> None:
    with torch.device("meta"):
        convolution = torch.nn.Conv2d(3, 8, 5, stride=2, padding=2)
    products = 8 * (3 * 5 * 5) * (20 * 30)
    assert cost.gflop(lambda: convolution(cost.empty(1, 3, 40, 60))) == pytest.approx(2 * products / 1e9)


def test_a_vision_transformer_counts_its_layers_and_its_attention(cost: ModuleType) -> None:
    width, layers, rows, columns = 32, 3, 4, 6
    config = transformers.Dinov2Config(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=4, patch_size=14, image_size=56
    )
    model = cost.network(transformers.Dinov2Model, config)
    tokens = rows * columns + 1
    patches = rows * columns * (3 * 14 * 14) * width
    # Queries, keys, values and what is made of them; two layers that are four times as wide between.
    layer = tokens * (4 + 2 * 4) * width**2 + 2 * tokens**2 * width
    pixels = cost.empty(1, 3, 14 * rows, 14 * columns)
    counted = cost.gflop(lambda: model(pixel_values=pixels))
    assert counted == pytest.approx(2 * (patches + layers * layer) / 1e9)
    assert cost.parameters_m(model) == pytest.approx(sum(p.numel() for p in model.parameters()) / 1e6)


def test_captions_are_counted_as_what_the_detector_reads(cost: ModuleType) -> None:
    caption = cost.Caption(phrases=("guard rail", "car"), class_ids=(1, 2))
    assert cost.tokens_of((caption, cost.Caption(phrases=("bus",), class_ids=(3,)))) == len(
        ["[CLS]", "guard", "rail", ".", "car", ".", "[SEP]"]
    )


def test_a_detector_looks_once_whatever_it_is_asked(cost: ModuleType) -> None:
    swin = transformers.SwinConfig(embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], out_indices=[2, 3, 4])
    config = transformers.GroundingDinoConfig(
        backbone_config=swin, encoder_layers=1, decoder_layers=2, num_queries=10, d_model=32,
        text_config={"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
    )  # fmt: skip
    detector = cost.network(transformers.GroundingDinoForObjectDetection, config)
    short, long = (cost.detector_gflop(detector, 96, 160, tokens) for tokens in (4, 40))
    assert short[0] == long[0] > 0
    assert long[1] > short[1] > 0


def test_the_table_is_relative_to_the_cheapest_of_a_kind(cost: ModuleType) -> None:
    def made(kind: str, name: str, gflop: float) -> object:
        return cost.Cost(kind=kind, teacher=name, model="m", input_size="1 × 1", gflop=gflop, parameters_m=2.0)

    lines = cost.table([made("classes", "a", 10), made("classes", "b", 45), made("depth", "c", 3)]).splitlines()
    cells = [line.strip("| ").split(" | ") for line in lines if line and "---" not in line]
    assert [(row[0], row[-1]) for row in cells] == [
        ("teacher of classes", "ratio"), ("b", "4.5"), ("a", "1.0"), ("teacher of depth", "ratio"), ("c", "1.0"),
    ]  # fmt: skip
