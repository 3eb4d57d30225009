"""The recipe of the shipped model: what it may see, how often, and how sure it becomes."""

import importlib.util
import math
import random
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import few
from speller import WORDS as SPELLED
from torch.testing import assert_close

from annotated_decoder.pronunciation import recipe
from annotated_decoder.pronunciation.dictionary import split_of
from annotated_decoder.pronunciation.recipe import (
    distillation,
    fit_temperature,
    invented,
    new_pronouncer,
    repeats_of,
    set_temperature,
    sure_and_right,
    taught,
    train_pronouncer,
)
from annotated_decoder.pronunciation.words import spell
from annotated_decoder.softmax import cross_entropy
from annotated_decoder.trained.checkpoints import Checkpoints
from annotated_decoder.training import TrainingConfig, batches, collate, logits_of, loss_of

TINY = dict(d_model=8, encoder_layers=1, decoder_layers=2, progress=False)
needs_wordfreq = pytest.mark.skipif(not importlib.util.find_spec("wordfreq"), reason="wordfreq is not installed")


def spelled():
    return {word: [tuple(said.split())] for word, said in SPELLED.items()}


@pytest.fixture
def seldom(monkeypatch):
    "Every word as often as the others."
    monkeypatch.setattr(recipe, "repeats_of", lambda word: 1)


@needs_wordfreq
def test_a_word_stands_the_more_often_the_commoner_it_is():
    assert [repeats_of(word) for word in ("nebula", "qqqq")] == [1, 1]
    assert 1 < repeats_of("decided") < repeats_of("area") < repeats_of("people") == repeats_of("the") == 40


def test_without_the_frequencies_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wordfreq", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "annotated-decoder\[data\]"'):
        repeats_of("the")


@pytest.fixture(scope="module")
def made(dictionary):
    words = [word for word in dictionary if split_of(word) == "training"]
    return words, list(invented(dictionary, words, random.Random(3)))


def test_no_invented_string_is_a_word_or_falls_outside_the_training_part(made, dictionary):
    words, strings = made
    assert len(strings) == len(words) // 50 + len(words) // 20
    assert not [string for string, _ in strings if string in dictionary or split_of(string) != "training"]


