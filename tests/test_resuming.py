"""A run takes the steps of `train`, one at a time, and can be taken up again after any of them."""

import math
from copy import deepcopy
from dataclasses import replace
from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import few
from speller import examples_of, small_pronouncer

from annotated_decoder.trained.resuming import TrainingRun
from annotated_decoder.training import TrainingConfig, train

OPTIMIZERS = ["adamw", "muon"]
OTHER_SHAPES = [{"dropout": 0.2}, {"n_heads": 4}, {"activation": "gelu"}, {"d_ff": 32}, {"n_layers": 2}]


def taken(trained, **changes):
    config = TrainingConfig(**{"epochs": 4, "letters_per_batch": 9} | changes)
    return TrainingRun(trained.model, examples_of(trained), config)


@few
@given(st.integers(0, 9), st.sampled_from([0.0, 0.3]), st.sampled_from(OPTIMIZERS), st.booleans())
def test_a_run_takes_the_steps_of_train_bit_by_bit(seed, dropout, optimizer, bfloat16):
    run = taken(small_pronouncer(dropout=dropout, d_model=8), optimizer=optimizer, bfloat16=bfloat16, seed=seed)
    whole = small_pronouncer(dropout=dropout, d_model=8)
    losses = train(whole.model, examples_of(whole), run.config, progress=False)
    assert list(run) == run.losses == losses and run.steps == len(losses) > run.epoch_steps > 1
    for a, b in zip(run.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(a, b)


@few
@given(st.data(), st.sampled_from([{}, {"pre_norm": False, "positions": "learned"}]), st.sampled_from(OPTIMIZERS))
def test_a_run_taken_up_anywhere_ends_at_the_same_weights(data, shape, optimizer):
    whole, first, second = (
        taken(small_pronouncer(seed, dropout=0.3, d_model=8, **shape), optimizer=optimizer) for seed in (0, 0, 1)
    )
    losses = list(whole)
    assert len(losses) == whole.steps and whole.epoch_steps > 1
    stop = data.draw(st.integers(0, whole.steps))
    assert list(islice(first, stop)) == losses[:stop]
    second.load_state_dict(deepcopy(first.state_dict()))
    assert list(second) == losses[stop:] and second.losses == losses
    for a, b in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("change", [{"seed": 2}, {"epochs": 5}, {"peak_lr": 1e-3}])
def test_the_state_of_another_configuration_is_refused_by_name(change):
    trained = small_pronouncer(d_model=8)
    other = TrainingRun(trained.model, examples_of(trained), replace(taken(trained).config, **change))
    (name, value), = change.items()
    was = getattr(taken(trained).config, name)
    with pytest.raises(ValueError, match=f"another training: {name} was {was} and is {value}; give the same"):
        other.load_state_dict(taken(trained).state_dict())


@pytest.mark.parametrize("change", OTHER_SHAPES)
def test_the_state_of_another_model_is_refused_and_nothing_is_overwritten(change):
    state = taken(small_pronouncer(d_model=8)).state_dict()
    other = taken(small_pronouncer(seed=1, **{"d_model": 8} | change))
    before = deepcopy(other.model.state_dict())
    (name,) = change
    with pytest.raises(ValueError, match=f"another training: .*decoder.{name} was .* and is {change[name]}"):
        other.load_state_dict(state)
    assert all(torch.equal(tensor, before[key]) for key, tensor in other.model.state_dict().items())


def test_a_forged_state_is_refused_in_one_line_of_readable_length():
    run = taken(small_pronouncer(d_model=8))
    made_of = run.state_dict()["made_of"]
    hostile = {name: "\x1b[2J\r\n" + "x" * 100_000 for name in [*made_of, "\x07\n"]}
    for forged in (made_of | {"\x1b]0;\n": "\x9b"}, hostile, {}):
        with pytest.raises(ValueError, match="another training: .* was .*; give the same, or start anew") as refused:
            run.load_state_dict(run.state_dict() | {"made_of": forged})
        assert str(refused.value).isprintable() and len(str(refused.value)) < 1_000


def test_what_is_no_state_is_refused():
    with pytest.raises(ValueError, match="another training"):
        taken(small_pronouncer(d_model=8)).load_state_dict({"losses": []})


def test_two_iterations_do_not_take_turns():
    run = taken(small_pronouncer(d_model=8))
    first = iter(run)
    next(first), next(iter(run))
    with pytest.raises(ValueError, match="the run has gone on elsewhere, so step 2 is not the next one; load a state"):
        next(first)


def test_a_run_whose_step_broke_off_goes_on_only_from_a_state(monkeypatch):
    run, whole = (taken(small_pronouncer(d_model=8)) for _ in range(2))
    losses = list(whole)
    list(islice(run, 3))
    state = deepcopy(run.state_dict())
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(run.schedules[0], "step", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
        next(iter(run))
    with pytest.raises(ValueError, match="a step broke off halfway, so step 4 is not the next one; load a state"):
        next(iter(run))
    run.load_state_dict(state)
    assert list(run) == losses[3:]


def test_the_state_of_other_examples_is_refused():
    trained = small_pronouncer(d_model=8)
    fewer = TrainingRun(trained.model, examples_of(trained)[:-1], taken(trained).config)
    with pytest.raises(ValueError, match="another training: the examples are others; give the same"):
        fewer.load_state_dict(taken(trained).state_dict())


def test_a_step_that_goes_wrong_is_not_taken_and_names_its_batch():
    trained = small_pronouncer(d_model=8)
    run = taken(trained)
    list(islice(run, 5))
    with torch.no_grad():
        trained.model.projection.bias[4] = math.inf
    before = deepcopy(run.state_dict())
    with pytest.raises(ValueError) as refused:
        next(iter(run))
    assert "step 6, a batch of " in str(refused.value)
    assert "the loss is nan" in str(refused.value) and "lower peak_lr = 0.002" in str(refused.value)
    assert run.losses == before["losses"]
    for name, tensor in run.model.state_dict().items():
        assert torch.equal(tensor, before["model"][name])


def test_a_run_leaves_the_callers_random_numbers_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    for _ in taken(small_pronouncer(d_model=8, dropout=0.2)):
        torch.manual_seed(3)    # a caller who draws between two steps changes nothing
    assert torch.equal(torch.get_rng_state(), before)


def test_muon_has_the_matrices_of_the_layers_and_adamw_the_rest():
    run = taken(small_pronouncer(d_model=8), optimizer="muon")
    names = {id(p): name for name, p in run.model.named_parameters()}
    muon, adamw = ({names[id(p)] for p in each.param_groups[0]["params"]} for each in run.optimizers)
    assert [type(each).__name__ for each in run.optimizers] == ["Muon", "AdamW"]
    assert muon | adamw == set(names.values()) and not muon & adamw
    assert muon == {name for name in names.values() if name.endswith("_proj.weight")}


def test_both_optimizers_follow_the_schedule_and_the_weight_decay():
    run, rates = taken(small_pronouncer(d_model=8), optimizer="muon", epochs=20, weight_decay=0.3), []
    assert [each.param_groups[0]["weight_decay"] for each in run.optimizers] == [0.3, 0.3]
    for _ in islice(run, run.steps - 1):
        rates.append([each.param_groups[0]["lr"] for each in run.optimizers])
        assert run.optimizers[0].param_groups[0]["momentum"] == 0.95
    assert all(muon == adamw for muon, adamw in rates)
    assert max(rates)[0] == pytest.approx(2e-3, rel=1e-2) and rates[-1][0] < 1e-5


def places(state, at=()):
    "The way to each part of a state, from the outside in."
    yield at
    if isinstance(state, dict) or isinstance(state, list):
        for name in state if isinstance(state, dict) else range(len(state)):
            yield from places(state[name], (*at, name))


def forged(state, at, change):
    "A copy of the state with something else at this place, or nothing."
    state = deepcopy(state)
    *path, last = at
    inner = state
    for name in path:
        inner = inner[name]
    if change is del_it:
        del inner[last]
    else:
        inner[last] = change
    return state


def del_it():
    "Stands for a part that is missing."


WRONG = {"missing": del_it, "text": "1e-3", "nothing": None, "a list": [1], "a tensor": torch.zeros(7), "True": True}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_a_forged_state_is_refused_in_one_sentence_or_runs_on_and_changes_nothing(change):
    new = lambda: taken(small_pronouncer(d_model=8), optimizer="muon", epochs=2)  # noqa: E731  # it has AdamW too
    run, other = new(), new()
    list(islice(run, 2))
    state, before, refused = deepcopy(run.state_dict()), deepcopy(other.model.state_dict()), 0
    seldom = {*list(state["model"])[2:], *range(1, 99)}    # of like places the first will do
    for at in places(state):
        if len(at) == 0 or at[0] in ("model", "optimizers") and seldom & {*at[1:2], *at[3:]}:
            continue
        fake = forged(state, at, change)
        try:
            other.load_state_dict(fake)
        except ValueError as error:
            refused += 1
            assert "\n" not in str(error) and str(error).endswith("start anew"), error
            assert all(torch.equal(tensor, before[key]) for key, tensor in other.model.state_dict().items())
        else:    # it was as before, or no step depends on it
            next(iter(other))
            other = new()
            before = deepcopy(other.model.state_dict())
    assert refused > 40


def test_two_parameters_with_one_state_are_refused():
    run, other = taken(small_pronouncer(d_model=8), epochs=2), taken(small_pronouncer(d_model=8), epochs=2)
    next(iter(run))
    state = deepcopy(run.state_dict())
    numbers = state["optimizers"][0]["param_groups"][0]["params"]
    numbers[-1] = numbers[0]    # torch's fused step would write beside the smaller of the two
    with pytest.raises(ValueError, match=r"\['params'\]\[\d+\] is built otherwise; start anew$"):
        other.load_state_dict(state)


NONE = [None, [], "state", 3, {"made_of": {1: 2}}, {"made_of": {"seed": torch.ones(2)}}]


@pytest.mark.parametrize("state", NONE, ids=str)
def test_what_is_no_state_at_all_is_refused_in_one_sentence(state):
    with pytest.raises(ValueError, match="start anew$") as error:
        taken(small_pronouncer(d_model=8)).load_state_dict(state)
    assert "\n" not in str(error.value)


def test_a_state_with_more_losses_than_steps_taken_is_refused():
    run = taken(small_pronouncer(d_model=8))
    list(islice(run, 3))
    state = deepcopy(run.state_dict())
    state["losses"].append(1.0)
    with pytest.raises(ValueError, match="the state has another number of losses than of steps; start anew"):
        taken(small_pronouncer(d_model=8)).load_state_dict(state)
