// The voice in the page: what it makes of the bank's pieces.
// BANK is the file that tools/voice.py writes, SAID words with their phonemes, MODULE the voice; WAVE a file like BANK,
// of one piece of eight periods, three of them its first sound's, and WAVE.json the samples that were packed into it.

import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { test } from "node:test";

const { BANK, SAID, WAVE, MODULE, OUT } = process.env;
const { Voice } = await import(MODULE);
const read = (name = BANK) => new Voice(new Uint8Array(readFileSync(name)).buffer);
const voice = read(), said = Object.entries(JSON.parse(readFileSync(SAID, "utf8")));
const most = (samples, of) => samples.reduce((top, _, i) => Math.max(top, of(samples, i)), 0);
const level = (samples, i) => Math.abs(samples[i]);
const step = (samples, i) => Math.abs(samples[i] - (i ? samples[i - 1] : 0));
// Samples from one period of the voice to the next, at a share of what is said.
const apart = (samples, share) => {
  const at = Math.round(share * samples.length), lags = Array.from({ length: 80 }, (_, i) => i + 120);
  const like = (lag) => samples.subarray(at, at + 500).reduce((sum, x, i) => sum + x * samples[at + i + lag], 0);
  return lags.reduce((best, lag) => (like(lag) > like(best) ? lag : best));
};
const same = (a, b) => assert.deepEqual([...a], [...b]);

test("a piece is read as it was packed, and parted where its second sound begins", { skip: !WAVE }, () => {
  const parts = read(WAVE).piece("_ K"), wave = JSON.parse(readFileSync(`${WAVE}.json`, "utf8"));
  assert.deepEqual(parts.map((part) => part.length), [3, 4]);
  for (const [i, period] of parts.flat().entries()) {
    const packed = wave.slice(i * voice.period, (i + 2) * voice.period), apart = period.map((x, k) => x - packed[k]);
    assert.equal(period.length, packed.length);
    assert.ok(Math.hypot(...apart) < 0.1 * Math.hypot(...packed), `${i}: ${Math.hypot(...apart)}`);
  }
});

test("a word has a length that a speaker would give it, starts and ends in silence, and no sample is above 1", () => {
  for (const [word, symbols] of said) {
    const { samples, rate, unknown } = voice.say(symbols), seconds = samples.length / rate;
    assert.deepEqual(unknown, []);
    assert.ok(seconds > 0.07 + 0.045 * symbols.length && seconds < 0.2 + 0.14 * symbols.length, `${word}: ${seconds} s`);
    assert.ok(most(samples, level) <= 0.8001 && most(samples, level) > 0.79, word);
    assert.ok(Math.abs(samples[0]) < 0.003 && Math.abs(samples.at(-1)) < 0.003, word);
    assert.ok(samples.every(Number.isFinite), word);
  }
});

test("where two pieces that do not agree are joined there is a slope of a whole period, and no click", () => {
  const wave = (value) => ({ loud: 1, high: 1, wave: new Float32Array(2 * voice.period).fill(value) });
  const joined = voice.join([...Array(9).fill(wave(1)), ...Array(9).fill(wave(-1))]);
  assert.ok(most(joined, level) > 0.7 && most(joined, step) < 0.05, most(joined, step));
});

test("a noise that lasts does not hum, though its periods come twice", () => {
  for (const noise of ["F", "S", "SH", "TH"]) {
    const { samples } = voice.say(["AA0", noise, noise, "AA0"]), middle = samples.length >> 1;
    const alike = (at, lag) => {
      const [one, other] = [at, at + lag].map((from) => samples.subarray(from, from + 200));
      return one.reduce((sum, x, i) => sum + x * other[i], 0) / (Math.hypot(...one) * Math.hypot(...other));
    };
    for (let at = middle - 400; at < middle + 400; at += 80)
      for (let lag = 150; lag < 180; lag++) assert.ok(alike(at, lag) < 0.6, `${noise}: ${alike(at, lag)}`);
  }
});

test("a word is the same each time, and whatever was said before", () => {
  const [[, first], [, second]] = said, { samples } = voice.say(first);
  voice.say(second);
  same(voice.say(first).samples, samples);
  same(read().say(first).samples, samples);
});

test("a stressed vowel is longer, louder and higher than one without stress", () => {
  const says = (digits) => voice.say(["B", `EH${digits[0]}`, "D", "EH1", `EH${digits[1]}`]).samples.length;
  assert.ok(says("10") > says("00") && says("01") > says("00"));
  const half = (symbols, from, to) => {
    const { samples } = voice.say(symbols), part = samples.slice(from * samples.length, to * samples.length);
    return Math.hypot(...part) / part.length ** 0.5;
  };
  const noun = ["B", "AA1", "T", "AA0", "T"], verb = ["B", "AA0", "T", "AA1", "T"];
  assert.ok(half(noun, 0, 0.5) / half(noun, 0.5, 1) > 1.3 * (half(verb, 0, 0.5) / half(verb, 0.5, 1)));
  const long = (digit) => voice.say(["AA0", "AA0", `AA${digit}`, "AA0", "AA0"]).samples;
  assert.ok(apart(long(1), 0.5) < apart(long(0), 0.5), `${apart(long(1), 0.5)} ${apart(long(0), 0.5)}`);
});

test("the voice falls from the beginning to the end, where no stress lifts it", () => {
  const { samples } = voice.say(Array(8).fill("AA0")), found = [0.2, 0.4, 0.6, 0.8].map((at) => apart(samples, at));
  assert.ok(found.every((lag, i) => !i || lag > found[i - 1]), found.join(" "));
  assert.ok(found[0] > 155 && found[3] < 185, found.join(" "));
});

test("a symbol without a sound is passed over and named", () => {
  const { samples, unknown } = voice.say(["K", "</s>", "AE1", "toString", "T"]);
  assert.deepEqual(unknown, ["</s>", "toString"]);
  same(samples, voice.say(["K", "AE1", "T"]).samples);
  assert.ok(most(voice.say(["?"]).samples, level) === 0 && voice.say([]).samples.length > 0);
});

test("what is said is written for others to hear", { skip: !OUT }, () => {
  const all = said.map(([word, symbols]) => [word, [...voice.say(symbols).samples].map((x) => Math.round(x * 32767))]);
  writeFileSync(OUT, JSON.stringify(Object.fromEntries(all)));
});
