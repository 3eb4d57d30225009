"""Data of the reader's own: what a file may hold, what is held out, and the whole way from two columns to a model."""

import io
import json
import os
import sys
from dataclasses import replace

import pytest
import torch
from group import Group
from hypothesis import given
from hypothesis import strategies as st
from speller import small_pronouncer

from annotated_decoder import cli
from annotated_decoder.pronunciation import recipe
from annotated_decoder.trained import own_pairs
from annotated_decoder.trained.batches import Transcription
from annotated_decoder.trained.checkpoints import Checkpoints
from annotated_decoder.trained.edits import nearest_edits
from annotated_decoder.trained.hub import save_folder
from annotated_decoder.trained.model_file import TrainedModel
from annotated_decoder.trained.own_pairs import (
    PARTS,
    Pairs,
    answer_lines,
    cut,
    examples_of,
    held_out_loss,
    join,
    model_for,
    part_for,
    read_pairs,
    recipe_for,
    save_curve,
    score_pairs,
    train_pairs,
)
from annotated_decoder.trained.resuming import TrainingRun
from annotated_decoder.training import TrainingConfig, collate, loss_of

TINY = dict(d_model=8, encoder_layers=1, decoder_layers=1, n_heads=2)
CONFIG = TrainingConfig(epochs=3, letters_per_batch=60)
WORDS = [a + b + c for a in "abcd" for b in "abcd" for c in ("", "a", "d")]


@pytest.fixture
def turned(tmp_path):
    "A file of 48 words, each with the same word from its end."
    path = tmp_path / "turned.tsv"
    path.write_text("".join(f"{word}\t{word[::-1]}\n" for word in WORDS))
    return path


REFUSED = {  # the lines, what is said of them
    "no tab": (b"a\tb\ncat\n", "line 2: 'cat' has no tab; write a source, one tab, and a target"),
    "two tabs": (b"a\tb\n\na\tb\tc", r"line 3: 'a\tb\tc' has two tabs; write"),
    "many tabs": (b"a\tb\tc\td\te", r"line 1: 'a\tb\tc\td\te' has 4 tabs; write"),
    "no source": (b" \tb", r"line 1: ' \tb' has no source; write one, or delete the line"),
    "no target": (b"a\t\r\n", r"line 1: 'a\t\r' has no target; write one, or delete the line"),
    "another encoding": (b"a\tb\nc\xe9\tb", r"line 2: byte 2 of b'c\xe9\tb' is no UTF-8; store the file as UTF-8"),
    "UTF-16": ("a\tb\n".encode("utf-16"), r"line 1: byte 1 of b'\xff\xfea\x00\t\x00b\x00' is no UTF-8"),
    "a control character": (b"a\tb\nc\x00d\tb", r"line 2: the source 'c\x00d' has the control character '\x00'"),
    "a turn of direction": ("a\tb\u202ec".encode(), r"line 1: the target 'b\u202ec' has the control"),
    "a long token": (b"a\tb c\na\tb " + b"c" * 101, "line 2: the target has 'cccc"),
    "a special symbol": (b"a\tb c\na\t<s> b", "line 2: the target has '<s>', which every vocabulary has for itself"),
    "too long": (b"a\tb\n" + b"a" * 1_001 + b"\tb", "has 1,001 symbols; shorten it to 1,000"),
    "nothing": (b"\n\r\n", "has no pairs; write a source, a tab and a target on each line"),
}


@pytest.mark.parametrize("data, why", REFUSED.values(), ids=REFUSED)
def test_a_line_that_is_no_pair_is_refused_with_its_number_and_a_remedy(tmp_path, data, why):
    (tmp_path / "p.tsv").write_bytes(data)
    with pytest.raises(ValueError) as error:
        read_pairs(tmp_path / "p.tsv")
    said = str(error.value)
    assert why in said and said.startswith(str(tmp_path / "p.tsv")) and "\n" not in said and len(said) < 400


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ValueError, match="is no file; name one, with a source, a tab and a target on each line"):
            read_pairs(path)
    with pytest.raises(OSError, match="look at its name"):
        read_pairs(tmp_path / "none")
    with pytest.raises(ValueError, match="'words' is no way to cut a column; give 'letters' or 'tokens'"):
        read_pairs(tmp_path / "none", source="words")


