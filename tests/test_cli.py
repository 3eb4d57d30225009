"""The command line answers every word it can, in order, and names the line of every word it cannot."""

import io
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from speller import small_pronouncer

from annotated_decoder import __main__ as command
from annotated_decoder import __version__, cli
from annotated_decoder.pronunciation import recipe
from annotated_decoder.pronunciation.dictionary import by_length, reliability, report, score, split_of
from annotated_decoder.pronunciation.model import pronounce, pronouncer, steps
from annotated_decoder.pronunciation.phonemes import ipa
from annotated_decoder.pronunciation.recipe import RECIPE, sure_and_right
from annotated_decoder.pronunciation.text import TEXT_FORMATS, rewrite
from annotated_decoder.trained.model_file import TrainedModel
from annotated_decoder.trained.resuming import TrainingRun

SRC = str(Path(command.__file__).parent.parent)


@pytest.fixture
def run(monkeypatch, capsys):
    "Run the command line on these arguments: exit status, standard output and standard error."

    def run(*args, stdin=""):
        monkeypatch.setattr(sys, "argv", ["annotated-decoder", *args])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        status = cli.main()
        return status, *capsys.readouterr()

    return run


def lines(*words):
    return "".join(f"{word}\t{' '.join(pronounce(word))}\n" for word in words)


def test_arguments_are_answered_in_their_order(run):
    words = ["nebulizing", "cat", "a", "decoder", "cat"]
    assert run("pronounce", *words) == (0, lines(*words), "")


def test_standard_input_is_answered_line_by_line(run):
    assert run("pronounce", stdin="decoder\n  cat \nzoo") == (0, lines("decoder", "cat", "zoo"), "")


def test_more_words_than_a_batch_keep_their_order(run):
    words = ["cat", "decoder", "a"] * 100
    status, out, err = run("pronounce", stdin="\n".join(words))
    assert (status, out, err) == (0, "".join([lines("cat", "decoder", "a")] * 100), "")


def test_words_are_answered_as_they_were_given(run):
    words = ["NEBULIZING", "Cat", "Café", "x-ray"]
    assert run("pronounce", *words) == (0, lines(*words), "")
    assert [pronounce(word) for word in ("Café", "NEBULIZING")] == [pronounce(word) for word in ("cafe", "nebulizing")]


@pytest.mark.parametrize("from_stdin", [False, True])
def test_bad_lines_are_named_and_the_others_answered(run, from_stdin):
    words = ["cat", "r2d2", "decoder", "", "b" * 48, "Zoo"]
    status, out, err = run("pronounce", stdin="\n".join(words)) if from_stdin else run("pronounce", *words)
    assert status != 0
    assert out == lines("cat", "decoder", "Zoo")
    complaints = err.splitlines()
    kind = "line" if from_stdin else "word"
    assert [line.split(":")[0] for line in complaints] == [f"{kind} 2", f"{kind} 4", f"{kind} 5"]
    assert "'r2d2'" in complaints[0] and "empty" in complaints[1] and "48 symbols" in complaints[2]


@pytest.mark.parametrize("layer", [0, 1])
def test_steps_are_a_table_before_the_answer(run, layer):
    status, out, err = run("pronounce", "--steps", "--layer", str(layer), "Bead")
    head, *rows, answer = out.splitlines(keepends=True)
    assert (status, err, answer) == (0, "", lines("Bead"))
    assert head.split()[:4] == ["position", "first", "second", "third"] and f"layer {layer}" in head
    for row, step in zip(rows, steps("bead", attention_layer=layer), strict=True):
        position, *candidates, letter, _, column, weight = row.split()
        best = [part for symbol, p in step.best(3) for part in (symbol, f"{p:.3f}")]
        i = step.attention.argmax().item()
        assert (position, candidates) == (str(step.position), best)
        assert (letter, column) == ([*"bead", "</s>"][i], f"{i})")
        assert weight == f"{step.attention[i]:.3f}"


def test_steps_of_a_bad_word_are_refused_too(run):
    status, out, err = run("pronounce", "--steps", "x1", "cat", "x-ray")
    assert status != 0
    assert out.endswith(lines("cat")) and out.count("position") == 1
    assert [line[:13] for line in err.splitlines()] == ["word 1: 'x1' ", "word 3: 'x-ra"]


