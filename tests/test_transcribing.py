"""Long sound is written down window by window, with the tokens and times of transformers."""

import json
import sys

import numpy as np
import pytest
import soundfile
import tokenizers
import torch
from reference import made
from transformers import GenerationConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

from annotated_decoder.__main__ import main
from annotated_decoder.pretrained.transcribing import Segment, Transcriber, write_segments

FIRST = 39    # the first time; the vocabulary has 1,501 of them
RATE = 16_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "A tiny random checkpoint that hears thirty seconds, with a tokenizer."
    path = tmp_path_factory.mktemp("whisper")
    sizes = dict(vocab_size=FIRST + 1501, num_mel_bins=80, max_source_positions=1500, encoder_layers=1)
    model = made("whisper", seed=3, end=28, wild=True, **sizes)
    asked = dict(eos_token_id=28, pad_token_id=28, decoder_start_token_id=27, max_new_tokens=12)
    asked |= dict(no_timestamps_token_id=FIRST - 1, is_multilingual=True, return_timestamps=True)
    asked |= dict(lang_to_id={"<|de|>": 30, "<|fr|>": 31}, task_to_id={"transcribe": 36, "translate": 35})
    asked |= dict(max_initial_timestamp_index=50)
    model.generation_config = GenerationConfig(**asked)
    model.save_pretrained(path)
    WhisperFeatureExtractor().save_pretrained(path)
    words = {f"w{i}": i for i in range(FIRST + 1501)}
    tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0")).save(str(path / "tokenizer.json"))
    return path


def sound(seconds, seed=0):
    t = np.arange(int(seconds * RATE)) / RATE
    noise = np.random.default_rng(seed).normal(0, 0.1, len(t))
    return (noise * np.sin(t) + 0.2 * np.sin(2 * np.pi * (200 + 20 * t) * t)).astype(np.float32)


@pytest.mark.parametrize("seconds, asked", [(5, {}), (35, {}), (70, {"language": "fr", "task": "translate"})])
def test_tokens_and_times_are_those_of_transformers(folder, seconds, asked):
    samples = sound(seconds)
    theirs = WhisperForConditionalGeneration.from_pretrained(folder).eval()
    long = dict(truncation=False, padding="longest") if seconds > 30 else {}
    given = WhisperFeatureExtractor()(samples, sampling_rate=RATE, return_tensors="pt", **long).input_features
    with torch.no_grad():
        found = theirs.generate(given, return_timestamps=True, return_segments=True, **asked)["segments"][0]
    ours = Transcriber.load(folder, timestamps=True, **asked)(samples)
    kept = [tuple(t for t in s["tokens"].tolist() if t != 28) for s in found]
    assert [s.tokens for s in ours] == kept
    expected = [(float(s["start"]), float(s["end"])) for s in found]
    assert [(s.start, s.end) for s in ours] == [pytest.approx(pair, abs=1e-6) for pair in expected]
    assert all(a.start <= b.start for a, b in zip(ours, ours[1:]))


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


def test_another_format_is_refused():
    with pytest.raises(ValueError, match="the format is 'ass'; give text, srt or vtt"):
        write_segments(SAID, "ass")


def test_the_command_names_a_bad_file_and_goes_on(folder, tmp_path, monkeypatch, capsys):
    soundfile.write(tmp_path / "good.wav", sound(3), RATE)
    files = [str(tmp_path / "none.wav"), str(tmp_path / "good.wav")]
    asked = ["--model", str(folder), "--format", "json"]
    monkeypatch.setattr(sys, "argv", ["annotated-decoder", "transcribe", *files, *asked])
    assert main() == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["file"] == files[1] and json.loads(out)["segments"]
    assert "none.wav is no file" in err
