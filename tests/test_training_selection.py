"""The two-stage selections against PyTorch's own over whole rows."""

from __future__ import annotations

import pytest
import torch

from thoughtscope.training.selection import above_zero, largest

SHAPES = [
    (5, 4096, 32),
    (3, 24576, 32),
    (7, 2048, 64),
    (4, 96, 5),
    (2, 101, 7),
    (6, 16, 16),
    (3, 64, 200),
    (2, 512, 1),
]


@pytest.mark.parametrize(("n_rows", "n_features", "k"), SHAPES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_largest_of_each_row_are_all_there(
    n_rows: int, n_features: int, k: int, dtype: torch.dtype
) -> None:
    """Where scores tie, as they do in bfloat16, which of them is kept is open: their values are not."""
    score = torch.randn(
        n_rows, n_features, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ).to(dtype)
    value, index = largest(score, k)
    expected = score.topk(min(k, n_features), dim=1).values
    assert torch.equal(value.sort(dim=1, descending=True).values, expected)
    assert torch.equal(score.gather(1, index), value)
    assert all(len(set(row)) == len(row) for row in index.tolist())


def test_rows_of_equal_scores_give_different_entries() -> None:
    _, index = largest(torch.ones(3, 1024), 8)
    assert all(len(set(row)) == 8 for row in index.tolist())


@pytest.mark.parametrize("n_features", [16, 101, 4096])
def test_everything_above_zero_is_found_once(n_features: int) -> None:
    score = torch.randn(9, n_features, generator=torch.Generator().manual_seed(1)) - 1.5
    score[4] = -1.0
    row, feature, value = above_zero(score)
    found = sorted(zip(row.tolist(), feature.tolist(), strict=True))
    assert found == [tuple(each) for each in (score > 0).nonzero().tolist()]
    assert torch.equal(score[row, feature], value) and torch.equal(row, row.sort().values)