def test_the_best_come_first_with_their_log_probabilities(run):
    status, out, _ = run("pronounce", "--best", "3", "nebulizing", "read")
    rows = [line.split("\t") for line in out.splitlines()]
    expected = pronouncer().stream(["nebulizing", "read"], beam=5, best=3)
    assert status == 0
    assert rows == [[w, " ".join(a.symbols), f"{a.log_probability:.3f}"] for w, found in expected for a in found]
    assert len(rows) == 6


def test_a_beam_gives_the_best_that_it_finds(run):
    (word, found), = pronouncer().stream(["nebulizing"], beam=4)
    assert run("pronounce", "--beam", "4", "nebulizing")[1] == f"{word}\t{' '.join(found[0].symbols)}\n"


def test_a_listed_word_comes_from_the_dictionary_and_says_so(run, dictionary):
    status, out, _ = run("pronounce", "--dictionary", stdin="read\nchatbot\ncat\n")
    assert status == 0
    assert out.splitlines() == [
        f"read\t{' '.join(dictionary['read'][0])}\tdictionary",
        f"chatbot\t{' '.join(pronounce('chatbot'))}\tnetwork",
        f"cat\t{' '.join(dictionary['cat'][0])}\tdictionary",
    ]
    _, out, _ = run("pronounce", "--dictionary", "--best", "5", "read", "cat")
    expected = [(word, " ".join(said)) for word in ("read", "cat") for said in dictionary[word]]
    assert out.splitlines() == [f"{word}\t{said}\t\tdictionary" for word, said in expected]


def test_a_dictionary_is_asked_for_pieces_in_the_form_that_it_lists(run, dictionary):
    status, out, err = run("pronounce", "--dictionary", "CAT", "Don’t", "cat-DOG", "CSRs", "cat-chatbot")
    cat, dog = (" ".join(dictionary[word][0]) for word in ("cat", "dog"))
    assert (status, err) == (0, "") and out.splitlines() == [
        f"CAT\t{cat}\tdictionary", "Don’t\tD OW1 N T\tdictionary", f"cat-DOG\t{cat} {dog}\tdictionary",
        "CSRs\tS IY1 EH1 S AA1 R Z\tletters", f"cat-chatbot\t{cat} {' '.join(pronounce('chatbot'))}\tnetwork",
    ]    # fmt: skip


@pytest.fixture
def unending(monkeypatch):
    "Answers that have no end, but for those of letters."
    say_words = cli.say_words

    def cut(words, **options):
        for word, found in say_words(words, **options):
            ended = isinstance(found, ValueError) or not any(answer.log_probability for answer in found)
            yield word, found if ended else [answer._replace(finished=False) for answer in found]

    monkeypatch.setattr(cli, "say_words", cut)


def test_an_answer_without_an_end_is_named_and_fails(run, unending):
    status, out, err = run("pronounce", "Cat", "CSR")
    assert (status, out) == (1, "Cat\tK AE1 T\nCSR\tS IY1 EH1 S AA1 R\n")
    assert err.startswith("word 1: 'Cat' is not said to its end") and err.count("\n") == 1
    status, out, err = run("pronounce", "--format", "json", stdin="CSR\ncat\n")
    assert status == 1 and [json.loads(line)["finished"] for line in out.splitlines()] == [True, False]
    assert err.startswith("line 2: 'cat' is not said to its end") and err.count("\n") == 1


def test_a_word_of_a_text_without_an_end_stays_as_it_was_and_is_named(run, unending):
    status, out, err = run("pronounce", "--text", stdin="A CSR,\nand cats!")
    assert (status, out) == (1, "A {S IY1 EH1 S AA1 R},\nand cats!")
    assert [line.split(" is")[0] for line in err.splitlines()] == ["line 1: 'A'", "line 2: 'and'", "line 2: 'cats'"]
    status, out, _ = run("pronounce", "--text", "--format", "json", "CSR", "cats")
    assert status == 1 and [json.loads(line)["finished"] for line in out.splitlines()] == [True, False]


TEXT = "“Cats”, 3.14\n— the U.S. & x-ray!\n"


