"""Softmax and its loss agree with torch, do not overflow, and see differences only."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import noise, seeds
from torch.nn.functional import cross_entropy as torch_cross_entropy
from torch.testing import assert_close

from annotated_decoder.softmax import cross_entropy, log_softmax, softmax

logit_rows = st.lists(st.floats(-1e5, 1e5), min_size=1, max_size=8).map(
    lambda row: torch.tensor([row], dtype=torch.float64)
)
temperatures = st.floats(0.05, 20.0)


@given(logit_rows)
def test_parity_with_torch(logits):
    assert_close(softmax(logits), logits.softmax(-1))
    assert_close(log_softmax(logits), logits.log_softmax(-1))


@given(logit_rows)
def test_shares_are_not_negative_and_sum_to_one(logits):
    p = softmax(logits)
    assert torch.all(p >= 0)
    assert_close(p.sum(-1), torch.ones(1, dtype=torch.float64))


@given(seeds, st.floats(-1e4, 1e4))
def test_a_shift_of_all_logits_changes_nothing(seed, shift):
    logits = noise(2, 6, seed=seed)
    assert_close(softmax(logits + shift), softmax(logits))
    assert_close(log_softmax(logits + shift), log_softmax(logits))


@given(seeds, temperatures)
def test_temperature_divides_the_logits(seed, temperature):
    logits = noise(2, 6, seed=seed)
    assert_close(softmax(logits, temperature), softmax(logits / temperature))


def test_a_cold_softmax_takes_the_best_and_a_hot_one_takes_all_alike():
    logits = torch.tensor([1.0, 3.0, 2.0])
    assert softmax(logits, 1e-30).tolist() == [0.0, 1.0, 0.0]
    assert_close(softmax(logits, 1e9), torch.full((3,), 1 / 3))


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_temperature_not_above_zero_is_refused(temperature):
    with pytest.raises(ValueError, match=f"temperature is {temperature}.*argmax"):
        softmax(torch.zeros(3), temperature)


def test_the_logarithm_is_finite_where_the_share_underflows():
    logits = torch.tensor([0.0, -1000.0])
    assert softmax(logits).tolist() == [1.0, 0.0]
    assert log_softmax(logits).tolist() == [0.0, -1000.0]


def test_a_token_ruled_out_has_no_share():
    logits = torch.tensor([0.0, -torch.inf, 0.0])
    assert softmax(logits).tolist() == [0.5, 0.0, 0.5]
    assert log_softmax(logits)[1] == -torch.inf


@given(seeds, st.floats(0.0, 0.9))
def test_cross_entropy_agrees_with_torch(seed, smoothing):
    logits, targets = noise(3, 4, 5, seed=seed), torch.randint(0, 5, (3, 4))
    real = noise(3, 4, seed=seed + 1) > 0
    real[0, 0] = True
    ignored = torch.where(real, targets, -100)
    assert_close(
        cross_entropy(logits, targets, real, smoothing),
        torch_cross_entropy(logits.flatten(0, 1), ignored.flatten(), label_smoothing=smoothing),
    )
    assert_close(
        cross_entropy(logits, targets, smoothing=smoothing),
        torch_cross_entropy(logits.flatten(0, 1), targets.flatten(), label_smoothing=smoothing),
    )


@given(seeds, st.floats(0.01, 0.9))
def test_smoothing_is_cross_entropy_with_a_softened_target(seed, smoothing):
    logits, targets = noise(6, 5, seed=seed), torch.arange(6) % 5
    soft = (1 - smoothing) * torch.eye(5, dtype=torch.float64)[targets] + smoothing / 5
    expected = -(soft * log_softmax(logits)).sum(-1).mean()
    assert_close(cross_entropy(logits, targets, smoothing=smoothing), expected)


def test_the_gradient_is_the_probability_minus_the_truth():
    logits = noise(1, 5).requires_grad_()
    cross_entropy(logits, torch.tensor([2])).backward()
    assert_close(logits.grad, softmax(logits.detach()) - torch.eye(5, dtype=torch.float64)[2])


def test_padding_has_no_gradient():
    logits = noise(2, 3, 5).requires_grad_()
    real = torch.tensor([[True, True, False], [True, False, False]])
    cross_entropy(logits, torch.zeros(2, 3, dtype=torch.long), real, smoothing=0.1).backward()
    assert torch.all(logits.grad[~real] == 0) and torch.all(logits.grad[real] != 0)


def test_equal_logits_cost_ln_v():
    assert cross_entropy(torch.zeros(3, 69), torch.tensor([0, 5, 68])).item() == pytest.approx(math.log(69))