def test_marks_and_ends_of_lines_change_nothing(tmp_path):
    for name, data in (("a", "é\tb\nc\td\n"), ("b", "\ufeffe\u0301 \tb\r\n\r\n c\t d")):
        (tmp_path / name).write_text(data, encoding="utf-8", newline="")
    a, b = (read_pairs(tmp_path / name) for name in "ab")
    assert a.listed == b.listed == {"é": [("b",)], "c": [("d",)]} and a.sha256 != b.sha256


def test_a_column_is_tokens_where_half_of_its_rows_have_white_space_unless_told(tmp_path):
    (tmp_path / "p").write_text("ab\tK AE\nab\tK\nc d\tK\nc d\tK\n")
    found = read_pairs(tmp_path / "p")
    assert (found.source, found.target) == ("tokens", "letters")        # half of them, and a quarter
    assert found.listed == {("ab",): [tuple("K AE"), ("K",)], ("c", "d"): [("K",)]}
    told = read_pairs(tmp_path / "p", "letters", "tokens")
    assert told.listed == {"ab": [("K", "AE"), ("K",)], "c d": [("K",)]}
    (tmp_path / "q").write_text("ab\tK AE\n")
    assert (read_pairs(tmp_path / "q").source, read_pairs(tmp_path / "q").target) == ("letters", "tokens")


@given(st.lists(st.text("ab é<", min_size=1), min_size=1))
def test_symbols_joined_and_cut_are_the_same(symbols):
    for way in own_pairs.WAYS:
        once = cut(join(symbols, way), way)
        assert cut(join(once, way), way) == once


def test_the_part_of_a_source_is_pinned_and_has_its_share():
    numbers = [str(i) for i in range(10_000)]
    found = [part_for(number) for number in numbers]
    pinned = {"cat": "test", "a": "training", ("c", "a", "t"): "test", "e": "validation", "é": "training"}
    assert {source: part_for(source) for source in pinned} == pinned
    assert all(abs(found.count(part) - share) < 200 for part, share in zip(PARTS, (8_000, 1_000, 1_000)))


@given(st.sets(st.text("abcd", min_size=1), min_size=2))
def test_a_line_that_is_added_moves_no_other(words):
    *fewer, added = sorted(words)
    whole, without = (Pairs({w: [("x",)] for w in some}, "letters", "letters", "f", "") for some in (words, fewer))
    for name in PARTS:
        parts = [{w for w in pairs.listed if part_for(w) == name} for pairs in (whole, without)]
        assert parts[1] == parts[0] - {added}
        if parts[0]:
            assert whole.part(name).keys() == parts[0]


def test_an_empty_part_is_refused_with_the_number_of_sources():
    pairs = Pairs({"a": [("b",)]}, "letters", "letters", "few.tsv", "")
    empty = next(name for name in PARTS if name != part_for("a"))
    with pytest.raises(ValueError, match=f"few.tsv has too few sources, 1: none .* '{empty}', .* a hundred lines"):
        pairs.part(empty)
    with pytest.raises(ValueError, match="'dev' is no part; give one of training, validation, test"):
        pairs.part("dev")