@pytest.mark.parametrize("format", TEXT_FORMATS)
def test_a_text_is_said_in_every_format_and_what_could_not_be_is_named(run, format):
    status, out, err = run("pronounce", "--text", "--format", format, stdin=TEXT)
    assert (status, out) == (1, rewrite(TEXT, format))
    assert err.startswith("line 1: '3.14' has") and err.count("\n") == 1


def test_a_text_may_come_as_arguments_and_from_the_dictionary(run, dictionary):
    cats, dogs = (" ".join(dictionary[word][0]) for word in ("cats", "dogs"))
    assert run("pronounce", "--text", "Cats,", "dogs!") == (0, rewrite("Cats, dogs!\n"), "")
    assert run("pronounce", "--text", "--dictionary", "Cats, dogs!") == (0, f"{{{cats}}}, {{{dogs}}}!\n", "")
    _, out, _ = run("pronounce", "--text", "--dictionary", "--format", "json", "--best", "2", "read chatbot UK")
    told = [json.loads(line) for line in out.splitlines()]
    assert [(word["word"], word["start"], word["end"], word["origin"]) for word in told] == [
        ("read", 0, 4, "dictionary"), ("chatbot", 5, 12, "network"), ("UK", 13, 15, "letters"),
    ]    # fmt: skip
    assert [len(word["pronunciations"]) for word in told] == [2, 2, 1]


def test_ipa_and_json_say_the_same(run):
    _, out, _ = run("pronounce", "--format", "ipa", "nebulizing", "cat")
    assert out == "".join(f"{word}\t{ipa(pronounce(word))}\n" for word in ("nebulizing", "cat"))
    _, out, _ = run("pronounce", "--format", "json", "--dictionary", "--best", "2", "cat", "chatbot")
    cat, chatbot = map(json.loads, out.splitlines())
    assert cat == {
        "word": "cat", "origin": "dictionary", "finished": True,
        "pronunciations": [{"arpabet": "K AE1 T", "ipa": "kæt", "log_probability": None}],
    }    # fmt: skip
    assert chatbot["origin"] == "network" and len(chatbot["pronunciations"]) == 2
    for form in chatbot["pronunciations"]:
        assert form["ipa"] == ipa(form["arpabet"].split()) and form["log_probability"] < 0


REFUSED = {    # the arguments, the one line on standard error
    "a layer too high": ("pronounce --steps --layer 3 cat", "--layer is 3; the decoder has layers 0 to 2"),
    "a layer below 0": ("pronounce --steps --layer -1 cat", "--layer is -1; the decoder has layers 0 to 2"),
    "a layer and no steps": ("pronounce --layer 0 cat", "--layer says what --steps shows; give both, or neither"),
    "scores and no model": ("evaluate --store", "--store writes into a model's file; name it with --model"),
    "no name of a model": ("evaluate --model=", "No such file"),
    "a directory to write": ("train --out .", "'.' is there and is no file; give the name of a file"),
    "a link to itself": ("train --out loop", "'loop' is there and is no file; give the name of a file"),
    "steps and more": ("pronounce --steps --best 2 cat", "--steps shows greedy decoding; leave out --beam, --best"),
    "steps as JSON": ("pronounce --steps --format json cat", "--steps shows greedy decoding"),
    "steps of a text": ("pronounce --text --steps cat", "--steps shows words one by one, and --text reads a text"),
    "a layer of a text": ("pronounce --text --layer 1 cat", "--layer says what --steps shows; give both, or neither"),
    "a list as SSML": ("pronounce --format ssml cat", "--format ssml writes a text; give --text with it"),
    "a list for an engine": ("pronounce --format espeak cat", "--format espeak writes a text; give --text with it"),
    "several in one place": ("pronounce --text --best 2 cat", "--best gives several answers, and a text has room"),
    "no beam": ("pronounce --beam 0 cat", "--beam is 0; give a number from 1 to 100"),
    "none wanted": ("pronounce --best 0 cat", "--best is 0; give a number from 1 to 100"),
    "too many": ("pronounce --best 101 cat", "--best is 101; give a number from 1 to 100"),
    "more than the beam": ("pronounce --best 3 --beam 2 cat", "--best is 3 and --beam 2; a beam finds as many"),
    "scores of a beam": ("evaluate --model m --store --beam 2", "--store keeps the scores of greedy decoding"),
    "no steps between": ("train --out m --every 0", "--every is 0; give a number of at least 1"),
    "no epochs": ("train --out m --epochs 0", "epochs is 0; it must be a whole number of at least 1"),
}


