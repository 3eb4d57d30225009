// The decoder in the page says what the package says: the same tokens, and the same numbers within 1e-4.
// MODEL and GOLDEN name a model's file and what golden_steps.py wrote of it; MODULE is the decoder.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

const { MODEL, GOLDEN, MODULE } = process.env;
const { Model, generate, greedy, softmax } = await import(MODULE);
const read = (name) => new Uint8Array(readFileSync(name)).buffer;
const golden = JSON.parse(readFileSync(GOLDEN, "utf8"));
const model = new Model(read(MODEL));
const say = (word, options) => [...generate(model, model.encode(model.lettersOf(word)), options)];
const farthest = (found, told) => Math.max(...found.map((value, i) => Math.abs(value - told[i])));

test("tokens, probabilities and cross-attention are the package's", () => {
  const least = { probability: 0, attention: 0 };
  for (const { word, tokens, finished, probabilities, attention } of golden) {
    const steps = say(word);
    assert.deepEqual(steps.map((step) => step.token), tokens, word);
    assert.equal(steps.at(-1).finished, finished, word);
    for (const [t, { logits, attention: layers }] of steps.entries()) {
      assert.equal(logits.length, probabilities[t].length);
      least.probability = Math.max(least.probability, farthest(softmax(logits), probabilities[t]));
      for (const [layer, heads] of layers.entries()) for (const [head, row] of heads.entries()) {
        assert.equal(row.length, attention[layer][head][t].length);
        least.attention = Math.max(least.attention, farthest(row, attention[layer][head][t]));
      }
      assert.equal(layers.length, attention.length);
      assert.equal(layers[0].length, attention[0].length);
    }
  }
  console.log(`${golden.length} words, largest difference ${JSON.stringify(least)}`);
  assert.ok(golden.length >= Number(process.env.WORDS));
  assert.ok(least.probability < 1e-4 && least.attention < 1e-4, JSON.stringify(least));
});

test("a hidden letter is not looked at, and all weights are shared among the others", () => {
  const hidden = [false, true];
  for (const { attention } of say("read", { hidden })) {
    for (const row of attention.flat()) {
      assert.equal(row[1], 0);
      assert.ok(Math.abs(row.reduce((sum, weight) => sum + weight, 0) - 1) < 1e-6);
    }
  }
  const plain = say("read").map((step) => step.token);
  assert.deepEqual(say("read", { hidden: [] }).map((step) => step.token), plain);
  assert.notDeepEqual(say("read", { hidden: [false, true, true] }).map((step) => step.token), plain);
});

test("another choice changes what follows, and nothing before it", () => {
  const plain = say("read"), other = model.target.indexOf("EH1");
  const forced = say("read", { choose: (logits, position) => (position === 1 ? other : greedy(logits)) });
  assert.equal(forced[0].token, plain[0].token);
  assert.deepEqual(forced[1].logits, plain[1].logits);
  assert.equal(forced[1].token, other);
  assert.notDeepEqual(forced[2].logits, plain[2].logits);
});

test("a temperature sharpens or flattens, and changes no order", () => {
  const logits = [1, 3, 2];
  const [cold, plain, hot] = [0.5, 1, 2].map((temperature) => softmax(logits, temperature));
  assert.ok(cold[1] > plain[1] && plain[1] > hot[1] && hot[1] > hot[2] && hot[2] > hot[0]);
  for (const p of [cold, plain, hot]) assert.ok(Math.abs(p[0] + p[1] + p[2] - 1) < 1e-12);
});

test("a word is read as people write it, and what cannot be read is answered by a sentence", () => {
  const most = model.about.encoder.max_len - 1;
  for (const [word, letters] of [[" Naïve", "naive"], ["ÉCLAIR ", "eclair"], ["cat", "cat"]]) {
    assert.equal(model.lettersOf(word).join(""), letters);
  }
  assert.equal(model.lettersOf("a".repeat(most)).length, most);
  const sentences = { "": /Type a word/, "two words": /One word at a time/, r2d2: /no numbers/, "x-ray": /“-”/,
    слово: /never seen “с”/, ["a".repeat(most + 1)]: new RegExp(`${most + 1} letters; the model reads at most ${most}`) };
  for (const [word, sentence] of Object.entries(sentences)) assert.throws(() => model.lettersOf(word), sentence);
});

test("a file that asks for other layers is refused by name", () => {
  const buffer = read(MODEL), length = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const about = JSON.parse(header.__metadata__.model);
  const changed = (change) => {
    const model = JSON.stringify({ ...about, decoder: { ...about.decoder, ...change } });
    const text = new TextEncoder().encode(JSON.stringify({ ...header, __metadata__: { model } }));
    const file = new Uint8Array(8 + text.length + buffer.byteLength - 8 - length);
    new DataView(file.buffer).setBigUint64(0, BigInt(text.length), true);
    file.set(text, 8);
    file.set(new Uint8Array(buffer, 8 + length), 8 + text.length);
    return file.buffer;
  };
  assert.throws(() => new Model(changed({ norm: "rms" })), /the decoder's norm is rms; this page has layer/);
  assert.throws(() => new Model(changed({ positions: "learned" })), /the decoder's positions is learned/);
  assert.equal(new Model(changed({})).layers.length, model.layers.length);
});
