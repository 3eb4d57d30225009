"""Text goes in and out of a checkpoint as transformers would have it, line by line, and nothing is lost."""

import io
import json
import shutil
import sys
from dataclasses import replace

import pytest
import sentencepiece
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import MarianConfig, MarianMTModel, MarianTokenizer, PreTrainedTokenizerFast

from annotated_decoder import cli
from annotated_decoder.pretrained.settings import DecodingSettings
from annotated_decoder.pretrained.tokenizing import (
    FileTokenizer,
    LanguageTokenizer,
    PairTokenizer,
    load_tokenizer,
    stream_text,
)
from annotated_decoder.pretrained.translating import Translation, Translator, _set_languages, split_sentences

TEXTS = [
    "the cat sat on the mat", "a dog ran to the big red house", "she said that it was late, and left",
    "nine naïve knights knew the knack of knitting", "where do the wild geese go when it snows?",
    "the quick brown fox jumps over the lazy dog", "pack my box with five dozen jugs", "über den Wolken",
]    # fmt: skip


def write_marian(folder):
    "A tiny Marian checkpoint with random weights and a tokenizer trained on a few lines."
    for side in ("source", "target"):
        with open(folder / f"{side}.spm", "wb") as file:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(TEXTS * 5), model_writer=file, vocab_size=60, model_type="unigram",
                character_coverage=1.0, minloglevel=2,
            )    # fmt: skip
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "source.spm"))
    ordinary = [pieces.id_to_piece(i) for i in range(len(pieces)) if i > 2]
    table = {p: i for i, p in enumerate(["</s>", "<unk>", *reversed(ordinary), ">>de<<", "<pad>"])}
    (folder / "vocab.json").write_text(json.dumps(table), encoding="utf-8")
    pad = table["<pad>"]
    torch.manual_seed(3)
    marian = MarianMTModel(
        MarianConfig(
            vocab_size=len(table), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=40,
            pad_token_id=pad, eos_token_id=0, bos_token_id=0, decoder_start_token_id=pad, forced_eos_token_id=0,
            scale_embedding=True, init_std=1.0,
        )
    )    # fmt: skip
    marian.generation_config.update(
        num_beams=3, max_length=12, bad_words_ids=[[pad]], pad_token_id=pad, eos_token_id=0, decoder_start_token_id=pad
    )
    marian.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_marian(tmp_path_factory.mktemp("marian"))


@pytest.fixture(scope="module")
def theirs(folder):
    return MarianTokenizer(
        source_spm=str(folder / "source.spm"), target_spm=str(folder / "target.spm"), vocab=str(folder / "vocab.json")
    )


@pytest.mark.parametrize("text", [*TEXTS, ">>de<< the cat", "ZEBRA ☃ zebra", "  two   blanks ", "x"])
def test_pieces_and_ids_are_those_of_transformers(folder, theirs, text):
    ours = PairTokenizer(folder)
    ids = theirs(text)["input_ids"]
    assert ours.encode(text) == ids and ids[-1] == 0
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


def test_a_table_of_its_own_for_the_target_is_used(folder, tmp_path):
    for name in ("source.spm", "target.spm", "vocab.json"):
        shutil.copy(folder / name, tmp_path)
    table = json.loads((tmp_path / "vocab.json").read_bytes())
    other = {piece: len(table) - 1 - i for piece, i in table.items()}
    (tmp_path / "target_vocab.json").write_text(json.dumps(other), encoding="utf-8")
    ids = PairTokenizer(folder).encode(TEXTS[0])
    assert PairTokenizer(tmp_path).decode([len(table) - 1 - i for i in ids]) == TEXTS[0]