@pytest.mark.parametrize("arguments, why", REFUSED.values(), ids=REFUSED)
def test_a_request_that_cannot_be_met_is_one_line_before_any_work(run, monkeypatch, tmp_path, arguments, why):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.setattr(cli, "read_cmudict", lambda: {})
    for module, name in ((recipe, "train_pronouncer"), (cli, "split_of"), (cli, "say_words")):
        monkeypatch.setattr(module, name, lambda *args, **options: pytest.fail("the work has begun"))
    status, out, err = run(*arguments.split())
    assert (status, out) == (2, "")
    assert err.startswith("annotated-decoder: ") and why in err and err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["loop"]


def test_a_missing_model_is_one_line_and_no_traceback(run, tmp_path):
    status, out, err = run("evaluate", "--model", str(tmp_path / "none.safetensors"))
    assert (status, out) == (2, "")
    assert err.startswith("annotated-decoder: ") and "none.safetensors" in err and err.count("\n") == 1


def test_without_a_command_the_usage_is_shown(run, capsys):
    with pytest.raises(SystemExit) as error:
        run()
    assert error.value.code == 2
    assert "usage: annotated-decoder" in capsys.readouterr().err


def test_the_version_is_the_packages(run, capsys):
    with pytest.raises(SystemExit) as error:
        run("--version")
    assert error.value.code == 0
    assert capsys.readouterr().out.strip() == __version__


TINY = dict(d_model=8, encoder_layers=1, decoder_layers=1, progress=False)


@pytest.mark.parametrize("number, ends_with", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_training_that_is_stopped_says_how_to_go_on_and_does(
    run, monkeypatch, dictionary, tmp_path, interruptible, number, ends_with
):    # fmt: skip
    some, made = dict(list(dictionary.items())[:400]), recipe.train_pronouncer
    monkeypatch.setattr(cli, "read_cmudict", lambda: some)
    monkeypatch.setattr(recipe, "train_pronouncer", lambda *args, **options: made(*args, **options, **TINY))
    step, seen = TrainingRun.take_step, []

    def take_step(self, *arguments):
        seen.append(len(self.losses))
        if len(seen) == 2:
            signal.raise_signal(number)
        return step(self, *arguments)

    monkeypatch.setattr(TrainingRun, "take_step", take_step)
    command = ("train", "--out", str(tmp_path / "m"), "--epochs", "2", "--every", "50")
    status, out, err = run(*command)
    assert (status, out) == (ends_with, "") and "saved after step 2; give the same command to go on" in err
    status, out, err = run(*command)
    assert status == 0 and "the newest after step 2" in err and seen == list(range(len(seen)))
    assert run("train", "--out", str(tmp_path / "n"), "--epochs", "2")[0] == 0
    a, b = (TrainedModel.load(tmp_path / name).model.state_dict() for name in "mn")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "n"]


def test_train_writes_a_model_and_evaluate_stores_its_scores(run, monkeypatch, dictionary, tmp_path):
    some, path = dict(list(dictionary.items())[:400]), tmp_path / "small.safetensors"
    some |= {f"{word}'s": [(*said[0], "Z")] for word, said in some.items() if split_of(word) == "test"}
    monkeypatch.setattr(cli, "read_cmudict", lambda: some)
    made = recipe.train_pronouncer
    monkeypatch.setattr(recipe, "train_pronouncer", lambda *args, **options: made(*args, **options, **TINY))
    status, out, _ = run("train", "--out", str(path), "--epochs", "1", "--seed", "3")
    before = TrainedModel.load(path)
    assert status == 0 and str(path) in out and [p.name for p in tmp_path.iterdir()] == [path.name]
    assert before.notes["training"]["epochs"] == 1 and before.notes["training"]["seed"] == 3

    status, _, _ = run("evaluate", "--model", str(path), "--store")
    after = TrainedModel.load(path)
    said = before.transcribe([word for word in some if split_of(word) == "test"])
    found, stored = {word: heard for word, heard in said.items() if "'" not in word}, after.notes["test"]
    assert len(found) < len(said) and stored["with_apostrophes"] == report(said, some)
    words = list(found)
    assert status == 0
    assert after.notes["training"] == before.notes["training"]
    assert {kind: stored[kind] for kind in ("stressless", "stressed")} == report(found, some)
    assert stored["sample"] == score({word: found[word] for word in words[::20]}, some)
    assert stored["by_length"] == by_length(found, some) and len(stored["by_length"]) > 2
    assert stored["reliability"]["after"] == reliability(sure_and_right(before, words, some))
    assert set(stored["reliability"]) == {"after", "before"} if before.notes["temperature"] != 1 else {"after"}
    weights = zip(before.model.parameters(), after.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in weights)


