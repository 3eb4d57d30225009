"""Long sound is written down window by window, with the tokens and times of transformers."""

import html
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import soundfile
import tokenizers
import torch
from reference import made
from transformers import GenerationConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

from annotated_decoder.__main__ import main
from annotated_decoder.pretrained import audio
from annotated_decoder.pretrained.audio import read_audio
from annotated_decoder.pretrained.settings import DecodingSettings
from annotated_decoder.pretrained.transcribing import Segment, Transcriber, cut_window, write_segments

FIRST = 39    # the first time
RATE = 16_000


def write_whisper(path, hears=30, **changes):
    "A tiny random checkpoint that hears so many seconds, with a tokenizer."
    n_words = FIRST + 50 * hears + 1
    sizes = dict(vocab_size=n_words, num_mel_bins=80, max_source_positions=50 * hears, encoder_layers=1)
    model = made("whisper", seed=3, end=28, wild=True, **sizes)
    asked = dict(eos_token_id=28, pad_token_id=28, decoder_start_token_id=27, max_new_tokens=12)
    asked |= dict(no_timestamps_token_id=FIRST - 1, is_multilingual=True, return_timestamps=True)
    asked |= dict(lang_to_id={"<|de|>": 30, "<|fr|>": 31}, task_to_id={"transcribe": 36, "translate": 35})
    asked |= dict(max_initial_timestamp_index=50)
    model.generation_config = GenerationConfig(**asked | changes)
    model.save_pretrained(path)
    WhisperFeatureExtractor(chunk_length=hears).save_pretrained(path)
    words = {f"w{i}": i for i in range(n_words)}
    tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0")).save(str(path / "tokenizer.json"))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "A checkpoint that hears thirty seconds, as Whisper does."
    return write_whisper(tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    "One that hears a single second."
    return write_whisper(tmp_path_factory.mktemp("small"), hears=1)


def sound(seconds, seed=0):
    t = np.arange(int(seconds * RATE)) / RATE
    noise = np.random.default_rng(seed).normal(0, 0.1, len(t))
    return (noise * np.sin(t) + 0.2 * np.sin(2 * np.pi * (200 + 20 * t) * t)).astype(np.float32)


def same(folder, samples, hears=30, width=1, **asked):
    "The segments, when all tokens and times are those of transformers."
    theirs = WhisperForConditionalGeneration.from_pretrained(folder).eval()
    long = dict(truncation=False, padding="longest") if len(samples) > hears * RATE else {}
    extract = WhisperFeatureExtractor(chunk_length=hears)
    given = extract(samples, sampling_rate=RATE, return_tensors="pt", **long).input_features
    options = dict(return_timestamps=True, return_segments=True, num_beams=width)
    with torch.no_grad():
        found = theirs.generate(given, **options, **asked)["segments"][0]
    ours = Transcriber.load(folder, timestamps=True, **asked)
    ours = replace(ours, settings=replace(ours.settings, width=width))(samples)
    kept = [tuple(t for t in s["tokens"].tolist() if t != 28) for s in found]
    assert [s.tokens for s in ours] == kept
    expected = [(float(s["start"]), float(s["end"])) for s in found]
    assert [(s.start, s.end) for s in ours] == [pytest.approx(pair, abs=1e-6) for pair in expected]
    assert all(a.start <= b.start for a, b in zip(ours, ours[1:]))
    return ours


@pytest.mark.parametrize("seconds, asked", [(5, {}), (35, {}), (70, {"language": "fr", "task": "translate"})])
def test_tokens_and_times_are_those_of_transformers(folder, seconds, asked):
    same(folder, sound(seconds), **asked)


@pytest.mark.parametrize("seconds", [0.7, 7.3])
def test_a_beam_of_two_is_that_of_transformers(small, seconds):
    wide = same(small, sound(seconds), 1, width=2)
    assert wide != Transcriber.load(small, timestamps=True)(sound(seconds))    # or the beam said nothing


@pytest.mark.parametrize("width", [1, 2])
def test_speech_of_more_than_a_window_is_heard_as_by_transformers(folder, tmp_path, width):
    if shutil.which("flite") is None:
        pytest.skip("flite is not installed")
    text = "The decoder writes one word at a time, and looks at all that it wrote before. " * 9
    subprocess.run(["flite", "-t", text, "-o", tmp_path / "said.wav"], check=True)
    samples = read_audio(tmp_path / "said.wav")
    assert 31 < len(samples) / RATE < 90
    segments = same(folder, samples, width=width)
    assert segments[-1].start > 1


def test_a_limit_of_all_positions_is_the_same_at_every_window(tmp_path):
    folder = write_whisper(tmp_path, hears=1, max_new_tokens=None, max_length=32)
    segments = same(folder, sound(5), 1)
    assert len(segments) > 5 and max(len(s.tokens) for s in segments) == 30


def test_a_limit_of_fewer_tokens_does_not_grow(tmp_path):
    folder = write_whisper(tmp_path, hears=1, max_new_tokens=None, max_length=10)
    lengths = [len(s.tokens) for s in Transcriber.load(folder, timestamps=True)(sound(5))]
    assert len(lengths) > 5 and max(lengths[:2]) == max(lengths[-2:]) == 8    # the prompt has two


@pytest.mark.parametrize("tokens", [(FIRST,), (FIRST, FIRST), (FIRST, 5, FIRST, FIRST), (FIRST, 5, FIRST, FIRST, 7)])
def test_a_model_that_writes_no_time_but_the_first_comes_to_an_end(small, tokens, monkeypatch):
    def always(settings, model, source):
        windows.append(source)
        assert len(windows) < 9
        return [tokens]

    windows = []
    monkeypatch.setattr(DecodingSettings, "__call__", always)
    segments = Transcriber.load(small, timestamps=True)(sound(2.5))
    assert len(windows) == 3 and {s.start for s in segments} == {0, 1, 2}


def test_a_step_is_never_0_and_follows_the_last_cut():
    for tokens in product((5, FIRST, FIRST + 1, FIRST + 50), repeat=4):
        stretches, step = cut_window(tokens, FIRST, 100)
        assert step == 100 or 0 < step == stretches[-1][1]


def test_a_window_of_another_length_than_the_models_is_refused(small, tmp_path):
    folder = shutil.copytree(small, tmp_path / "other")
    WhisperFeatureExtractor(chunk_length=30).save_pretrained(folder)
    with pytest.raises(ValueError, match="chunk_length is 30; the model hears 1 second"):
        Transcriber.load(folder)


def test_the_first_windows_language_counts_for_all(small, monkeypatch):
    def recording(settings, model, source):
        asked.append((settings.prompt, settings.languages))
        return answer(settings, model, source)

    answer, asked = DecodingSettings.__call__, []
    monkeypatch.setattr(DecodingSettings, "__call__", recording)
    transcriber = Transcriber.load(small, timestamps=True)
    transcriber(sound(3))
    assert transcriber.settings.prompt == (27, 30) and transcriber.settings.languages == (30, 31)
    assert len(asked) > 2 and {*asked} == {((27, 31), ())}    # it is French that is heard


def test_without_times_a_window_is_a_segment(folder):
    segments = Transcriber.load(folder, timestamps=False)(sound(70))
    assert [(s.start, s.end) for s in segments] == [(0, 30), (30, 60), (60, 70)]


SAID = [Segment(0.0, 1.5, "Look <here>:", ()), Segment(3723.004, 3725.0, "a --> b", ())]
WRITTEN = {
    "text": "Look <here>:\na --> b\n",
    "srt": "1\n00:00:00,000 --> 00:00:01,500\nLook <here>:\n\n2\n01:02:03,004 --> 01:02:05,000\na -> b\n\n",
    "vtt": "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nLook &lt;here&gt;:\n\n"
    "01:02:03.004 --> 01:02:05.000\na --&gt; b\n\n",
}


@pytest.mark.parametrize("kind", WRITTEN)
def test_segments_are_written_as_subtitles(kind):
    assert write_segments(SAID, kind) == WRITTEN[kind]


def parsed(written, kind):
    "Times in seconds and text of each cue: a parser that knows the format alone."
    point = {"srt": ",", "vtt": r"\."}[kind]
    head, *blocks = (["", *written.split("\n\n")] if kind == "srt" else written.split("\n\n"))
    assert head == ("WEBVTT" if kind == "vtt" else "") and blocks.pop() == ""
    clock = rf"(\d\d+):([0-5]\d):([0-5]\d){point}(\d{{3}})"
    cues = []
    for number, block in enumerate(blocks, 1):
        lines = block.split("\n")
        if kind == "srt":
            assert lines.pop(0) == str(number)
        times, text = lines
        units = [int(n) for n in re.fullmatch(f"{clock} --> {clock}", times).groups()]
        start, end = ((h * 3600 + m * 60 + s) + ms / 1000 for h, m, s, ms in (units[:4], units[4:]))
        cues.append((start, end, html.unescape(text) if kind == "vtt" else text))
    return cues


@pytest.mark.parametrize("kind", ["srt", "vtt"])
def test_written_subtitles_are_read_back(kind, small):
    heard = Transcriber.load(small, timestamps=True)(sound(5))
    later = [replace(s, start=s.start + 5, end=s.end + 360_007.5) for s in heard]    # a hundred hours
    said = [*heard, *later, Segment(7200.0, 7201.999, "2 < 3 & 4\n\n5 &amp; 6", ()), Segment(7202.0, 7203.0, " ", ())]
    cues = parsed(write_segments(said, kind), kind)
    expected = [(s.start, s.end, " ".join(s.text.split())) for s in said if s.text.strip()]
    assert len(cues) > 10 and [cue[2] for cue in cues] == [each[2] for each in expected]
    for cue, each in zip(cues, expected):
        assert cue[:2] == pytest.approx(each[:2], abs=6e-4)
    starts = [cue[0] for cue in cues]
    assert starts == sorted(starts) and max(cue[1] for cue in cues) > 360_000


def test_another_format_is_refused():
    with pytest.raises(ValueError, match="the format is 'ass'; give text, srt or vtt"):
        write_segments(SAID, "ass")


# The command

@pytest.fixture
def command(monkeypatch, capsys):
    "Run `transcribe`: the status, the answers as JSON, and what is told."
    def run(folder, *arguments):
        asked = ["--model", str(folder), "--format", "json", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", ["annotated-decoder", "transcribe", *asked])
        try:
            status = main()
        except SystemExit as end:
            status = end.code
        out, err = capsys.readouterr()
        return status, [json.loads(line) for line in out.splitlines()], err

    return run


def test_the_command_names_a_bad_file_and_goes_on(small, tmp_path, monkeypatch, command):
    def read(path):
        if "shut" in path:
            raise PermissionError(13, "Permission denied", path)
        return read_audio(path)

    for name in ("shut", "good", "also"):
        soundfile.write(tmp_path / f"{name}.wav", sound(3), RATE)
    (tmp_path / "text.wav").write_text("no sound")
    monkeypatch.setattr(audio, "read_audio", read)
    names = [str(tmp_path / f"{name}.wav") for name in ("none", "shut", "good", "text", "also")]
    status, answers, err = command(small, *names)
    assert status == 1 and [answer["file"] for answer in answers] == [names[2], names[4]]
    assert answers[0]["segments"] == answers[1]["segments"] != []
    told = [line for line in err.splitlines() if line.startswith(str(tmp_path))]
    assert len(told) == 3 and "none.wav is no file; give one of sound" in told[0]
    assert told[1] == f"{names[1]}: Permission denied; check its name, and whether you may use it"
    assert "text.wav is no sound that can be read" in told[2]


@pytest.mark.parametrize("options, asked, width", [
    ((), {}, 1), (("--beam", 2), {}, 2), (("--task", "translate"), dict(task="translate"), 1),
    (("--language", "french"), dict(language="fr"), 1),
    (("--language", "de", "--task", "translate", "--beam", 3), dict(language="de", task="translate"), 3),
])    # fmt: skip
def test_the_commands_options_are_those_of_the_settings(small, tmp_path, command, options, asked, width):
    soundfile.write(tmp_path / "said.wav", sound(3), RATE, "FLOAT")
    status, (answer,), _ = command(small, tmp_path / "said.wav", *options)
    ours = Transcriber.load(small, timestamps=True, **asked)
    segments = replace(ours, settings=replace(ours.settings, width=width))(sound(3))
    assert status == 0
    assert answer["segments"] == [dict(start=s.start, end=s.end, text=s.text) for s in segments]


@pytest.mark.parametrize("options, why", [
    (("--beam", 0), "--beam is 0; give a number from 1 to 100"),
    (("--beam", 101), "--beam is 101; give a number from 1 to 100"),
    (("--language", "klingon"), "lacks the language 'klingon'; known are de, fr"),
    (("--task", "sing"), "invalid choice: 'sing'"),
])    # fmt: skip
def test_an_option_that_cannot_be_had_ends_the_command_before_a_file_is_read(small, command, options, why):
    status, answers, err = command(small, "none.wav", *options)
    assert status == 2 and not answers and why in err and "none.wav" not in err