def bytes_of_a_tokenizer(folder):
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>"]
    options = dict(vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    made.train_from_iterator(TEXTS, trainers.BpeTrainer(**options))
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    made.enable_truncation(4)                                       # as some checkpoints have it in their file
    made.save(str(folder / "tokenizer.json"))
    return made


def test_a_tokenizer_file_says_what_transformers_says(tmp_path):
    bytes_of_a_tokenizer(tmp_path)
    ours, theirs = FileTokenizer(tmp_path), PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    for text in TEXTS:
        ids = theirs(text)["input_ids"]
        assert ours.encode(text) == ids and len(ids) > 4            # not cut
        assert ours.decode(ids) == text


def test_a_folder_without_a_tokenizer_is_refused_with_what_is_missing(tmp_path):
    with pytest.raises(ValueError, match="tokenizer.json or source.spm, target.spm, vocab.json"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["source.spm", "target.spm", "vocab.json", "tokenizer.json"])
def test_a_damaged_tokenizer_is_refused_by_the_name_of_its_file(folder, tmp_path, name):
    for each in ("source.spm", "target.spm", "vocab.json"):
        shutil.copy(folder / each, tmp_path)
    for damage in (b"", b"[1, 2]", b"{\"a\": \"b\"}", b"\xff\x00nonsense"):
        (tmp_path / name).write_bytes(damage)
        with pytest.raises(ValueError, match=name):
            load_tokenizer(tmp_path)


def test_a_missing_package_is_named_with_its_extra(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(ModuleNotFoundError, match=r"sentencepiece.*annotated-decoder\[pretrained\]"):
        load_tokenizer(folder)


def texts(answers):
    return [answer.text for answer in answers]


@pytest.fixture(scope="module")
def translator(folder):
    return Translator.load(folder)


@pytest.fixture(scope="module")
def reference(folder, theirs):
    "What transformers says of each text."
    model = MarianMTModel.from_pretrained(folder, attn_implementation="eager").eval()

    def answer(text, **options):
        given = theirs([text], return_tensors="pt")
        return theirs.decode(model.generate(**given, **options)[0], skip_special_tokens=True)

    return answer


def test_lines_are_translated_as_transformers_translates_them_and_in_order(translator, reference):
    expected = [reference(text) for text in TEXTS]
    assert len(set(expected)) > 1
    assert texts(translator.stream(TEXTS * 2, batch_size=3, read_ahead=5)) == expected * 2


def test_a_beam_of_one_is_greedy_and_its_pieces_join_to_the_whole(translator, reference):
    for text in TEXTS:
        expected = reference(text, num_beams=1)
        assert texts(translator.stream([text], beam=1)) == [expected]
        pieces = list(translator.pieces(text))
        assert "".join(pieces) == expected
    assert any(len(list(translator.pieces(text))) > 1 for text in TEXTS)


def test_half_a_character_is_held_back(tmp_path):
    bytes_of_a_tokenizer(tmp_path)
    file = FileTokenizer(tmp_path)
    tokens = file.encode("ü☃")[1:-1]
    assert len(tokens) == 5 and "�" in file.decode(tokens[:1])     # a byte of UTF-8 each
    assert list(stream_text(file, iter(tokens))) == ["ü", "☃"]


def test_blank_lines_stay_and_a_long_one_is_refused_in_its_place(translator):
    first, blank, long, last = translator.stream([TEXTS[0], "  ", "knight " * 60, TEXTS[1]])
    assert (first, last) == tuple(translator.stream(TEXTS[:2])) and blank == Translation("", True)
    assert isinstance(long, ValueError) and "the encoder has positions for 40" in str(long)


@pytest.mark.parametrize("option", ["beam", "batch_size", "read_ahead"])
def test_numbers_below_one_are_refused(translator, option):
    with pytest.raises(ValueError, match="give at least 1"):
        list(translator.stream(TEXTS, **{option: 0}))


@pytest.fixture
def run(monkeypatch, capsys):
    def run(*args, stdin=""):
        monkeypatch.setattr(sys, "argv", ["annotated-decoder", "translate", *args])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        return cli.main(), *capsys.readouterr()

    return run


def test_the_command_answers_a_line_with_a_line(run, folder, translator):
    found = [*translator.stream(TEXTS)]
    expected, cut = texts(found), [i for i, answer in enumerate(found, 1) if not answer.finished]
    told = "".join(f"line {i}: the limit of 11 tokens ended it; give --max-length\n" for i in cut)
    status, out, err = run("--model", str(folder), stdin="\n".join(TEXTS))
    assert (status, out.splitlines(), err) == (int(bool(cut)), expected, told)
    long = "knight " * 60
    status, out, err = run("--model", str(folder), stdin=f"{TEXTS[0]}\n{long}\n\n{TEXTS[1]}\n")
    assert status == 1 and out.splitlines() == [expected[0], "", "", expected[1]]
    assert "line 2: 'knight knight" in err and "line 3" not in err


def test_the_command_streams_greedily_and_takes_a_prefix(run, folder, translator):
    status, out, _ = run("--model", str(folder), "--stream", "--prefix", ">>de<< ", stdin="\n".join(TEXTS[:2]))
    answers = [*translator.stream([f">>de<< {text}" for text in TEXTS[:2]], beam=1)]
    assert status == int(not all(answer.finished for answer in answers))
    assert out.splitlines() == texts(translator.stream([f">>de<< {text}" for text in TEXTS[:2]], beam=1))


def test_the_command_refuses_what_cannot_be(run, folder, tmp_path):
    assert run("--model", str(folder), "--stream", "--beam", "2")[0] == 2
    assert run("--model", str(folder), "--beam", "0")[0] == 2
    status, out, err = run("--model", str(tmp_path / "nothing-here"))
    assert status == 2 and out == "" and "nothing-here" in err


@pytest.mark.parametrize("stream", [[], ["--stream"]])
def test_the_command_tells_which_answers_a_limit_ended(run, folder, translator, stream):
    limited = translator.limited(2)
    found = [*limited.stream(TEXTS, **(dict(beam=1) if stream else {}))]
    assert not all(answer.finished for answer in found)
    status, out, err = run("--model", str(folder), "--max-length", "2", *stream, stdin="\n".join(TEXTS))
    cut = [f"line {i}: " for i, answer in enumerate(found, 1) if not answer.finished]
    assert status == 1 and out.splitlines() == texts(found)
    assert [line[: line.index(":") + 2] for line in err.splitlines()] == cut and "give --max-length" in err
    assert run("--model", str(folder), *stream, stdin="knight " * 60)[0] == 1    # refused, and no traceback
    assert run("--model", str(folder), "--max-length", "999", stdin="x")[0] == 2


@pytest.mark.parametrize("options", [["--batch-size", "0"], ["--prefix", "\udcff"], ["--target-language", "de"]])
def test_the_command_refuses_options_in_a_sentence(run, folder, options):
    status, out, err = run("--model", str(folder), *options, stdin="x")
    assert status == 2 and out == "" and err.startswith("annotated-decoder: ") and err.count("\n") == 1


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_named(monkeypatch, capsys, folder, encoding):
    monkeypatch.setattr(sys, "argv", ["annotated-decoder", "translate", "--model", str(folder)])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("the cat\nsat".encode(encoding))))
    assert cli.main() == 2
    assert "standard input looks like UTF-16; convert it" in capsys.readouterr().err