@pytest.mark.parametrize("options, changes", [((), {}), (("--float32", "--seed", "7"), {"bfloat16": False, "seed": 7})])
def test_train_is_the_recipe_but_for_what_is_asked(run, monkeypatch, tmp_path, options, changes):
    given = []

    def train_pronouncer(dictionary, config, teachers, checkpoints, device, together):
        assert together is None                                      # there is no torchrun
        given.append((config, checkpoints.every, [teacher.notes for teacher in teachers], device.type))
        return small_pronouncer()

    monkeypatch.setattr(cli, "read_cmudict", lambda: {})
    monkeypatch.setattr(recipe, "train_pronouncer", train_pronouncer)
    small_pronouncer().save(tmp_path / "teacher")
    taught = ("--teachers", str(tmp_path / "teacher"), str(tmp_path / "teacher")) if options else ()
    assert run("train", "--out", str(tmp_path / "m"), *options, *taught)[0] == 0
    assert given == [(replace(RECIPE, **changes), 100, [small_pronouncer().notes] * (2 if taught else 0), "cpu")]
    assert TrainedModel.load(tmp_path / "m").notes["temperature"] == 1.0    # no word to fit one to
    assert RECIPE.optimizer == "muon" and RECIPE.bfloat16 is True


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


TARGETS = {    # the arguments, what is told
    "the data": ("--pairs text --out text", "--out is text, as another file of this command is; name another"),
    "the data by a link": ("--pairs text --out link", "--out is link, as another file of this command is"),
    "a picture over the data": ("--pairs text --out m --curve ./text", "--curve is ./text, as another file"),
    "a picture over the model": ("--pairs text --out m --curve m", "--curve is m, as another file"),
    "a teacher": ("--out plain --teachers plain", "--out is plain, as another file of this command is"),
    "another's file": ("--pairs text --out notes", "notes, which is there and is no model file of this book; name"),
    "a folder of data": ("--pairs . --out m", "--pairs is ., which is a folder; name a file"),
}


@pytest.mark.parametrize("arguments, why", TARGETS.values(), ids=TARGETS)
def test_a_training_replaces_no_file_but_a_model(run, monkeypatch, tmp_path, arguments, why):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("ab\tba\n")
    (tmp_path / "link").symlink_to("text")
    (tmp_path / "notes").write_text("mine")
    small_pronouncer().save("plain")
    before = contents(tmp_path)
    status, out, err = run("train", *arguments.split())
    assert (status, out, err.count("\n")) == (2, "", 1) and why in err
    assert contents(tmp_path) == before


def test_a_model_that_is_there_may_be_replaced(run, monkeypatch, tmp_path):
    small_pronouncer(seed=1).save(tmp_path / "m")
    before = (tmp_path / "m").read_bytes()
    monkeypatch.setattr(cli, "read_cmudict", lambda: {})
    monkeypatch.setattr(recipe, "train_pronouncer", lambda *args, **options: small_pronouncer(seed=2))
    assert run("train", "--out", str(tmp_path / "m"))[0] == 0 and (tmp_path / "m").read_bytes() != before


def test_a_model_file_that_is_not_there_is_not_looked_for_on_the_hub(run):
    status, out, err = run("translate", "--model", "none.safetensors", stdin="cat\n")
    assert (status, out) == (2, "")
    assert err == "annotated-decoder: there is no file or folder none.safetensors; look at its name\n"


