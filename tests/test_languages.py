"""A folder as its family publishes it translates as transformers does: the ids read, the token that names the language,
the ids written and the text, for one language or many.
"""

import io
import json
import sys
from dataclasses import dataclass, field, replace

import pytest
import sentencepiece
import torch
import transformers
from reference import made
from test_tokenizing import BPE, FROM_ZERO, M2M100_CODES, MBART50_CODES, MBART_CODES, NLLB_CODES, TEXTS

from annotated_decoder import cli
from annotated_decoder.pretrained.settings import DecodingSettings
from annotated_decoder.pretrained.translating import Translator

LINES = [*TEXTS, "the cat, the dog and the fox?", "ü", "ZEBRA ☃ zebra"]
SPECIAL = dict(bos_token="<s>", eos_token="</s>", sep_token="</s>", unk_token="<unk>", pad_token="<pad>")
FAIRSEQ = dict(pad_token_id=1, bos_token_id=0, decoder_start_token_id=2, max_position_embeddings=64)


@dataclass(frozen=True)
class Published:
    "How a checkpoint of a family is published, and which languages are tried on it."

    model: str                      # one of `reference`
    tokenizer: str                  # the class of transformers, without Tokenizer behind
    seed: int                       # found by searching: answers of many lengths and words
    config: dict
    pieces: str | None = "sentencepiece.bpe.model"
    training: dict = field(default_factory=dict)
    codes: tuple = ()               # the tokens of its languages
    pairs: tuple = ((None, None),)
    start: str | None = None        # the language that the decoder begins with, where it begins with one
    told: dict = field(default_factory=dict)    # what else stands in tokenizer_config.json

    def token(self, code):
        return f"__{code}__" if self.tokenizer == "M2M100" else code


SPIECE = dict(pieces="spiece.model", training=FROM_ZERO)
NLLB = dict(training=BPE, codes=NLLB_CODES, pairs=(("deu_Latn", "eng_Latn"), ("zul_Latn", "ace_Arab")))
KINDS = {
    "mBART": Published(
        "mbart", "MBart", 10, FAIRSEQ, codes=MBART_CODES,
        pairs=(("de_DE", "en_XX"), ("en_XX", "ro_RO"), ("zh_CN", "zh_CN")),
    ),
    "mBART that begins with a language": Published(
        "mbart", "MBart", 1, FAIRSEQ, codes=MBART_CODES, pairs=(("en_XX", "ro_RO"), ("ro_RO", "fr_XX")), start="ro_RO",
    ),
    "mBART-50": Published(
        "mbart", "MBart50", 2, FAIRSEQ, codes=MBART50_CODES, pairs=(("de_DE", "en_XX"), ("sl_SI", "ar_AR")),
    ),
    "M2M100": Published(
        "m2m_100", "M2M100", 27, FAIRSEQ, codes=[f"__{code}__" for code in M2M100_CODES["m2m100"]],
        pairs=(("de", "en"), ("zu", "af"), ("ast", "zh")),
    ),
    "NLLB": Published("m2m_100", "Nllb", 23, FAIRSEQ, **NLLB),
    "NLLB as it was": Published("m2m_100", "Nllb", 23, FAIRSEQ, **NLLB, told=dict(legacy_behaviour=True)),
    "mT5": Published("mt5", "T5", 17, {}, **SPIECE),
    "T5": Published("t5", "T5", 11, {}, **SPIECE),
    "ByT5": Published("t5, gated", "ByT5", 46, {}, pieces=None),
    "Pegasus": Published("pegasus", "Pegasus", 43, dict(max_position_embeddings=64), **SPIECE),
}    # fmt: skip