def test_a_bad_byte_or_half_a_character_spoils_its_own_line_only(translator):
    lines = [TEXTS[0], "caf\udce9", "a\0b", TEXTS[1]]
    first, bad, zero, last = translator.stream(lines)
    assert (first, last) == tuple(translator.stream(TEXTS[:2]))
    assert "'\\udce9' at 3, which is no character; give text in UTF-8" in str(bad)
    assert "'\\x00' at 1" in str(zero)


def test_a_line_that_fails_in_the_model_is_refused_alone(translator):
    class Failing(DecodingSettings):
        def sequences(self, model, source, mask):
            sizes.append(len(source))
            if (source == bad).any():
                raise ValueError("no token has a finite logit")
            if len(source) > 3:
                raise RuntimeError("can't allocate memory")
            return translator.settings.sequences(model, source, mask)

    sizes, bad = [], translator.encode("ZEBRA")[1]                # the unknown piece's
    failing = Translator(translator.model, translator.tokenizer, Failing(**vars(translator.settings)))
    found = [*failing.stream([*TEXTS[:3], "ZEBRA", *TEXTS[4:7]])]
    assert found[:3] + found[4:] == [*translator.stream([*TEXTS[:3], *TEXTS[4:7]])]
    assert isinstance(found[3], ValueError) and str(found[3]) == "no token has a finite logit"
    assert sizes[0] == 7