def test_the_other_parts_enter_no_training_and_no_vocabulary(turned, monkeypatch):
    seen, measured = [], []
    held_out = next(w for w in ("xa", "xb", "xc", "xd", "xe", "xf", "xg", "xh", "xi", "xj") if part_for(w) == "test")
    with turned.open("a") as file:
        file.write(f"{held_out}\t{held_out[::-1]}\n{WORDS[0]}\tqq\n")
    pairs = read_pairs(turned)

    class Watched(TrainingRun):
        def __init__(self, model, examples, *rest):
            seen.extend(examples)
            super().__init__(model, examples, *rest)

    monkeypatch.setattr(own_pairs, "TrainingRun", Watched)
    loss = held_out_loss

    def note(model, examples, config):
        measured.append(examples)
        return loss(model, examples, config)

    monkeypatch.setattr(own_pairs, "held_out_loss", note)
    trained = train_pairs(pairs, CONFIG, progress=False, **TINY)
    words = [("".join(trained.source.decode(s)), tuple(trained.target.decode(t))) for s, t in seen]
    assert words == [(word, right) for word, listed in pairs.part("training").items() for right in listed]
    assert {part_for(word) for word, _ in words} == {"training"}
    assert part_for(WORDS[0]) == "training" and (WORDS[0], ("q", "q")) in words
    assert [*trained.source.symbols[3:]] == [*"abcd"] and [*trained.target.symbols[3:]] == [*"abcdq"]
    assert len(measured) == CONFIG.epochs
    assert {"".join(trained.source.decode(s)) for s, _ in measured[0]} == pairs.part("validation").keys()
    assert score_pairs(trained, pairs)["refused"] == 1
    assert trained.notes["pairs"]["sources"] == {name: len(pairs.part(name)) for name in PARTS}


def test_the_held_out_loss_is_the_mean_over_symbols_without_dropout():
    trained = small_pronouncer(dropout=0.5)
    examples = [trained.example("cab", ["K"]), trained.example("add", ["AE1", "D"]), trained.example("dead", ["D"])]
    config = TrainingConfig(letters_per_batch=8)
    with torch.no_grad():
        whole = loss_of(trained.model.eval(), collate(examples), config, 0).item()
    assert held_out_loss(trained.model.train(), examples, config) == pytest.approx(whole, abs=1e-5)
    assert not trained.model.training


def test_scores_are_those_of_the_nearest_right_answers():
    words = [w for w in map(str, range(99)) if part_for(w) == "test"][:4]
    pairs = Pairs({w: [tuple("abc"), tuple("ab")] for w in words}, "letters", "letters", "f", "")
    answers = ["abc", "abd", "", None]

    def stream(sources, beam):
        assert [*sources] == words and beam == 3
        for word, said in zip(words, answers):
            yield word, ValueError("no") if said is None else [Transcription(tuple(said), -1.0)]

    trained = small_pronouncer()
    object.__setattr__(trained, "stream", stream)
    found = score_pairs(trained, pairs, beam=3)
    # abc: right; abd: 1 edit to ab and to abc, the shorter counts; nothing: 2 edits to ab
    assert found == {"sources": 4, "right": 0.25, "symbol_error_rate": (0 + 1 + 2 + 2) / (3 + 2 + 2 + 2), "refused": 1}


def test_the_nearest_answer_counts_the_shorter_one_of_two():
    assert nearest_edits("ab", ["abcd", "ab"]) == (0, 2) and nearest_edits("abd", ["abc", "ab"]) == (1, 2)
    with pytest.raises(ValueError, match="no right answer is listed"):
        nearest_edits("ab", [])


class Killed(BaseException):
    "As if the process had ended there."


