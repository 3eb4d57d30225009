"""What Whisper's decoder reads first, and its rule for times, are those of transformers."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from reference import source_for, write
from transformers.generation.logits_process import WhisperTimeStampLogitsProcessor
from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

from annotated_decoder.decoder import StackConfig
from annotated_decoder.pretrained import load_pretrained
from annotated_decoder.pretrained.folder import JsonFile
from annotated_decoder.pretrained.prompts import Timestamps, read_prompt
from annotated_decoder.pretrained.settings import read_settings

SIZES = dict(d_model=16, n_heads=2, d_ff=24, n_layers=1, pad_id=46, max_len=32)
SHAPE = StackConfig(**SIZES, start_id=45, end_id=28, vocab_size=47)
WIDE = replace(SHAPE, vocab_size=200)
TABLES = dict(lang_to_id={"<|de|>": 30, "<|fr|>": 31, "<|en|>": 29}, task_to_id={"translate": 35, "transcribe": 36})
TABLES |= dict(is_multilingual=True, no_timestamps_token_id=38)
FILES = {
    "all named": TABLES | dict(language="fr", task="translate"),
    "a language": TABLES | dict(language="<|de|>"),
    "a task": TABLES | dict(task="translate"),
    "nothing": TABLES,
    "an older file": TABLES | dict(forced_decoder_ids=[[1, 30], [2, 35]]),
    "an older file, its language open": TABLES | dict(forced_decoder_ids=[[1, None], [2, 35]]),
    "an older file that says no times": TABLES | dict(forced_decoder_ids=[[1, 30], [2, 36], [3, 38]]),
    "times": TABLES | dict(language="fr", return_timestamps=True),
    "English alone": dict(is_multilingual=False, no_timestamps_token_id=38),
}
GIVEN = ({}, {"language": "german"}, {"language": "fr", "task": "translate"})
GIVEN += ({"task": "transcribe"}, {"timestamps": True})


def found(fields):
    return JsonFile(Path("generation_config.json"), fields)


def their_prompt(model, source, fields, language=None, task=None, timestamps=None):
    "What transformers' generate() reads first of each row."
    asked = dict(return_timestamps=False) | fields | dict(decoder_start_token_id=45)
    config = SimpleNamespace(**asked)
    if timestamps is not None:
        config.return_timestamps = timestamps
    model._set_language_and_task(language, task, None, config)
    return model._retrieve_init_tokens(source, len(source), config, SimpleNamespace(), 24, {}).tolist()


@pytest.mark.parametrize("fields", FILES.values(), ids=FILES)
@pytest.mark.parametrize("given", GIVEN, ids=str)
def test_the_prompt_is_that_of_transformers(fields, given, folders):
    if fields["is_multilingual"] is False and given.keys() & {"language", "task"}:
        with pytest.raises(ValueError, match="English alone"):
            read_prompt(found(fields), SHAPE, **given)
        return
    theirs, ours, source = folders
    settings = read_settings(found(fields | dict(max_length=20)), SHAPE, **given)
    assert settings.prompts(ours, source).tolist() == their_prompt(theirs, source, fields, **given)
    asked = given.get("timestamps", fields.get("return_timestamps", False))
    assert (settings.timestamps is not None) == asked


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whisper")
    theirs = write(folder, "whisper", wild=True)
    source = source_for("whisper", rows=6, dtype=torch.float32)[0]
    return theirs, load_pretrained(folder), source


def test_an_unnamed_language_is_heard_in_each_row(folders):
    _, ours, source = folders
    many = {"lang_to_id": {f"<|{i}|>": i for i in range(47)}}
    settings = read_settings(found(TABLES | many | dict(max_length=20)), SHAPE)
    rows = settings.prompts(ours, source)
    assert len({*rows[:, 1].tolist()}) > 1    # several are heard, or the test would say nothing
    for row, prompt in zip(source, rows):
        assert torch.equal(settings.prompts(ours, row[None])[0], prompt)


def test_every_name_of_a_language_is_known():
    table = found({"lang_to_id": {f"<|{code}|>": i for i, code in enumerate(sorted({*TO_LANGUAGE_CODE.values()}))}})
    for name, code in TO_LANGUAGE_CODE.items():
        asked = {read_prompt(table, WIDE, s).tokens
                 for s in (name, name.title(), code, f"<|{code}|>")}    # fmt: skip
        assert asked == {(45, table.fields["lang_to_id"][f"<|{code}|>"])}


def test_an_unknown_language_or_task_is_refused_with_those_known():
    with pytest.raises(ValueError, match="lang_to_id lacks the language 'klingon'; known are de, en, fr"):
        read_prompt(found(TABLES), SHAPE, "klingon")
    with pytest.raises(ValueError, match="task_to_id lacks the task 'sing'; known are transcribe, translate"):
        read_prompt(found(TABLES), SHAPE, "fr", "sing")


@pytest.mark.parametrize("first", [None, 0, 1, 3])
@pytest.mark.parametrize("length", range(6))
def test_the_rule_for_times_is_that_of_transformers(first, length):
    config = dict(no_timestamps_token_id=11, eos_token_id=8, bos_token_id=8, max_initial_timestamp_index=first)
    rule = Timestamps(no_timestamps=11, end_id=8, prompt_length=2, max_initial=first)
    theirs = WhisperTimeStampLogitsProcessor(SimpleNamespace(**config), begin_index=2)
    generator = torch.Generator().manual_seed(length)
    for spread in (0.3, 1.0, 4.0):
        tokens = torch.randint(0, 20, (40, 2 + length), generator=generator)
        logits = spread * torch.randn(40, 20, generator=generator)
        assert torch.equal(rule(logits, tokens), theirs(tokens, logits))


@pytest.mark.parametrize("width", [1, 3])
def test_greedy_and_beam_obey_the_rule_for_times(width, folders):
    _, ours, source = folders
    asked = TABLES | dict(no_timestamps_token_id=38, language="fr", max_length=20, max_initial_timestamp_index=2)
    settings = replace(read_settings(found(asked), SHAPE, timestamps=True), width=width)
    for row in settings(ours, source):
        times = [token for token in row if token > 38]
        assert 39 <= row[0] <= 41 and times == sorted(times) and 38 not in row