def test_a_wide_beam_has_few_lines_side_by_side(translator):
    sizes = []

    class Wide(DecodingSettings):
        def sequences(self, model, source, mask):
            sizes.append(source.shape)
            return [[(0,)]] * len(source)

    settings = Wide(**vars(translator.settings) | dict(width=100, max_steps=300))
    wide = Translator(translator.model, translator.tokenizer, settings)
    lines = [f"{text} {i}" for i in range(10) for text in TEXTS]
    assert len([*wide.stream(lines, batch_size=64)]) == 80
    assert sum(n for n, _ in sizes) == 80 and max(n for n, _ in sizes) * 100 * 300 <= 2**16


def test_a_tokenizer_of_another_model_or_of_nothing_is_refused(translator):
    class Other:
        def encode(self, text):
            return {"none": [], "below": [-1], "above": [3, 10**6]}[text]

    other = Translator(translator.model, Other(), translator.settings)
    for name, what in dict(none="no token of 'none'", below="token -1 of", above="token 1000000 of").items():
        (refused,) = other.stream([name])
        assert what in str(refused) and "give the tokenizer that belongs to the model" in str(refused)


def test_a_line_without_end_is_refused_before_it_is_cut(translator):
    (refused,) = translator.stream(["a" * 10**6])
    assert "has 1000000 characters, and the encoder has positions for 40" in str(refused)


SPLIT = {
    "He came. She left!  Who? ": ["He came.", "She left!", "Who?"],
    "Dr. Who met J. S. Bach, e.g. in Rome.": ["Dr. Who met J. S. Bach, e.g. in Rome."],
    'He said "no." Then 3.5 came... and went.': ['He said "no."', "Then 3.5 came... and went."],
    "好。行！「はい。」 x": ["好。", "行！", "「はい。」", "x"],
    "  two  blanks ": ["  two  blanks"], "": [""], "...": ["..."],
}    # fmt: skip


@pytest.mark.parametrize("text", SPLIT)
def test_sentences_end_where_they_should_and_join_to_the_text(text):
    parted = split_sentences(text)
    assert [sentence for sentence, _ in parted] == SPLIT[text]
    assert "".join(sentence + gap for sentence, gap in parted) == text


def test_sentences_are_translated_alone_and_joined_with_what_stood_between(translator):
    first, second = texts(translator.stream(["the cat sat.", "A dog ran."]))
    (whole,) = translator.stream(["the cat sat.  A dog ran."], sentences=True)
    assert whole.text == f"{first}  {second}"
    (refused,) = translator.stream(["the cat sat.  " + "Knight " * 60], sentences=True)
    assert isinstance(refused, ValueError) and "'Knight" in str(refused)


def test_lines_without_end_are_answered_as_they_come(translator):
    def forever():
        while True:
            taken.append(1)
            yield TEXTS[0]

    taken = []
    answers = translator.stream(forever(), read_ahead=5)
    assert len({next(answers) for _ in range(7)}) == 1 and len(taken) == 10


def test_languages_are_read_and_written_by_their_tokens(translator):
    def asked(start=None, **languages):
        settings = replace(translator.settings, prompt=(5,) if start is None else (start,))
        return _set_languages(LanguageTokenizer(translator.tokenizer, {"de": 7, "en": 8}, False), settings, **languages)

    tokenizer, settings = asked(source="de", target="en")
    assert tokenizer.source == "de" and settings.constraints.forced_first == 8 and settings.prompt == (5,)
    _, settings = asked(7, source="de", target="en")              # the decoder begins with its language
    assert settings.constraints.forced_first is None and settings.prompt == (8,)
    for languages in (dict(source="xx", target="en"), dict(source="de", target="xx")):
        with pytest.raises(ValueError, match="'xx'; known are de, en"):
            asked(**languages)
    for languages, what in ((dict(source="de", target=None), "target"), (dict(source=None, target="de"), "source")):
        with pytest.raises(ValueError, match=f"no {what} language is given; known are de, en"):
            asked(**languages)
    forced = Translator(translator.model, translator.tokenizer, asked(source="de", target="en")[1])
    for rows in (forced.settings(forced.model, torch.tensor([translator.encode("the cat")])),):
        assert [row[0] for row in rows] == [8]
