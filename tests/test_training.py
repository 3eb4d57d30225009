"""Batches have every example once, and the loop is the recipe."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import dtypes, few, seeds
from speller import WORDS, examples_of, small_pronouncer

from annotated_decoder import training
from annotated_decoder.encoder_outputs import END, PAD, START
from annotated_decoder.softmax import cross_entropy
from annotated_decoder.training import Example, TrainingConfig, batches, collate, optimizers_for, take_gradient, train

OPTIMIZERS = ["adamw", "muon"]

token_lists = st.lists(st.integers(3, 9), min_size=1, max_size=6)
example_lists = st.lists(st.builds(Example, token_lists, token_lists), min_size=1, max_size=20)


@given(example_lists)
def test_the_decoder_reads_what_it_said_one_step_before(examples):
    batch = collate(examples)
    for row, example in enumerate(examples):
        n = len(example.target) + 1
        assert batch.inputs[row, :n].tolist() == [START, *example.target]
        assert batch.targets[row, :n].tolist() == [*example.target, END]
        assert batch.source[row, batch.source_mask[row]].tolist() == example.source
        assert batch.target_mask[row].tolist() == [i < n for i in range(batch.targets.shape[1])]
        assert torch.all(batch.inputs[row, n:] == PAD) and torch.all(batch.targets[row, n:] == PAD)


@given(example_lists, st.integers(1, 30), seeds)
def test_an_epoch_has_every_example_once_in_batches_of_the_size(examples, letters, seed):
    found = Counter()
    for batch in batches(examples, letters, torch.Generator().manual_seed(seed)):
        within = batch.source.numel() <= letters and batch.targets.numel() <= 10 * letters
        assert within or len(batch.source) == 1
        for source, real, said, spoken in zip(
            batch.source, batch.source_mask, batch.targets, batch.target_mask, strict=True
        ):
            found[tuple(source[real].tolist()), tuple(said[spoken].tolist())] += 1
    assert found == Counter((tuple(e.source), (*e.target, END)) for e in examples)


def test_a_long_target_counts_for_the_shorter_ones_beside_it():
    examples = [Example([3, END], [3] * 89), *[Example([3, 4, END], [3]) for _ in range(5)]]
    found = [tuple(batch.targets.shape) for batch in batches(examples, 20, torch.Generator())]
    assert sorted(found) == [(2, 90), (4, 2)]


def test_the_order_is_the_generators_and_another_each_epoch():
    examples = [Example([3 + i % 7, 4, END], [3 + i % 5]) for i in range(40)]

    def order(generator):
        return [batch.source[:, 0].tolist() for batch in batches(examples, 12, generator)]

    generator = torch.Generator().manual_seed(1)
    first, second = order(generator), order(generator)
    assert first == order(torch.Generator().manual_seed(1)) != second


@few
@given(
    st.integers(0, 2),
    st.fixed_dictionaries(
        {
            "n_heads": st.integers(1, 3),
            "head_dim": st.sampled_from([8, 13]),
            "n_layers": st.integers(1, 2),
            "pre_norm": st.booleans(),
            "norm": st.sampled_from(["layer", "rms"]),
            "positions": st.sampled_from(["sinusoidal", "learned"]),
            "activation": st.sampled_from(["relu", "gelu"]),
            "tied": st.booleans(),
        }
    ),
    dtypes,
    st.sampled_from(OPTIMIZERS),
)
def test_one_batch_can_be_overfitted(seed, shape, dtype, optimizer):
    trained = small_pronouncer(seed, **shape)
    quick = TrainingConfig(epochs=80, peak_lr=1e-2, smoothing=0.0, optimizer=optimizer)
    losses = train(trained.model.to(dtype), examples_of(trained), quick, progress=False)
    assert len(losses) == 80
    assert losses[0] > 2 and losses[-1] < 0.05
    assert {w: " ".join(said) for w, said in trained.transcribe(list(WORDS)).items()} == WORDS


def test_each_step_has_the_gradient_of_its_own_batch_alone():
    trained, config = small_pronouncer(), TrainingConfig()
    batch = collate(examples_of(trained))
    gradients = []
    for _ in range(2):
        take_gradient(trained.model, batch, config, step=0)
        gradients.append([p.grad.clone() for p in trained.model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@given(seeds, st.floats(0, 0.9))
def test_the_loss_is_smoothed_and_leaves_padding_out(seed, smoothing):
    trained = small_pronouncer(seed)
    batch = collate(examples_of(trained))
    with torch.no_grad():
        logits = trained.model(batch.source, batch.inputs, batch.source_mask)
    expected = cross_entropy(logits, batch.targets, batch.target_mask, smoothing).item()
    config = TrainingConfig(epochs=1, smoothing=smoothing)
    assert train(trained.model, examples_of(trained), config, progress=False) == [pytest.approx(expected, rel=1e-5)]


def test_dropout_is_on_in_every_step_and_off_afterwards():
    trained, modes = small_pronouncer(dropout=0.2), []
    trained.model.register_forward_pre_hook(lambda model, _: modes.append({m.training for m in model.modules()}))
    train(trained.model, examples_of(trained), TrainingConfig(epochs=3), progress=False)
    assert modes == [{True}] * 3
    assert not any(module.training for module in trained.model.modules())


def test_every_epoch_has_an_order_of_its_own():
    trained, read = small_pronouncer(), []
    trained.model.encoder.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].tolist()))
    train(trained.model, examples_of(trained), TrainingConfig(epochs=4, letters_per_batch=1), progress=False)
    epochs = [read[i : i + 6] for i in range(0, 24, 6)]
    assert len({str(epoch) for epoch in epochs}) > 1
    assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs)


def test_a_configuration_of_numpys_numbers_is_one_of_pythons():
    config = TrainingConfig(peak_lr=np.float64(1e-3))    # as np.logspace gives them
    assert type(config.peak_lr) is float and config.peak_lr == 1e-3


def test_each_step_and_each_seed_has_dropout_of_its_own():
    dropped = []
    for seed in (1, 2):
        trained = small_pronouncer(d_model=8, dropout=0.5)
        dropout = trained.model.encoder.embedding.dropout
        dropout.register_forward_hook(lambda _, __, x: dropped.append((x == 0).tolist()))
        config = TrainingConfig(epochs=2, seed=seed, letters_per_batch=1_000)
        train(trained.model, examples_of(trained), config, progress=False)
    assert len(dropped) == 4 and all(dropped.count(mask) == 1 for mask in dropped)


def test_a_torch_without_muon_is_told(monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(ValueError, match=r"torch 2\..* has no Muon; take 2.9 or newer, or optimizer 'adamw'"):
        optimizers_for(small_pronouncer(d_model=8).model, TrainingConfig(optimizer="muon"))


def test_bfloat16_trains_much_like_float32():
    found = {}
    for bfloat16 in (False, True):
        trained = small_pronouncer()
        quick = TrainingConfig(epochs=60, peak_lr=1e-2, smoothing=0.0, bfloat16=bfloat16)
        found[bfloat16] = train(trained.model, examples_of(trained), quick, progress=False)
        assert all(p.dtype == torch.float32 for p in trained.model.parameters())
        assert found[bfloat16][-1] < 0.1
    assert found[True] != found[False]
    assert found[True][0] == pytest.approx(found[False][0], rel=0.02)


@pytest.mark.parametrize("steps", range(1, 13))
def test_any_number_of_steps_can_be_trained(steps):
    trained = small_pronouncer(d_model=8)
    losses = train(trained.model, examples_of(trained), TrainingConfig(epochs=steps), progress=False)
    assert len(losses) == steps and all(map(math.isfinite, losses))


def test_without_examples_there_is_no_training():
    with pytest.raises(ValueError, match="no examples to train on; give at least one"):
        train(small_pronouncer().model, [], TrainingConfig(), progress=False)


def test_a_loss_that_is_no_number_ends_the_training():
    trained = small_pronouncer()
    with pytest.raises(ValueError, match=r"the loss is .*(nan|inf).*; lower peak_lr = 1e\+30"):
        train(trained.model, examples_of(trained), TrainingConfig(peak_lr=1e30), progress=False)


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("epochs", 0, "it must be a whole number of at least 1"),
        ("letters_per_batch", -5, "it must be a whole number of at least 1"),
        ("seed", -1, "it must be a whole number of at least 0"),
        ("peak_lr", 0.0, "it must be above 0 and finite"),
        ("peak_lr", math.nan, "it must be above 0 and finite"),
        ("max_norm", math.inf, "it must be above 0 and finite"),
        ("max_norm", -1.0, "it must be above 0 and finite"),
        ("weight_decay", -0.1, "it must be at least 0 and finite"),
        ("weight_decay", math.inf, "it must be at least 0 and finite"),
        ("smoothing", 1.0, "it must be at least 0 and below 1"),
        ("smoothing", math.nan, "it must be at least 0 and below 1"),
    ],
)
def test_a_training_that_cannot_work_is_refused(field, value, message):
    with pytest.raises(ValueError, match=f"{field} is {value}; {message}"):
        TrainingConfig(**{field: value})


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(ValueError, match="optimizer is 'sgd'; it must be 'adamw' or 'muon'"):
        TrainingConfig(optimizer="sgd")


def weights_after(seed, **options):
    trained = small_pronouncer(dropout=0.2)
    torch.manual_seed(options.pop("global_seed", 0))
    before = torch.get_rng_state()
    losses = train(
        trained.model, examples_of(trained), TrainingConfig(epochs=3, letters_per_batch=10, seed=seed), progress=False
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert not trained.model.training
    return losses, trained.model.state_dict()


def test_a_seed_gives_one_training_whatever_the_global_state():
    (losses, weights), (again, same) = weights_after(1), weights_after(1, global_seed=5)
    assert losses == again
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    assert losses != weights_after(2)[0]


def test_the_rate_rises_to_its_peak_after_a_tenth_and_falls_and_momentum_goes_the_other_way(monkeypatch):
    rates, betas, step = [], [], torch.optim.AdamW.step

    def watched(self, *args):
        rates.append(self.param_groups[0]["lr"])
        betas.append(self.param_groups[0]["betas"])
        return step(self, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    trained = small_pronouncer()
    train(trained.model, examples_of(trained), TrainingConfig(epochs=40, peak_lr=1e-3), progress=False)
    assert max(rates) == pytest.approx(1e-3) and rates.index(max(rates)) == 3
    assert rates[:4] == sorted(rates[:4]) and rates[3:] == sorted(rates[3:], reverse=True)
    assert rates[-1] < 1e-6
    momenta, squares = zip(*betas)
    assert momenta.index(min(momenta)) == 3 and min(momenta) == pytest.approx(0.85)
    assert momenta[0] == momenta[-1] == pytest.approx(0.95)
    assert set(squares) == {0.98}


def test_a_training_configuration_is_frozen():
    with pytest.raises(AttributeError):
        TrainingConfig().epochs = 3


def test_a_training_seeds_no_chip_that_it_does_not_use(monkeypatch):
    trained, seeded = small_pronouncer(dropout=0.2), []
    for chip, name in ((torch.cuda, "manual_seed_all"), (torch.mps, "manual_seed"), (torch.xpu, "manual_seed_all")):
        monkeypatch.setattr(chip, name, seeded.append)
    train(trained.model, examples_of(trained), TrainingConfig(epochs=1), progress=False)
    assert not seeded
    torch.manual_seed(3)
    assert seeded == [3] * 3    # which would have been noticed


@pytest.mark.parametrize("kind", ["cuda", "xpu"])
def test_dropout_on_a_chip_has_the_seed_and_the_chip_goes_on_as_before(kind, monkeypatch):
    chips = [torch.Generator().manual_seed(7 + i) for i in range(3)]
    monkeypatch.setattr(getattr(torch, kind), "default_generators", tuple(chips))
    before = [chip.get_state() for chip in chips]
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), training._seeded(torch.device(kind, 1), 5):
            assert [chip.initial_seed() for chip in chips] == [7, 5, 9] and torch.initial_seed() == 5
            torch.rand(3, generator=chips[1])
            raise KeyboardInterrupt
    assert all(torch.equal(chip.get_state(), state) for chip, state in zip(chips, before, strict=True))