@pytest.mark.parametrize("at, every", [(7, 2), (8, 5), (3, 100)])
def test_a_killed_training_goes_on_to_the_same_weights_and_curve(turned, tmp_path, monkeypatch, at, every):
    pairs, step = read_pairs(turned), TrainingRun.take_step
    plain = train_pairs(pairs, CONFIG, progress=False, **TINY)
    assert len(plain.notes["curve"]) == 3 and plain.notes["training"]["steps"] % 3 == 0 < at
    assert all(row[2] is not None for row in plain.notes["curve"])

    def dies(self, batch):
        if len(self.losses) == at:
            raise Killed
        return step(self, batch)

    kept = Checkpoints(tmp_path / "kept", every)
    monkeypatch.setattr(TrainingRun, "take_step", dies)
    with pytest.raises(Killed):
        train_pairs(pairs, CONFIG, checkpoints=kept, progress=False, **TINY)
    monkeypatch.setattr(TrainingRun, "take_step", step)
    assert kept.steps()[-1:] == [at // every * every][: at // every]
    other = train_pairs(pairs, CONFIG, checkpoints=kept, progress=False, **TINY)
    again = train_pairs(pairs, CONFIG, checkpoints=kept, progress=False, **TINY)  # killed before it was stored
    for each in (other, again):
        assert each.notes == plain.notes
        for a, b in zip(plain.model.parameters(), each.model.parameters(), strict=True):
            assert torch.equal(a, b)
    kept.clear()
    assert not (tmp_path / "kept").exists()


def test_a_training_killed_while_it_measures_measures_again(turned, tmp_path, monkeypatch):
    pairs, kept, measured = read_pairs(turned), Checkpoints(tmp_path / "kept", every=1), []

    def dies(*_):
        measured.append(1)
        if len(measured) == 2:
            raise Killed
        return held_out_loss(*_)

    monkeypatch.setattr(own_pairs, "held_out_loss", dies)
    with pytest.raises(Killed):
        train_pairs(pairs, CONFIG, checkpoints=kept, progress=False, **TINY)
    trained = train_pairs(pairs, CONFIG, checkpoints=kept, progress=False, **TINY)
    assert len(measured) == 4 and [row[2] is None for row in trained.notes["curve"]] == [False] * 3


def test_losses_noted_by_another_hand_are_refused(turned, tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "validation.json").write_text('["a"]')
    with pytest.raises(ValueError, match="validation.json holds no losses .*; delete it"):
        train_pairs(read_pairs(turned), CONFIG, checkpoints=Checkpoints(tmp_path / "kept"), progress=False, **TINY)


def test_the_curve_has_the_mean_of_each_epochs_losses(turned):
    pairs = read_pairs(turned)
    trained = train_pairs(pairs, CONFIG, progress=False, **TINY)
    training, held_out = (examples_of(trained, pairs.part(name)) for name in ("training", "validation"))
    run = TrainingRun(model_for(pairs, CONFIG.seed, **TINY).model, training, CONFIG)
    losses, n = [*run], run.epoch_steps
    means = [sum(losses[i : i + n]) / n for i in range(0, len(losses), n)]
    curve = trained.notes["curve"]
    assert [row[0] for row in curve] == [n, 2 * n, 3 * n]
    assert [row[1] for row in curve] == pytest.approx(means, rel=1e-4)
    assert curve[-1][2] == pytest.approx(held_out_loss(trained.model, held_out, CONFIG), rel=1e-5)


def test_a_model_that_no_file_could_hold_is_refused_before_it_is_trained(turned, monkeypatch):
    monkeypatch.setattr(own_pairs, "examples_of", lambda *_: pytest.fail("it goes on"))
    with pytest.raises(ValueError, match="max_len is 20000, and 16,384 can be believed; such a model cannot be stored"):
        train_pairs(read_pairs(turned), CONFIG, progress=False, **TINY, max_len=20_000)


def test_more_symbols_than_a_side_may_have_are_refused_with_their_number():
    def untrained(n):
        names = {"a": [(f"{i}",) for i in range(n)]}
        return model_for(Pairs(names, "letters", "tokens", "many.tsv", ""), **TINY)

    assert part_for("a") == "training" and len(untrained(50_000).target) == 50_003
    with pytest.raises(ValueError, match="many.tsv has 50,001 different symbols in its targets, and 50,000 are"):
        untrained(50_001)


def test_the_recipe_takes_more_epochs_of_few_pairs_than_of_many():
    def epochs(n):
        return recipe_for(Pairs({f"word{i}": [("x",)] for i in range(n)}, "letters", "letters", "f", "")).epochs

    assert [epochs(n) for n in (10, 100_000)] == [100, 4] and 4 < epochs(20_000) < epochs(10_000) < 100


def test_the_curve_is_a_picture_with_both_lines_and_named_axes(tmp_path, monkeypatch):
    figure = pytest.importorskip("matplotlib.figure")
    from matplotlib.image import imread

    drawn, savefig = [], figure.Figure.savefig
    monkeypatch.setattr(figure.Figure, "savefig", lambda self, *a, **b: drawn.append(self) or savefig(self, *a, **b))
    trained = small_pronouncer()
    trained.notes["curve"] = [[10, 3.0, 2.5], [20, 2.0, None], [30, 1.5, 1.75]]
    save_curve(trained, tmp_path / "c.png")
    (ax,) = drawn[0].axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in ax.get_lines()}
    assert lines == {"training": [[10, 3], [20, 2], [30, 1.5]], "validation": [[10, 2.5], [30, 1.75]]}
    assert "steps" in ax.get_xlabel() and "nats" in ax.get_ylabel() and ax.get_legend()
    assert imread(tmp_path / "c.png").shape[0] > 300
    del trained.notes["curve"]
    with pytest.raises(ValueError, match="have no curve"):
        save_curve(trained, tmp_path / "d.png")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match="pip install matplotlib"):
        save_curve(trained, tmp_path / "c.png")


