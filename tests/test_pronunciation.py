"""The shipped model pronounces from the network alone, shows its steps, and scores what its notes say."""

import importlib.util
from itertools import product
from string import ascii_lowercase

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import few
from torch.testing import assert_close

from annotated_decoder.pronunciation import saying
from annotated_decoder.pronunciation.dictionary import by_length, report, score, split_of
from annotated_decoder.pronunciation.model import (
    PRONOUNCER,
    Pronouncer,
    pronounce,
    steps,
)
from annotated_decoder.pronunciation.recipe import new_pronouncer
from annotated_decoder.pronunciation.saying import origin_of
from annotated_decoder.pronunciation.words import read_word, spell
from annotated_decoder.trained.batches import Transcription
from annotated_decoder.trained.in_numpy import NumpyModel
from annotated_decoder.trained.model_file import TrainedModel

WORDS = ["cat", "read", "nebulizing", "annotated", "decoder", "rhythm", "xylophone", "queue", "a", "zzz", "strengths"]


@few
@given(st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=20))
def test_every_word_gets_known_phonemes(trained, word):
    found = pronounce(word)
    assert set(found) <= set(trained.target.symbols[3:])
    assert len(found) <= trained.model.decoder.config.max_len


@pytest.mark.parametrize("word", ["NEBULIZING", "Nebulizing", "nEbUlIzInG"])
def test_case_is_folded(word):
    assert pronounce(word) == pronounce("nebulizing")


@pytest.mark.parametrize(
    "word, why",
    [
        ("", "is empty"),
        ("слово", r"has \['в', 'л', 'о', 'с'\]"),
        ("two words", r"has \[' '\]"),
        ("3d!", r"has \['!', '3'\]"),
        ("cat\n", r"has \['\\n'\]"),
        ("b" * 48, "has 48 symbols; the model has positions for 47"),
        ("é" * 10**6, "has 1000000 characters; a word has at most 100"),
    ],
)
def test_a_bad_word_is_refused_by_name_and_at_once(word, why):
    for refuse in (pronounce, steps):
        with pytest.raises(ValueError, match=why) as error:
            refuse(word)
        assert str(error.value)[1:].startswith(repr(word)[1:-1] if len(word) <= 47 else word[:47])


@pytest.mark.parametrize("word", ["x-ray", "well-known", "USA", "DJs"])
def test_steps_are_of_one_word_that_the_network_says(word):
    with pytest.raises(ValueError, match=f"^{word!r} is said in pieces or letters, .*steps shows one word"):
        steps(word)
    assert [step.phoneme for step in steps("Café")] == [step.phoneme for step in steps("cafe")]


def test_the_longest_word_is_served():
    assert list(steps("b" * 47))


def test_steps_agree_with_pronounce_and_with_transcribe(trained):
    together = trained.transcribe(WORDS)
    for word in WORDS:
        found = list(steps(word))
        said = [step.phoneme for step in found if step.phoneme != "</s>"]
        assert said == pronounce(word) == together[word]
        assert [step.position for step in found] == list(range(len(found)))
        assert "</s>" not in [step.phoneme for step in found[:-1]]


@pytest.mark.parametrize("layer", range(3))
def test_attention_is_a_share_for_every_letter_and_the_end(layer):
    for step in steps("nebulizing", attention_layer=layer):
        assert step.attention.shape == (len("nebulizing") + 1,)
        assert torch.all(step.attention >= 0)
        assert step.attention.sum().item() == pytest.approx(1, abs=1e-5)


def test_layers_look_at_different_places_and_change_nothing():
    first, second = (list(steps("nebulizing", attention_layer=layer)) for layer in (0, 1))
    assert not torch.allclose(first[2].attention, second[2].attention)
    for watched, plain in zip(first, steps("nebulizing"), strict=True):
        assert plain.attention is None
        assert torch.equal(watched.logits, plain.logits)


@pytest.mark.parametrize("layer", [-1, 3])
def test_an_unknown_layer_is_refused(layer):
    with pytest.raises(ValueError, match=f"attention_layer is {layer}; the decoder has layers 0 to 2"):
        steps("cat", attention_layer=layer)


def test_the_best_candidates_are_ranked_and_the_first_is_chosen(trained):
    for step in steps("decoder"):
        names, shares = zip(*step.best(4), strict=True)
        assert names[0] == step.phoneme
        assert list(shares) == sorted(step.probabilities.tolist(), reverse=True)[:4]
        assert [trained.target.symbols[i] for i in step.logits.topk(4).indices] == list(names)
        assert_close(step.probabilities.sum(), torch.tensor(1.0))