HELP = {    # of a command: what its options say
    "train": [
        "--every STEPS steps from checkpoint to checkpoint; 100 unless given", "is named; 600 unless given",
        "example: annotated-decoder train --pairs past.tsv", "the recipe's, unless given: --epochs N",
    ],
    "evaluate": ["the shipped model unless given", "of the words or pairs; test unless given"],
    "translate": ["a model file of your own, a folder, or an id of the hub", "for checkpoints of others: --stream"],
}    # fmt: skip


@pytest.mark.parametrize("command", HELP)
def test_help_says_the_defaults_and_whose_an_option_is(run, monkeypatch, capsys, command):
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit):
        run(command, "--help")
    told = " ".join(capsys.readouterr().out.split())
    assert all(each in told for each in HELP[command])


@pytest.mark.parametrize("command", [
    ("pronounce", "cat"), ("train", "--out", "m"), ("evaluate",), ("translate", "--model", "m"),
])    # fmt: skip
def test_a_device_that_is_not_there_is_refused_by_every_command(run, command):
    status, out, err = run(*command, "--device", "abacus")
    assert (status, out) == (2, "") and "there is no device 'abacus' here" in err and "cpu is always there" in err


def test_steps_are_not_shown_from_another_device(run):
    status, _, err = run("pronounce", "--steps", "cat", "--device", "cpu")
    assert status == 2 and "leave out --device, or --steps" in err
    assert run("pronounce", "cat", "--device", "cpu") == (0, "cat\tK AE1 T\n", "")


def test_a_model_that_cannot_be_written_is_refused_before_it_is_scored(run, monkeypatch, tmp_path):
    small_pronouncer().save(tmp_path / "m")
    before = (tmp_path / "m").read_bytes()
    monkeypatch.setattr(cli, "read_cmudict", lambda: {"cab": [("K", "AE1", "B")]})
    monkeypatch.setattr(TrainedModel, "transcribe", lambda *args, **options: pytest.fail("the scoring has begun"))
    making = "annotated_decoder.trained.whole_files.write_new"
    monkeypatch.setattr(making, lambda _: (_ for _ in ()).throw(OSError(30, "Read-only file system")))
    status, out, err = run("evaluate", "--model", str(tmp_path / "m"), "--store")
    assert (status, out) == (2, "") and err.count("\n") == 1
    assert f"{tmp_path / 'm'} cannot be written" in err and "Read-only file system" in err
    assert (tmp_path / "m").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


PRESSED = """
import signal, sys
from annotated_decoder import __main__ as command

_, imported, listens = sys.argv

class Press:
    "Ctrl-C as soon as this module is imported."
    def find_spec(self, name, path=None, target=None):
        if name == imported:
            signal.raise_signal(signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler if listens == "yes" else signal.SIG_IGN)
sys.meta_path.insert(0, Press())
sys.argv = ["annotated-decoder", "--version"]
sys.exit(command.main())
"""


@pytest.mark.parametrize(
    "imported, listens, status", [("numpy", "yes", -signal.SIGINT), ("numpy", "no", 0), ("nothing", "yes", 0)]
)
def test_ctrl_c_during_the_imports_ends_the_command_without_a_traceback(imported, listens, status):
    command = [sys.executable, "-c", PRESSED, imported, listens]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": SRC})
    assert (done.returncode, done.stderr) == (status, "")
    assert done.stdout == ("" if status else f"{__version__}\n")


def test_after_the_imports_ctrl_c_is_the_commands_own(monkeypatch, interruptible):
    monkeypatch.setattr(sys, "argv", ["annotated-decoder", "pronounce", "cat"])
    monkeypatch.setattr(cli, "_check_options", lambda args: signal.raise_signal(signal.SIGINT))
    assert command.main() == 130


def test_evaluate_stores_nothing_unless_asked(run, monkeypatch, dictionary):
    some = dict(list(dictionary.items())[:400])
    monkeypatch.setattr(cli, "read_cmudict", lambda: some)
    before = cli.PRONOUNCER.read_bytes()
    status, out, _ = run("evaluate", "--part", "validation")
    assert status == 0 and '"stressless"' in out
    assert cli.PRONOUNCER.read_bytes() == before