def test_lines_are_cut_and_answers_joined_as_the_notes_say():
    trained = small_pronouncer()
    with pytest.raises(ValueError, match="do not say how a line is cut"):
        next(answer_lines(trained, ["cab"]))
    trained.notes["pairs"] = {"source": "letters", "target": "tokens"}
    asked = [" cab\n", "", "c b", "dead"]
    found = [*answer_lines(trained, asked)]
    said = trained.transcribe(["cab", "dead"])
    assert [found[0].text, found[3].text] == [" ".join(said["cab"]), " ".join(said["dead"])]
    assert found[1].text == "" and found[1].finished and "unknown symbols [' ']" in str(found[2])
    trained.notes["pairs"] = {"source": "tokens", "target": "letters"}
    good, bad = answer_lines(trained, ["c a b", "c of a"])
    assert str(good) == "".join(said["cab"]) and str(bad).startswith("'c of a': unknown symbols ['of']")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def run(monkeypatch, capsys):
    def run(*args, stdin=""):
        monkeypatch.setattr(sys, "argv", ["annotated-decoder", *map(str, args)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        status = cli.main()
        return status, *capsys.readouterr()

    return run


SMALL = "--d-model 16 --encoder-layers 1 --decoder-layers 1 --n-heads 2 --letters-per-batch 60".split()


def test_the_command_trains_scores_and_uses_a_model_of_ones_own(run, turned, tmp_path):
    pytest.importorskip("matplotlib")
    out = tmp_path / "m.safetensors"
    status, said, err = run("train", "--pairs", turned, "--out", out, "--epochs", 3, *SMALL)
    assert status == 0 and "48 sources, cut into letters, targets into letters" in err
    assert {p.name for p in tmp_path.iterdir()} == {"turned.tsv", "m.safetensors", "m.safetensors.png"}
    pairs, trained, told = read_pairs(turned), TrainedModel.load(out), json.loads(said)
    assert told["curve"] == f"{out}.png"
    for part in ("validation", "test"):
        assert told[part] == trained.notes["scores"][part] and told[part]["sources"] == len(pairs.part(part))
        status, said, _ = run("evaluate", "--model", out, "--pairs", turned, "--part", part)
        assert status == 0 and json.loads(said) == score_pairs(trained, pairs, part)
    assert trained.notes["pairs"]["file"] == "turned.tsv" and trained.notes["pairs"]["sha256"] == pairs.sha256
    status, said, err = run("translate", "--model", out, stdin="ab\n\nxy\n")
    words = said.splitlines()
    assert len(words) == 3 and words[1:] == ["", ""] and words[0] == "".join(trained.transcribe(["ab"])["ab"])
    assert status == 1 and "line 3: 'xy': unknown symbols ['x', 'y']" in err
    save_folder(trained, tmp_path / "shared")
    assert run("translate", "--model", tmp_path / "shared", stdin="ab\n\nxy\n")[1].splitlines() == words


def test_the_options_of_train_reach_the_training(run, turned, tmp_path, monkeypatch):
    asked, made = [], train_pairs

    def noted(pairs, config, *, checkpoints, device, together, **shape):
        asked.append((pairs.source, pairs.target, config, checkpoints.every, shape))
        return made(pairs, TrainingConfig(epochs=1), progress=False, **TINY)

    monkeypatch.setattr(own_pairs, "train_pairs", noted)
    knobs = dict(epochs=2, seed=5, optimizer="muon", peak_lr=0.004, weight_decay=0.2, smoothing=0.3)
    knobs |= dict(letters_per_batch=77)
    shape = dict(d_model=24, encoder_layers=3, decoder_layers=4, n_heads=6, dropout=0.25)
    flags = [s for name, value in (knobs | shape).items() for s in ("--" + name.replace("_", "-"), value)]
    curve = tmp_path / "pictures" / "c.png"
    turned.write_text("".join(f"{' '.join(word)}\t{word[::-1]}\n" for word in WORDS))
    ways = ("--source", "tokens", "--target", "letters", "--curve", curve, "--every", 9)
    assert run("train", "--pairs", turned, "--out", tmp_path / "m", *ways, *flags)[0] == 0
    assert asked == [("tokens", "letters", TrainingConfig(**knobs), 9, shape)] and curve.exists()
    assert run("train", "--pairs", turned, "--out", tmp_path / "m")[0] == 0
    assert asked[1] == ("tokens", "letters", recipe_for(read_pairs(turned)), 100, {})


def test_a_training_that_is_over_is_not_taken_again(run, turned, tmp_path):
    pytest.importorskip("matplotlib")
    asked = ["train", "--pairs", turned, "--out", tmp_path / "m", *SMALL, "--epochs"]
    said, before = run(*asked, 1)[1], None
    for changes in ((1,), (1, "--every", 7)):
        before = contents(tmp_path)
        status, again, err = run(*asked, *changes)
        assert (status, again, contents(tmp_path)) == (0, said, before)
        assert f"{tmp_path / 'm'} is there already, made of the same pairs and recipe; delete it to train anew" in err
    for changes in ((2,), (2, "--d-model", 8), (2, "--d-model", 8, "--dropout", 0)):
        status, _, err = run(*asked, *changes)
        assert status == 0 and "m is another model, which will be replaced in the end" in err
        assert contents(tmp_path)["m"] != before["m"]
        before = contents(tmp_path)
    with turned.open("a") as file:
        file.write("dd\tdd\ndd\tda\n")
    assert "another model" in run(*asked, *changes)[2]


def test_a_training_tells_its_plan_and_every_epochs_losses(run, turned, tmp_path):
    with turned.open("a") as file:
        file.write(f"{WORDS[0]}\tdd\n")
    err = run("train", "--pairs", turned, "--out", tmp_path / "m", *SMALL, "--epochs", 3)[2]
    pairs, trained = read_pairs(turned), TrainedModel.load(tmp_path / "m")
    parts = ", ".join(f"{name} {len(pairs.part(name))}" for name in PARTS)
    weights, steps = sum(p.numel() for p in trained.model.parameters()), trained.notes["training"]["steps"]
    assert "49 pairs, 48 sources, cut into letters, targets into letters; sources with several targets: 1" in err
    assert f"sources: {parts}; 3 epochs, {steps} steps, {weights:,} weights, processes: 1" in err
    for epoch, (_, seen, unseen) in enumerate(trained.notes["curve"], 1):
        assert f"epoch {epoch} of 3: training {seen:.3f}, validation {unseen:.3f}\n" in err
    assert "validation:   0%|" in err and "test:   0%|" in err


def test_what_the_training_cannot_read_is_counted_before_and_fails_after(run, turned, tmp_path):
    odd = next(each for word in WORDS for each in (f"{word}x", f"x{word}") if part_for(each) == "test")
    with turned.open("a") as file:
        file.write(f"{odd}\ta\n")
    status, said, err = run("train", "--pairs", turned, "--out", tmp_path / "m", *SMALL, "--epochs", 1)
    held_out = sum(len(read_pairs(turned).part(name)) for name in PARTS[1:])
    assert status == 0 and f"1 of {held_out} held-out sources cannot be read" in err and "give more lines" in err
    assert json.loads(said)["test"]["refused"] == 1
    turned.write_text(f"{odd}\ta\n")
    status, said, err = run("evaluate", "--model", tmp_path / "m", "--pairs", turned)
    assert status == 1 and json.loads(said)["refused"] == 1
    assert "can read none of the 1 sources, cut into letters; give other pairs" in err


def test_where_no_picture_can_be_drawn_the_scores_come_and_name_none(run, turned, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    status, said, err = run("train", "--pairs", turned, "--out", tmp_path / "m", "--epochs", 1, *SMALL)
    assert status == 0 and "no picture was drawn" in err and json.loads(said)["curve"] is None
    assert {path.name for path in tmp_path.iterdir()} == {"turned.tsv", "m"}


def test_the_options_serve_the_pronouncer_too(run, tmp_path, monkeypatch):
    asked = []

    def noted(dictionary, config, *, teachers, checkpoints, device, together, **shape):
        asked.append((config, shape))
        return small_pronouncer()

    monkeypatch.setattr(cli, "read_cmudict", lambda: {})
    monkeypatch.setattr(recipe, "train_pronouncer", noted)
    flags = "--peak-lr 0.5 --smoothing 0 --d-model 24 --n-heads 6 --dropout 0".split()
    assert run("train", "--out", tmp_path / "m", *flags)[0] == 0
    assert asked == [(replace(recipe.RECIPE, peak_lr=0.5, smoothing=0.0), dict(d_model=24, n_heads=6, dropout=0.0))]
    made = recipe.new_pronouncer({"cab": [("K",)]}, d_model=24, n_heads=6)
    assert {made.model.encoder.config.n_heads, made.model.decoder.config.n_heads} == {6}


WRONG = {
    "no such file": ("train --pairs none --out m", ": none cannot be read"),
    "a bad line": ("train --pairs bad --out m", "bad, line 1: 'cat' has no tab"),
    "few lines": ("train --pairs few --out m", "few has too few sources, 1: none falls into the part"),
    "a rate": ("train --pairs good --out m --peak-lr 0", "--peak-lr is 0.0; it must be above 0 and finite"),
    "no number": ("train --pairs good --out m --dropout nan", "--dropout is nan; it must be at least 0 and below 1"),
    "heads": ("train --pairs good --out m --d-model 10 --n-heads 4", "4 heads do not divide --d-model = 10"),
    "no layers": ("train --pairs good --out m --encoder-layers 0", "--encoder-layers is 0; give a number of at lea"),
    "no checkpoints": ("train --pairs good --out m --every 0", "--every is 0; give a number of at least 1"),
    "no name": ("train --pairs good --out=", "--out is empty; name a file"),
    "a curve over another model": ("train --pairs good --out m --curve plain", "replace plain, which is no PNG; name"),
    "a curve over data": ("train --pairs good --out keep", "replace keep.png, which is no PNG; name another by"),
    "sources of new tokens": ("train --pairs good --out m --source tokens", "10 of 10 held-out sources cannot be read"),
    "targets of new tokens": ("train --pairs good --out m --target tokens", "lack some of their tokens; give --targ"),
    "teachers": ("train --pairs good --out m --teachers t", "--teachers know the dictionary"),
    "cut without data": ("train --source letters --out m", "--source is for data of your own; name their file"),
    "a curve without data": ("train --curve c --out m", "--curve is for data of your own"),
    "a picture that is a folder": ("train --pairs good --out m --curve .", "'.' is there and is no file"),
    "no model": ("evaluate --pairs good", "--pairs are scored with a model of your own"),
    "no pairs": ("evaluate --model own", "own was trained on pairs, not on the dictionary; name their file with"),
    "a folder to score": ("evaluate --pairs . --model own", "--pairs is ., which is a folder; name a file"),
    "no ways": ("evaluate --pairs good --model plain", "do not say how a line is cut"),
    "a stream": ("translate --model plain --stream", "--stream is for checkpoints of others, and plain is a"),
    "no folder": ("translate --model ./none", "there is no file or folder ./none; look at its name"),
    "a prefix": ("translate --model plain --prefix x", "--prefix is for checkpoints of others"),
    "lines without ways": ("translate --model plain", "do not say how a line is cut"),
}


@pytest.mark.parametrize("arguments, why", WRONG.values(), ids=WRONG)
def test_what_cannot_be_is_one_line_and_leaves_nothing(run, tmp_path, monkeypatch, turned, arguments, why):
    monkeypatch.chdir(tmp_path)
    turned.rename("good")
    (tmp_path / "bad").write_text("cat\n")
    (tmp_path / "few").write_text("a\tb\n")
    (tmp_path / "keep.png").write_text("a\tb\n")
    (own := small_pronouncer()).save("plain")
    own.notes["pairs"] = {"source": "letters", "target": "tokens"}
    own.save("own")
    before = {p.name for p in tmp_path.iterdir()}
    status, out, err = run(*arguments.split(), stdin="ab\n")
    *_, last = err.splitlines()
    assert (status, out) == (2, "") and last.startswith("annotated-decoder: ") and why in last
    assert err.count("\n") <= 2 and {p.name for p in tmp_path.iterdir()} == before


def command(folder, *args):
    "What each of several processes does: the command, and what it says in a file of its own."
    sys.argv = ["annotated-decoder", *map(str, args)]
    with open(folder / f"out-{os.environ['RANK']}", "w") as sys.stdout:
        sys.exit(cli.main())


ALIKE = [*SMALL, "--epochs", 3, "--dropout", 0, "--optimizer", "adamw"]


def test_several_processes_train_what_one_does(run, turned, tmp_path):
    alone = tmp_path / "alone" / "m.safetensors"
    assert run("train", "--pairs", turned, "--out", alone, *ALIKE)[0] == 0
    expected = TrainedModel.load(alone)
    for how in ("ddp", "fsdp"):
        folder = tmp_path / how
        out, sharded = folder / "m.safetensors", ["--shard"] if how == "fsdp" else []
        Group(2, folder, command, folder, "train", "--pairs", turned, "--out", out, *ALIKE, *sharded).succeed()
        found, told = TrainedModel.load(out), (folder / "out-0").read_text()
        for one, other in zip(found.notes["curve"], expected.notes["curve"], strict=True):
            assert one == pytest.approx(other, rel=1e-4)
        for name, weight in expected.model.state_dict().items():
            torch.testing.assert_close(found.model.state_dict()[name], weight, rtol=0, atol=2e-3)    # stored in half
        assert json.loads(told)["epochs"] == 3 and (folder / "out-1").read_text() == ""
        assert {path.name for path in folder.iterdir()} >= {"m.safetensors", "m.safetensors.png"}
        assert not list(folder.glob("*.checkpoints"))


def test_an_error_of_several_processes_says_whose_it_is(turned, tmp_path):
    turned.write_text("ab\tba\nno tab\n")
    folder = tmp_path / "group"
    group = Group(2, folder, command, folder, "train", "--pairs", turned, "--out", folder / "m.safetensors")
    assert group.end() == [2, 2]
    for rank in (0, 1):
        assert f"process {rank} of 2: {turned}, line 2: 'no tab' has no tab; write" in group.said(rank)


def test_what_only_several_processes_can_do_is_refused(run, turned, tmp_path, monkeypatch):
    asked = ["train", "--pairs", turned, "--out", tmp_path / "m.safetensors"]
    status, _, err = run(*asked, "--shard")
    assert status == 2 and "--shard cuts the model among processes, and there is one; start them with torchrun" in err
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    for limit in (0, -1, "nan", "inf"):
        status, _, err = run(*asked, "--limit", limit)
        assert status == 2 and f"--limit is {float(limit):g}; give a number of seconds above 0" in err
