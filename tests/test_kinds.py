"""benchmarks/kinds.py puts every test word into one kind of each sort, and stores what the model scores on it."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import settings
from speller import WORDS, small_pronouncer

from annotated_decoder.pronunciation.dictionary import report, split_of
from annotated_decoder.trained.model_file import TrainedModel

ROOT = Path(__file__).resolve().parent.parent
ZIPF = {"cab": 4.0, "bed": 6.1, "add": 3.99, "dab": 2.0, "dead": 1.0, "ebb": 0.0}


@pytest.fixture
def kinds(monkeypatch, tmp_path):
    "The script, on a dictionary of six words, and on frequencies and names of this test's own."
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import kinds

    files = {"first:male": "ADD   0.1 0.1 1\n", "first:female": "EBB 0.1 0.1 1\n", "last": "CAB 1 1 1\nADD 1 1 2\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    names = SimpleNamespace(FILES={name: str(tmp_path / name) for name in files})
    monkeypatch.setitem(sys.modules, "names", names)
    ranked = sorted(ZIPF, key=ZIPF.get, reverse=True)
    wordfreq = SimpleNamespace(
        zipf_frequency=lambda word, language: ZIPF[word], word_frequency=lambda word, language: 10 ** (ZIPF[word] - 9),
        top_n_list=lambda language, n: ["unlisted", *ranked][:n],
    )    # fmt: skip
    monkeypatch.setitem(sys.modules, "wordfreq", wordfreq)
    monkeypatch.setattr(kinds, "version", lambda name: "0")
    monkeypatch.setattr(kinds, "split_of", lambda word: "test" if word != "bed" else "training")
    monkeypatch.setattr(kinds, "read_cmudict", lambda: {word: [tuple(said.split())] for word, said in WORDS.items()})
    return kinds


@pytest.fixture
def run(kinds, monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["kinds.py", *map(str, arguments)])
        return kinds.main(), *capsys.readouterr()

    return run


def model(path, kinds, **changes):
    "A model in a file, with its own scores on the test words in its notes."
    trained, dictionary = small_pronouncer(), kinds.read_cmudict()
    found = trained.transcribe([word for word in dictionary if kinds.split_of(word) == "test"])
    trained.notes["test"] = report(found, dictionary) | changes
    trained.save(path)
    return TrainedModel.load(path)


def test_every_word_is_in_one_band_and_in_one_group_of_names(kinds):
    assert kinds.by_frequency(WORDS) == {
        "Zipf 4 and above": ["cab", "bed"], "Zipf 3 to 4": ["add"], "Zipf 2 to 3": ["dab"], "Zipf below 2": ["dead"],
        "not in its list": ["ebb"],
    }    # fmt: skip
    groups = {"a first name": ["add", "ebb"], "a last name": ["cab"], "no name": ["bed", "dab", "dead"]}
    assert kinds.by_name(WORDS) == groups


def test_scores_by_kind_are_stored_beside_the_others(kinds, run, tmp_path):
    path = tmp_path / "m"
    before = model(path, kinds)
    status, out, _ = run("--model", path, "--store")
    after, dictionary = TrainedModel.load(path).notes, kinds.read_cmudict()
    stored, common = after["test"].pop("by_kind"), after.pop("common")
    assert status == 0 and "Zipf 3 to 4" in out and after == before.notes
    assert common == kinds.common(before, dictionary) and "100 commonest, unseen" in out
    assert stored["sources"] == ["wordfreq 0", "names 0"]
    assert [group["stressed"]["words"] for group in stored["frequency"].values()] == [1] * 5
    assert stored["names"]["no name"] == report(before.transcribe(["dab", "dead"]), dictionary)


def test_common_words_count_as_often_as_a_text_has_them(kinds, monkeypatch):
    monkeypatch.setattr(kinds, "COMMONEST", (2, 6))
    dictionary = kinds.read_cmudict()
    said = {word: list(dictionary[word][0]) for word in WORDS} | {"bed": ["B"], "cab": ["B"], "ebb": ["B"]}
    rows = kinds.common(SimpleNamespace(transcribe=lambda words: {w: said[w] for w in words}), dictionary)
    assert rows["2 commonest, training"] == {"words": 1, "wrong": 1, "token_wer": 1.0}    # bed is of the training part
    assert rows["2 commonest, unseen"] == {"words": 1, "wrong": 1, "token_wer": 1.0}
    unseen = {word: 10 ** ZIPF[word] for word in WORDS if word != "bed"}
    assert (rows["6 commonest, unseen"]["words"], rows["6 commonest, unseen"]["wrong"]) == (5, 2)
    wrong = (unseen["cab"] + unseen["ebb"]) / sum(unseen.values())
    assert rows["6 commonest, unseen"]["token_wer"] == pytest.approx(wrong)
    assert "6 commonest, unseen" in kinds.common_table(rows)


def test_without_being_asked_it_stores_nothing(kinds, run, tmp_path):
    model(tmp_path / "m", kinds)
    before = (tmp_path / "m").read_bytes()
    assert run("--model", tmp_path / "m")[0] == 0
    assert (tmp_path / "m").read_bytes() == before


def test_what_cannot_be_stored_is_refused(kinds, run, tmp_path):
    status, _, err = run("--store")
    assert status == 2 and "name it with --model" in err
    small_pronouncer().save(tmp_path / "m")
    status, _, err = run("--model", tmp_path / "m", "--store")
    assert status == 2 and f"evaluate --model {tmp_path / 'm'} --store" in err
    model(tmp_path / "m", kinds, stressless={"words": 5, "wer": 0.123, "per": 0.1})
    status, _, err = run("--model", tmp_path / "m", "--store")
    assert status == 2 and "has the scores of other weights" in err and "0.1230 in its notes" in err


def test_a_missing_list_is_told_with_the_remedy(kinds, run, monkeypatch):
    def missing(name):
        raise kinds.PackageNotFoundError(name)

    monkeypatch.setattr(kinds, "version", missing)
    status, _, err = run()
    assert status == 2 and err.strip() == (
        "kinds.py: the distribution wordfreq is missing; pip install --no-deps -r benchmarks/requirements.txt"
    )


@pytest.mark.skipif(settings.get_current_profile_name() != "many", reason="slow; HYPOTHESIS_PROFILE=many runs it")
@pytest.mark.skipif(not all(map(importlib.util.find_spec, ("wordfreq", "names"))), reason="needs make kinds' lists")
def test_the_stored_scores_by_kind_are_what_the_model_scores(trained, dictionary, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from kinds import scored

    stored = trained.notes["test"]["by_kind"]
    found = scored(trained.transcribe([word for word in dictionary if split_of(word) == "test"]), dictionary)
    assert found["sources"] == stored["sources"]
    for what in ("frequency", "names"):
        assert found[what].keys() == stored[what].keys()
        for name, rates in found[what].items():
            for kind, each in rates.items():
                kept = stored[what][name][kind]
                assert each["words"] == kept["words"]
                assert each["wer"] == pytest.approx(kept["wer"], abs=max(0.002, 3.5 / each["words"]))