def write_tokenizer(folder, about):
    "The files of a tokenizer trained on a few lines, by the names that the family has for them; transformers' own."
    if about.pieces:
        with open(folder / about.pieces, "wb") as file:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(TEXTS * 5), model_writer=file, character_coverage=1.0, minloglevel=2,
                **dict(model_type="unigram", vocab_size=55) | about.training,
            )    # fmt: skip
    if about.tokenizer == "M2M100":
        model = sentencepiece.SentencePieceProcessor(model_file=str(folder / about.pieces))
        pieces = [model.id_to_piece(i) for i in range(3, len(model))][::-1]
        table = {piece: i for i, piece in enumerate(["<s>", "<pad>", "</s>", "<unk>", *pieces])}
        (folder / "vocab.json").write_text(json.dumps(table), encoding="utf-8")
    config = {"tokenizer_class": f"{about.tokenizer}Tokenizer"} | about.told
    if about.codes:
        config |= dict(src_lang=None, tgt_lang=None)
        special = SPECIAL | dict(additional_special_tokens=[*about.codes])
        (folder / "special_tokens_map.json").write_text(json.dumps(special), encoding="utf-8")
    if about.tokenizer == "Nllb":
        names = enumerate([*about.codes, "<mask>"], BPE["vocab_size"] + 1)
        config |= {"added_tokens_decoder": {str(i): {"content": name, "special": True} for i, name in names}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return getattr(transformers, f"{about.tokenizer}Tokenizer").from_pretrained(folder)


def write(folder, about):
    "The whole folder; transformers' tokenizer and model."
    theirs = write_tokenizer(folder, about)
    end, start = theirs.eos_token_id, about.config.get("decoder_start_token_id", 0)
    start = theirs.convert_tokens_to_ids(about.start) if about.start else start
    ids = dict(vocab_size=len(theirs) + len(about.codes) // 50, decoder_start_token_id=start)
    model = made(about.model, about.seed, end, wild=True, **about.config | ids)
    with torch.no_grad():    # so that the end comes, and at different places
        model.get_output_embeddings().weight[end] *= 2
    forced = {} if about.model.startswith(("t5", "mt5", "m2m")) else dict(forced_eos_token_id=end)
    model.generation_config = transformers.GenerationConfig(
        decoder_start_token_id=start, bos_token_id=about.config.get("bos_token_id"), eos_token_id=end,
        pad_token_id=theirs.pad_token_id, num_beams=3, max_length=14, **forced,
    )    # fmt: skip
    model.save_pretrained(folder)
    return theirs, type(model).from_pretrained(folder, attn_implementation="eager").eval()


CASES = [(kind, False) for kind in KINDS] + [(kind, True) for kind in KINDS if kind not in ("M2M100", "ByT5")]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}{', one file' if case[1] else ''}")
def case(request, tmp_path_factory):
    "A kind, its folder, and the tokenizer and model of transformers; with tokenizer.json, or without."
    kind, one_file = request.param
    folder = tmp_path_factory.mktemp("model")
    theirs, model = write(folder, KINDS[kind])
    if one_file:
        theirs.save_pretrained(folder)
        config = json.loads((folder / "tokenizer_config.json").read_bytes()) | dict(src_lang=None)    # as published
        (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    assert (folder / "tokenizer.json").is_file() == one_file
    return KINDS[kind], folder, theirs, model


class Noting(DecodingSettings):
    "Settings that note which ids they are given and which they answer."

    noted: list = []

    def sequences(self, model, source, mask):
        found = super().sequences(model, source, mask)
        rows = [tuple(row[real].tolist()) for row, real in zip(source, mask, strict=True)]
        self.noted.extend((row, list(answers[0])) for row, answers in zip(rows, found, strict=True))
        return found


def asked_of_them(about, theirs, pair):
    "What transformers is to be told of the languages."
    if pair == (None, None):
        return {}
    theirs.src_lang, token = pair[0], theirs.convert_tokens_to_ids(about.token(pair[1]))
    return {"decoder_start_token_id" if about.start else "forced_bos_token_id": token}


@torch.no_grad()
@pytest.mark.parametrize("beams", [1, 3])
def test_what_is_read_and_written_is_what_transformers_reads_and_writes(case, beams):
    about, folder, theirs, model = case
    lengths, words = set(), set()
    for pair in about.pairs:
        translator = Translator.load(folder, source_language=pair[0], target_language=pair[1])
        noting = replace(translator, settings=Noting(**vars(translator.settings)))
        noting.settings.noted.clear()
        answers = [*noting.stream(LINES, beam=beams, batch_size=4)]
        noted = dict(noting.settings.noted)
        forced = asked_of_them(about, theirs, pair)
        given = theirs(LINES, padding=True, return_tensors="pt")
        rows = model.generate(**given, num_beams=beams, **forced)
        real = given.attention_mask.bool()
        read = [tuple(row[there].tolist()) for row, there in zip(given.input_ids, real, strict=True)]
        assert [*map(tuple, map(translator.encode, LINES))] == read and noted.keys() == {*read}
        first = translator.settings.prompt[0] if about.start else translator.settings.constraints.forced_first
        assert [first] == ([*forced.values()] or [None])
        end = theirs.eos_token_id
        for ids, row in zip(read, rows.tolist(), strict=True):
            assert noted[ids] == (row[1 : row.index(end, 1) + 1] if end in row[1:] else row[1:])
        texts = [text.strip() for text in theirs.batch_decode(rows, skip_special_tokens=True)]
        assert [answer.text for answer in answers] == texts
        lengths, words = lengths | {*map(len, noted.values())}, words | {*texts}
    assert len(lengths) > 1 and len(words) > 3    # it says many things


@pytest.fixture
def run(monkeypatch, capsys):
    def run(folder, *options):
        monkeypatch.setattr(sys, "argv", ["annotated-decoder", "translate", "--model", str(folder), *options])
        monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(LINES)))
        status = cli.main()
        out, err = capsys.readouterr()
        return status, out.split("\n")[:-1], err

    return run


