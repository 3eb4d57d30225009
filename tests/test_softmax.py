"""Softmax and its loss agree with torch, do not overflow, and see differences only."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import assert_near, dtypes, noise, seeds, some_visible
from torch.nn.functional import cross_entropy as torch_cross_entropy
from torch.testing import assert_close

from annotated_decoder.softmax import cross_entropy, log_softmax, softmax

logit_rows = st.builds(
    lambda row, dtype: torch.tensor([row], dtype=dtype), st.lists(st.floats(-1e5, 1e5), min_size=1, max_size=8), dtypes
)
sizes = st.integers(1, 6)
temperatures = st.floats(0.05, 20.0)


@given(logit_rows)
def test_parity_with_torch(logits):
    assert_near(softmax(logits), logits.softmax(-1))
    assert_near(log_softmax(logits), logits.log_softmax(-1))


@given(logit_rows)
def test_shares_are_not_negative_and_sum_to_one(logits):
    p = softmax(logits)
    assert torch.all(p >= 0)
    assert_near(p.sum(-1), torch.ones_like(p[:, 0]))


@given(seeds, dtypes, sizes, st.floats(-100, 100))
def test_a_shift_of_all_logits_changes_nothing(seed, dtype, vocab_size, shift):
    logits = noise(2, vocab_size, seed=seed, dtype=dtype)
    assert_near(softmax(logits + shift), softmax(logits))
    assert_near(log_softmax(logits + shift), log_softmax(logits))


@given(seeds, dtypes, sizes, temperatures)
def test_temperature_divides_the_logits(seed, dtype, vocab_size, temperature):
    logits = noise(2, vocab_size, seed=seed, dtype=dtype)
    assert_near(softmax(logits, temperature), softmax(logits / temperature))


@given(seeds, dtypes, sizes, st.sampled_from([1e-37, 1e-50, 1e-300]))
def test_a_minute_temperature_takes_the_best_alone(seed, dtype, vocab_size, temperature):
    logits = 1000 * noise(2, vocab_size, seed=seed, dtype=dtype)    # divided as they are, they overflow
    best = torch.nn.functional.one_hot(logits.argmax(-1), vocab_size)
    assert torch.equal(softmax(logits, temperature), best.to(dtype))


def test_a_cold_softmax_takes_the_best_and_a_hot_one_takes_all_alike():
    logits = torch.tensor([1.0, 3.0, 2.0])
    assert softmax(logits, 1e-30).tolist() == [0.0, 1.0, 0.0]
    assert_close(softmax(logits, 1e9), torch.full((3,), 1 / 3))


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_temperature_not_above_zero_is_refused(temperature):
    with pytest.raises(ValueError, match=f"temperature is {temperature}.*argmax"):
        softmax(torch.zeros(3), temperature)


@given(st.lists(st.integers(-60, 60), min_size=1, max_size=8), st.integers(-5000, 5000))
def test_shares_are_those_of_exact_arithmetic_whatever_the_shift(multiples, shift):
    powers = [Fraction(2) ** k for k in multiples]    # exp(k ln 2), exactly
    exact = [power / sum(powers) for power in powers]
    assert all(share > 0 for share in exact) and sum(exact) == 1
    logits = torch.tensor([multiples], dtype=torch.float64) * math.log(2)
    expected = torch.tensor([[float(share) for share in exact]], dtype=torch.float64)
    assert_close(softmax(logits), expected, atol=1e-12, rtol=0)
    assert_close(softmax(logits + shift * math.log(2)), expected, atol=1e-9, rtol=0)


def test_the_logarithm_is_finite_where_the_share_underflows():
    logits = torch.tensor([0.0, -1000.0])
    assert softmax(logits).tolist() == [1.0, 0.0]
    logits.requires_grad_()
    log_p = log_softmax(logits)
    assert log_p.tolist() == [0.0, -1000.0]
    assert torch.autograd.grad(log_p[1], logits)[0].tolist() == [-1.0, 1.0]


def test_a_token_ruled_out_has_no_share():
    logits = torch.tensor([0.0, -torch.inf, 0.0])
    assert softmax(logits).tolist() == [0.5, 0.0, 0.5]
    assert log_softmax(logits)[1] == -torch.inf


@given(seeds, dtypes, sizes, sizes, sizes, st.floats(0.0, 0.9))
def test_cross_entropy_agrees_with_torch(seed, dtype, batch, length, vocab_size, smoothing):
    logits = noise(batch, length, vocab_size, seed=seed, dtype=dtype)
    targets = torch.arange(seed, seed + batch * length).reshape(batch, length) % vocab_size
    real = some_visible(batch, length, seed=seed)
    for mask, counted in ((None, targets), (real, torch.where(real, targets, -100))):
        expected = torch_cross_entropy(logits.flatten(0, 1), counted.flatten(), label_smoothing=smoothing)
        assert_near(cross_entropy(logits, targets, mask, smoothing), expected)


@given(seeds, dtypes, sizes, st.floats(0.01, 0.9))
def test_smoothing_is_cross_entropy_with_a_softened_target(seed, dtype, vocab_size, smoothing):
    logits, targets = noise(6, vocab_size, seed=seed, dtype=dtype), torch.arange(6) % vocab_size
    soft = (1 - smoothing) * torch.eye(vocab_size, dtype=dtype)[targets] + smoothing / vocab_size
    expected = -(soft * log_softmax(logits)).sum(-1).mean()
    assert_near(cross_entropy(logits, targets, smoothing=smoothing), expected)


def test_the_gradient_is_the_probability_minus_the_truth():
    logits = noise(1, 5).requires_grad_()
    cross_entropy(logits, torch.tensor([2])).backward()
    assert_close(logits.grad, softmax(logits.detach()) - torch.eye(5, dtype=torch.float64)[2])


def test_padding_has_no_gradient():
    logits = noise(2, 3, 5).requires_grad_()
    real = torch.tensor([[True, True, False], [True, False, False]])
    cross_entropy(logits, torch.zeros(2, 3, dtype=torch.long), real, smoothing=0.1).backward()
    assert torch.all(logits.grad[~real] == 0) and torch.all(logits.grad[real] != 0)


def test_a_perfect_smoothed_answer_costs_its_entropy_and_has_no_gradient():
    shares = torch.full((72,), 0.1 / 72, dtype=torch.float64)
    shares[0] += 0.9
    logits = shares.log().requires_grad_()
    loss = cross_entropy(logits, torch.tensor(0), smoothing=0.1)
    loss.backward()
    assert loss.item() == pytest.approx(-(shares * shares.log()).sum().item(), abs=1e-12)
    assert logits.grad.abs().max() < 1e-12


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_an_average_over_nothing_is_nan(smoothing):
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    assert cross_entropy(noise(2, 3, 5), torch.zeros(2, 3, dtype=torch.long), nothing, smoothing).isnan()


def test_equal_logits_cost_ln_v():
    assert cross_entropy(torch.zeros(3, 69), torch.tensor([0, 5, 68])).item() == pytest.approx(math.log(69))