def test_invented_strings_are_said_as_their_letters_or_as_their_words(made, dictionary):
    words, strings = made
    known = set(words)
    for string, said in strings[: len(words) // 50]:
        assert not set(string) & set("aeiouy") and said == spell(string.upper())
    for string, said in strings[len(words) // 50 :: 10]:
        cuts = [(string[:i], string[i:]) for i in range(1, len(string)) if {string[:i], string[i:]} <= known]
        demoted = {
            (*(p.replace("1", "2") for p in x), *y) for a, b in cuts for x in dictionary[a] for y in dictionary[b]
        } | {(*x, *(p.replace("1", "2") for p in y)) for a, b in cuts for x in dictionary[a] for y in dictionary[b]}
        assert said in demoted


def test_only_training_words_are_trained_on_each_with_all_its_pronunciations_and_repeats(dictionary, monkeypatch):
    some = dict(list(dictionary.items())[::20])
    seen = []

    def watch(model, examples, config, progress, objective):
        for batch in batches(examples, config.letters_per_batch, torch.Generator().manual_seed(0)):
            seen.extend(zip(batch.source.tolist(), batch.targets.tolist(), strict=True))
        return [0.0]

    monkeypatch.setattr(recipe, "repeats_of", lambda word: 1 + len(word) % 3)
    monkeypatch.setattr(recipe, "train", watch)
    trained = train_pronouncer(some, **TINY)
    pairs = [("".join(trained.source.decode(s)), tuple(trained.target.decode(t))) for s, t in seen]
    training = [word for word in some if split_of(word) == "training"]
    listed = Counter({(word, said): 1 + len(word) % 3 for word in training for said in some[word]})
    known = {*trained.target.symbols}
    beside = [pair for pair in invented(some, training, random.Random(1)) if known.issuperset(pair[1])]
    assert Counter(pairs) == listed + Counter(beside)
    assert {split_of(word) for word, _ in pairs} == {"training"}
    assert trained.notes["training"]["words"] == len(training)
    assert trained.notes["training"]["examples"] == len(pairs)


def test_train_pronouncer_is_made_for_the_dictionarys_symbols(seldom):
    trained = train_pronouncer(spelled(), TrainingConfig(epochs=1), **TINY)
    assert trained.source.symbols[3:] == tuple("abcde")
    assert trained.target.symbols[3:] == ("AE1", "B", "D", "EH1", "K")
    assert (len(trained.model.encoder.layers), len(trained.model.decoder.layers)) == (1, 2)
    assert trained.notes["training"]["steps"] == 1 and trained.notes["training"]["minutes"] > 0
    assert math.isfinite(trained.notes["training"]["last_loss"])


def test_checkpoints_change_nothing_and_are_gone_on_from(tmp_path, seldom):
    config = TrainingConfig(epochs=3)
    plain, kept = (train_pronouncer(spelled(), config, checkpoints=c, **TINY) for c in (None, Checkpoints(tmp_path)))
    assert Checkpoints(tmp_path).steps() == [3]
    again = train_pronouncer(spelled(), config, checkpoints=Checkpoints(tmp_path), **TINY)
    for other in (kept, again):
        for a, b in zip(plain.model.parameters(), other.model.parameters(), strict=True):
            assert torch.equal(a, b)
    assert kept.notes["training"]["minutes"] > 0 and again.notes["training"]["minutes"] is None


def examples_for(trained):
    return [trained.example(word, said[0]) for word, said in spelled().items()]


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_students_objective_is_shared_between_what_is_listed_and_its_teachers(share):
    student, *teachers = (new_pronouncer(spelled(), d_model=16, dropout=0.1, seed=seed) for seed in (1, 2, 3))
    examples, config = examples_for(student), TrainingConfig()
    told = taught(teachers, examples)
    batch = collate(examples)
    found = distillation(told, share)(student.model, batch, config, 0)
    logits = logits_of(student.model, batch, config, 0)
    with torch.no_grad():
        said = torch.stack([t.model(batch.source, batch.inputs, batch.source_mask).softmax(-1) for t in teachers])
    other = -(said.mean(0) * logits.log_softmax(-1)).sum(-1)[batch.target_mask].mean()    # all 8 symbols are kept
    listed = cross_entropy(logits, batch.targets, batch.target_mask, config.smoothing)
    assert_close(listed, loss_of(student.model, batch, config, 0))
    assert_close(found, (1 - share) * listed + share * other, rtol=1e-4, atol=1e-5)


def test_of_many_symbols_the_teachers_highest_are_told_as_a_distribution():
    many = {w: [tuple(f"P{i}" for i in range(j, j + 6))] for j, w in enumerate(("ab", "ba", "aab", "bba"))}
    teacher = new_pronouncer(many, d_model=16, dropout=0.0)
    examples = [teacher.example(word, said[0]) for word, said in many.items()]
    for (source, target), (p, ids) in taught([teacher], examples).items():
        assert p.shape == ids.shape == (len(target) + 1, 8)
        assert_close(p.sum(-1), torch.ones(len(target) + 1))
        with torch.no_grad():
            row = teacher.model(torch.tensor([source]), torch.tensor([[1, *target]]))[0].softmax(-1)
        assert torch.equal(ids, row.topk(8).indices)


def test_of_a_word_that_stands_often_the_student_is_told_what_is_listed():
    student, teacher = (new_pronouncer(spelled(), d_model=16, seed=seed) for seed in (1, 2))
    examples, config = examples_for(student), TrainingConfig(smoothing=0.0)
    told, often = taught([teacher], [*examples, *examples[:2]]), collate(examples[:2])
    assert_close(distillation(told, 1.0)(student.model, often, config, 0), loss_of(student.model, often, config, 0))
    alone = taught([teacher], examples)
    for source, target in examples[2:]:
        for a, b in zip(told[tuple(source), tuple(target)], alone[tuple(source), tuple(target)], strict=True):
            assert_close(a, b)


def test_a_student_learns_from_teachers_of_the_same_symbols_alone(seldom):
    config = TrainingConfig(epochs=2)
    teacher = train_pronouncer(spelled(), config, **TINY)
    alone, led = (train_pronouncer(spelled(), config, teachers=t, **TINY) for t in ((), [teacher]))
    assert led.notes["training"]["teachers"] == [teacher.notes["training"]] and not alone.notes["training"]["teachers"]
    pairs = zip(alone.model.parameters(), led.model.parameters())
    assert any(not torch.equal(a, b) for a, b in pairs)
    other = new_pronouncer({"cat": [("K", "AE1", "T")]}, d_model=8)
    with pytest.raises(ValueError, match="a teacher has other letters or phonemes"):
        train_pronouncer(spelled(), config, teachers=[other], **TINY)


def test_a_teacher_that_does_not_say_how_it_was_trained_is_refused_before_the_training(seldom, monkeypatch):
    monkeypatch.setattr(recipe, "train", lambda *args, **options: pytest.fail("the training has begun"))
    untold = new_pronouncer(spelled(), d_model=8)
    with pytest.raises(ValueError, match="a teacher's notes do not say how it was trained; give a file"):
        train_pronouncer(spelled(), TrainingConfig(epochs=2), teachers=[untold], **TINY)


@few
@given(st.floats(0.3, 3.0))
def test_a_temperature_divides_every_logit(temperature):
    trained = new_pronouncer(spelled(), d_model=16, encoder_layers=1, decoder_layers=1)
    trained.model.eval()
    batch = next(batches([trained.example(w, s[0]) for w, s in spelled().items()], 99, torch.Generator()))
    with torch.no_grad():
        trained.model.projection.bias.normal_(generator=torch.Generator().manual_seed(1))
        before = trained.model(batch.source, batch.inputs, batch.source_mask)
        set_temperature(trained, temperature)
        after = trained.model(batch.source, batch.inputs, batch.source_mask)
    assert_close(after * temperature, before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("epochs, wrong, least", [(150, 6, 1.2), (150, 0, 0.3), (150, 1, None)])
def test_the_temperature_that_is_set_makes_being_right_most_probable(epochs, wrong, least, monkeypatch, seldom):
    trained = train_pronouncer(spelled(), TrainingConfig(epochs=epochs), **TINY | {"d_model": 32})
    listed = {word: [tuple(said)] for word, said in trained.transcribe(spelled()).items()}
    listed |= {word: [("none",)] for word in list(spelled())[:wrong]}
    monkeypatch.setattr(recipe, "split_of", lambda word: "validation")

    def cost():
        answers = sure_and_right(trained, list(listed), listed)
        return -sum(math.log(max(p if right else 1 - p, 1e-9)) for p, right in answers)

    before = cost()
    found = fit_temperature(trained, listed)
    assert trained.notes["temperature"] == found and cost() <= before + 1e-6
    assert found == least or least is None and 0.3 < found < 1.2
    best = cost()
    for other in (found - 0.05, found + 0.05):
        if 0.3 <= other <= 1.2:
            set_temperature(trained, other / found)
            assert cost() >= best - 1e-6
            set_temperature(trained, found / other)