MANY = [("mBART", False), ("mBART that begins with a language", True), ("mBART-50", False)]
MANY += [("M2M100", False), ("NLLB", False), ("NLLB", True)]


@pytest.mark.parametrize("case", MANY, indirect=True, ids=str)
def test_the_command_translates_from_one_language_into_another(case, run):
    about, folder, theirs, model = case
    source, target = about.pairs[-1]
    forced = asked_of_them(about, theirs, (source, target))
    rows = model.generate(**theirs(LINES, padding=True, return_tensors="pt"), **forced)
    texts = [text.strip() for text in theirs.batch_decode(rows, skip_special_tokens=True)]
    _, out, err = run(folder, "--source-language", source, "--target-language", target)
    assert out == texts and all(": the limit of 13 tokens ended it" in line for line in err.splitlines())


REFUSED = {  # the languages that are given: what is said of them
    (None, None): "no source language is given; known are ",
    ("", "{target}"): "the language is ''; known are ",
    ("{source}", "xx_XX"): "the language is 'xx_XX'; known are ",
    ("xx\n", "{target}"): "the language is 'xx\\\\n'; known are ",
    (None, "{target}"): "no source language is given; known are ",
}


@pytest.mark.parametrize("given", REFUSED, ids=repr)
@pytest.mark.parametrize("case", [MANY[0], *MANY[3:]], indirect=True, ids=str)
def test_a_language_that_is_missing_or_unknown_is_one_sentence_with_those_known(case, given, run):
    about, folder, _, _ = case
    source, target = about.pairs[0]
    pairs = zip(("--source-language", "--target-language"), given, strict=True)
    options = [f"{name}={code.format(source=source, target=target)}" for name, code in pairs if code is not None]
    status, out, err = run(folder, *options)
    said = REFUSED[given].replace("\\\\", "\\")
    assert (status, out) == (2, []) and err.startswith(f"annotated-decoder: {said}")
    assert err.count("\n") == 1 and len(err) < 1000
    assert sorted(code.strip("_") for code in about.codes)[0] in err


@pytest.mark.parametrize("case", [("mBART", False), ("M2M100", False), ("NLLB", True)], indirect=True, ids=str)
def test_a_target_is_needed_where_nothing_says_which(case, run):
    about, folder, _, _ = case
    status, out, err = run(folder, "--source-language", about.pairs[0][0])
    assert (status, out) == (2, []) and err.startswith("annotated-decoder: no target language is given; known are ")


@pytest.mark.parametrize("case", [("mT5", False), ("Pegasus", True), ("ByT5", False)], indirect=True, ids=str)
def test_a_language_is_refused_where_there_are_no_tokens_for_it(case, run):
    status, out, err = run(case[1], "--target-language", "de")
    said = "the language 'de' is given, and the tokenizer has no tokens for languages; leave it out"
    assert (status, out, err) == (2, [], f"annotated-decoder: {said}\n")


@pytest.mark.parametrize("place", [0, 1])
def test_a_language_that_the_model_has_no_token_for_is_refused_before_a_line_is_read(place, tmp_path):
    about = KINDS["mBART"]
    theirs = write_tokenizer(tmp_path, about)
    ids = about.config | dict(vocab_size=theirs.convert_tokens_to_ids("zh_CN"))
    made("mbart", 1, 2, **ids).save_pretrained(tmp_path)
    asked = dict(zip(("source_language", "target_language"), ["de_DE", "zh_CN"][:: 2 * place - 1], strict=True))
    with pytest.raises(ValueError, match="token 80 of 'zh_CN', and the vocabulary is 0 to 79; give the tokenizer that"):
        Translator.load(tmp_path, **asked)