def test_loading_draws_no_random_number(trained):
    before = torch.get_rng_state()
    again = TrainedModel.load(PRONOUNCER)
    assert torch.equal(torch.get_rng_state(), before)
    state = again.model.state_dict()
    assert all(torch.equal(state[k], v) for k, v in trained.model.state_dict().items())


def test_the_model_is_a_small_file():
    assert PRONOUNCER.stat().st_size <= 8_000_000


def test_the_notes_tell_of_the_whole_training_and_test_parts(trained, dictionary):
    sizes = {part: sum(split_of(word) == part for word in dictionary) for part in ("training", "test")}
    letters = sum(split_of(word) == "test" for word in dictionary if word.isalpha())
    stored = trained.notes["test"]
    assert trained.notes["training"]["words"] == sizes["training"]
    for rates, n in ((stored, letters), (stored["with_apostrophes"], sizes["test"])):
        assert rates["stressless"]["words"] == rates["stressed"]["words"] == n
    assert stored["sample"]["words"] == -(-letters // 20)


def test_the_stored_sample_score_is_what_the_model_scores(trained, dictionary):
    words = [word for word in dictionary if split_of(word) == "test" and word.isalpha()][::20]
    found, stored = score(trained.transcribe(words), dictionary), trained.notes["test"]["sample"]
    assert found["words"] == stored["words"]
    assert found["wer"] == pytest.approx(stored["wer"], abs=3.5 / len(words))    # another processor may tip a tie
    assert found["per"] == pytest.approx(stored["per"], abs=0.002)


needs_wordfreq = pytest.mark.skipif(not importlib.util.find_spec("wordfreq"), reason="wordfreq is not installed")
slow = pytest.mark.skipif(
    settings.get_current_profile_name() != "many", reason="slow; HYPOTHESIS_PROFILE=many runs it"
)


@pytest.fixture(scope="session")
def said(trained, dictionary):
    return trained.transcribe([word for word in dictionary if split_of(word) == "test" and word.isalpha()])


def assert_alike(found, stored):
    "The same rates and intervals, but for the few words in a thousand that another processor's rounding may tip."
    assert found.keys() == stored.keys() == {"stressless", "stressed"}
    for kind, rates in found.items():
        words = rates["words"]
        assert rates.keys() == stored[kind].keys() and words == stored[kind]["words"]
        assert rates["wer"] == pytest.approx(stored[kind]["wer"], abs=max(0.002, 3.5 / words))
        assert rates["per"] == pytest.approx(stored[kind]["per"], abs=max(0.0005, 3.5 / words))
        for name in ("wer_interval", "per_interval"):
            assert rates[name] == pytest.approx(stored[kind][name], abs=max(0.004, 7 / words))
            assert rates[name][0] <= rates[name.removesuffix("_interval")] <= rates[name][1]


@slow
def test_the_stored_scores_are_what_the_model_scores_on_all_test_words(said, trained, dictionary):
    assert len(said) == 10_677
    stored = trained.notes["test"]
    assert_alike(report(said, dictionary), {kind: stored[kind] for kind in ("stressless", "stressed")})


@slow
def test_the_stored_scores_by_length_are_what_the_model_scores(said, trained, dictionary):
    found, stored = by_length(said, dictionary), trained.notes["test"]["by_length"]
    assert found.keys() == stored.keys()
    for name, rates in found.items():
        assert_alike(rates, stored[name])


@pytest.mark.parametrize("kind", ["stressless", "stressed"])
def test_stored_groups_add_up_to_the_whole(kind, trained):
    test = trained.notes["test"]
    groups = [group[kind] for group in test["by_length"].values()]
    assert min(group["words"] for group in groups) > 500
    assert sum(group["words"] for group in groups) == (n := test[kind]["words"])
    assert sum(group["words"] * group["wer"] for group in groups) == pytest.approx(n * test[kind]["wer"])


def test_the_sample_stands_for_the_whole_test_part(trained):
    test = trained.notes["test"]
    assert test["sample"]["wer"] == pytest.approx(test["stressless"]["wer"], abs=0.07)
    assert test["sample"]["per"] == pytest.approx(test["stressless"]["per"], abs=0.03)
    assert test["stressless"]["wer"] <= test["stressed"]["wer"]


def unfinished(trained, words):
    return [word for word, found in trained.stream(words) if not found[0].finished]


RUNAWAYS = ["csr", "electroencephalograph", "ffq", "khk", "ksn", "nfq"]
SHORT = ["".join(letters) for n in (1, 2, 3) for letters in product(ascii_lowercase, repeat=n)]


def test_short_strings_and_those_that_once_ran_away_come_to_an_end(trained):
    assert not unfinished(trained, [*RUNAWAYS, *SHORT[::29]])


LONG = ["neuropsychopharmacology", "antidisestablishmentarianism", "tetrachloroethylene", "psychoneuroimmunology"]


def test_an_end_in_the_middle_of_a_long_word_is_marked_by_either_model(trained, dictionary, monkeypatch):
    listed = [word for word in dictionary if len(word) > 18]
    assert len(listed) == 15 and unfinished(trained, [*LONG, *listed]) == LONG
    told = [word for word, (found, *_) in saying.say_words([*LONG, *listed], beam=2, best=2) if not found.finished]
    assert told == LONG
    with pytest.warns(UserWarning, match="or is not sure"):
        assert pronounce(LONG[0])[-3:] == ["M", "AH0", "K"]
    monkeypatch.setattr(saying, "_MANY", 2)
    assert [word for word, (found,) in saying.say_words([*LONG, "cat"]) if not found.finished] == LONG


@slow
def test_of_all_strings_of_three_letters_and_all_listed_words_two_run_away(trained, dictionary):
    assert len(SHORT) == 18_278
    assert set(unfinished(trained, SHORT + list(dictionary))) <= {"www", "wwr"}    # the letter of seven phonemes


@needs_wordfreq
def test_of_the_commonest_words_that_were_trained_on_at_most_two_are_wrong(trained, dictionary):
    from wordfreq import top_n_list

    commonest = [word for word in top_n_list("en", 2_000) if word in dictionary][:1_000]
    learned = [word for word in commonest if split_of(word) == "training"]
    found = trained.transcribe(learned)
    assert len(learned) > 850 and sum(tuple(found[word]) not in dictionary[word] for word in learned) <= 2


# Words as people write them, said by a tiny model of chance that knows the apostrophe


LISTED = {"don't": [("D", "OW1", "N", "T")], "bed": [("B", "EH1", "D"), ("B", "AH0", "D")]}


@pytest.fixture(scope="module")
def tiny():
    made = new_pronouncer(LISTED | {"abcfghijklmnpqrsuvwxyz": [("K",)]}, d_model=8, max_len=12, seed=3)
    return Pronouncer(made.model.eval(), made.source, made.target, {})


def assert_same(found, expected):
    assert [(t.symbols, t.finished) for t in found] == [(t.symbols, t.finished) for t in expected]
    for a, b in zip(found, expected):
        assert a.log_probability == pytest.approx(b.log_probability, abs=1e-4)


def plainly(model, words, **options):
    "What the same model says of symbols, as one that knows nothing of words."
    return dict(TrainedModel.stream(model, words, **options))


@pytest.mark.parametrize("word", ["don't", "Don’t", "DON'T", "bed", "Béd", "BED"])
def test_a_word_is_asked_for_in_the_form_that_the_network_knows(tiny, word):
    ((given_back, found),) = tiny.stream([word], beam=3, best=3)
    (piece,) = read_word(word)
    assert given_back == word and set(piece) <= set("don'tbed")
    assert_same(found, plainly(tiny, [piece], beam=3, best=3)[piece])
    assert tiny.transcribe([word]) == {word: list(plainly(tiny, [piece])[piece][0].symbols)}


@pytest.mark.parametrize("best", [1, 2, 4])
def test_pieces_are_joined_by_the_product_of_their_probabilities(tiny, best):
    said = plainly(tiny, ["don't", "bed"], beam=4, best=best)
    pairs = [
        Transcription(a.symbols + spell("X") + b.symbols, a.log_probability + b.log_probability,
                      a.finished and b.finished)
        for a in said["don't"] for b in said["bed"]
    ]    # fmt: skip
    ((_, found),) = tiny.stream(["Don’t-x-bed"], beam=4, best=best)
    assert len(found) == best
    assert_same(found, sorted(pairs, key=lambda pair: -pair.log_probability)[:best])


def test_letters_are_never_asked_of_the_network(tiny, monkeypatch):
    monkeypatch.setattr("annotated_decoder.trained.model_file.decoded", lambda *args: pytest.fail("it is asked"))
    found = dict(tiny.stream(["CSRs", "U.S.", "DJ’s-TV"]))
    expected = {"CSRs": spell("CSRs"), "U.S.": spell("US"), "DJ’s-TV": spell("DJ's") + spell("TV")}
    assert found == {word: [Transcription(said, 0.0)] for word, said in expected.items()}


def test_a_refused_word_stands_in_its_place_and_all_others_are_answered(tiny):
    words = ["bed", "r2d2", "Béd", "", "bed-слово", "CSR", "b" * 40, "bed-" + "d" * 13, "don't"] * 3
    told = list(tiny.stream(words, read_ahead=4, batch_size=2))
    assert [word for word, _ in told] == words
    said = {word for word, found in told if not isinstance(found, ValueError)}
    assert said == {"bed", "Béd", "CSR", "don't"}
    assert {str(found) for word, found in told if word == "bed-" + "d" * 13} == {
        f"in 'bed-{'d' * 13}', 'ddddddddddd'… has 13 symbols; the model has positions for 11"
    }
    with pytest.raises(ValueError, match="'r2d2' has"):
        tiny.transcribe(words)


def test_words_that_only_their_source_can_refuse_come_after_all_answers(tiny):
    def words():
        yield from ("bed", "CSR")
        raise OSError("the source is gone")

    told = tiny.stream(words())
    assert [next(told)[0], next(told)[0]] == ["bed", "CSR"]
    with pytest.raises(OSError, match="the source is gone"):
        next(told)


def test_a_dictionary_answers_the_pieces_that_it_lists(tiny):
    words = ["Don’t", "BED", "bed-dad", "bed-CSR", "dad", "CSR"]
    told = dict(tiny.stream(words, beam=2, best=2, dictionary=LISTED))
    assert [t.symbols for t in told["Don’t"]] == LISTED["don't"]
    assert told["BED"] == [Transcription(said, 0.0) for said in LISTED["bed"]]
    assert told["bed-CSR"] == [Transcription(said + spell("CSR"), 0.0) for said in LISTED["bed"]]
    dad = plainly(tiny, ["dad"], beam=2, best=2)["dad"]
    assert_same(told["dad"], dad)
    assert_same(told["bed-dad"], [dad[0]._replace(symbols=said + dad[0].symbols) for said in LISTED["bed"]])
    origins = "dictionary dictionary network dictionary network letters".split()
    assert [origin_of(word, LISTED) for word in words] == origins


@pytest.mark.parametrize("options", [dict(beam=1, best=2), dict(best=0), dict(batch_size=0), dict(read_ahead=0)])
def test_numbers_that_cannot_be_are_refused_before_a_word_is_read(tiny, options):
    with pytest.raises(ValueError, match="best"):
        tiny.stream(iter(lambda: pytest.fail("a word is read"), None), **options)
    with pytest.raises(ValueError, match="'bed' is one string; give a list of words"):
        tiny.stream("bed")


@pytest.fixture
def endless(tiny, monkeypatch, tmp_path):
    "The shipped model's place taken by one that never ends."
    made = new_pronouncer(LISTED, d_model=8, max_len=12)
    with torch.no_grad():
        made.model.projection.bias[:3] = -6e4
    model = Pronouncer(made.model.eval(), made.source, made.target, {})
    model.save(tmp_path / "model")
    shipped = NumpyModel(tmp_path / "model")
    monkeypatch.setattr(saying, "speaker", lambda: shipped)
    return model


def test_an_answer_without_an_end_is_marked_and_warned_of(endless):
    ((_, (found,)),) = endless.stream(["Bed"])
    assert found.finished is False and len(found.symbols) >= 10
    ((_, (joined,)),) = endless.stream(["bed-CSR"])
    assert joined == found._replace(symbols=found.symbols + spell("CSR"))
    with pytest.warns(UserWarning, match="^'Bed' is not said to its end"):
        assert tuple(pronounce("Bed")) == found.symbols


def test_an_answer_with_an_end_warns_of_nothing(recwarn):
    assert pronounce("Café-CSR") == pronounce("cafe") + list(spell("CSR"))
    assert not recwarn.list


def test_the_shipped_model_reads_words_as_people_write_them(trained):
    assert type(trained) is Pronouncer
    words = ["Hello", "CAFÉ", "x-ray", "USA", "r2d2", "chatbot"]
    told = dict(trained.stream(words))
    assert [word for word in told if isinstance(told[word], ValueError)] == ["r2d2"]
    assert [list(told[word][0].symbols) for word in words if word != "r2d2"] == [
        pronounce("hello"), pronounce("cafe"), list(spell("X")) + pronounce("ray"), list(spell("USA")),
        pronounce("chatbot"),
    ]    # fmt: skip
