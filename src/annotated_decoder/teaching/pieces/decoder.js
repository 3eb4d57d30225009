// The trained model, in a page: the package's file of weights, and the chapters' layers in plain arithmetic.
// A vector is a Float32Array. A matrix is one too, row after row; a row is as long as the vectors it multiplies.

// ---- The file (page "The model's file") ----

// Half precision: a sign, five bits of exponent, ten of fraction.
const halfToNumber = (bits) => {
  const sign = bits >> 15 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = (bits & 1023) / 1024;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction) : 2 ** -14 * fraction);
};
const HALVES = Float32Array.from({ length: 65536 }, (_, bits) => halfToNumber(bits));

// A safetensors file: the length of its header, the header in JSON, then numbers.
// Gives what the header tells of the model, and the weights as a tree: weights.decoder.layers[0].ffn ...
export const readFile = (buffer) => {
  const length = Number(new DataView(buffer).getBigUint64(0, true)), start = 8 + length;
  const { __metadata__: metadata, ...tensors } = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const weights = {};
  for (const [name, { dtype, data_offsets: [from, to] }] of Object.entries(tensors)) {
    if (dtype !== "F16") throw new Error(`${name} is ${dtype}; this page reads half precision, F16`);
    const path = name.split("."), last = path.pop();
    const parent = path.reduce((node, key) => (node[key] ??= {}), weights);
    parent[last] = Float32Array.from(new Uint16Array(buffer.slice(start + from, start + to)), (bits) => HALVES[bits]);
  }
  return [JSON.parse(metadata.model), weights];
};

// ---- Arithmetic ----

const add = (x, y) => x.map((value, i) => value + y[i]);

const linear = ({ weight, bias }, x) => {
  const y = new Float32Array(weight.length / x.length);
  for (let row = 0, at = 0; row < y.length; row++) {
    let sum = bias ? bias[row] : 0;
    for (let i = 0; i < x.length; i++) sum += weight[at++] * x[i];
    y[row] = sum;
  }
  return y;
};

// Chapter "Normalization".
const layerNorm = ({ weight, bias }, x) => {
  const mean = x.reduce((sum, value) => sum + value, 0) / x.length;
  const variance = x.reduce((sum, value) => sum + (value - mean) ** 2, 0) / x.length;
  return x.map((value, i) => ((value - mean) / Math.sqrt(variance + 1e-5)) * weight[i] + bias[i]);
};

// Chapter "Softmax": the largest is taken off first, so that no exponential overflows.
export const softmax = (scores, temperature = 1) => {
  const largest = Math.max(...scores);
  const exponentials = Array.from(scores, (score) => Math.exp((score - largest) / temperature));
  const total = exponentials.reduce((sum, value) => sum + value, 0);
  return exponentials.map((value) => value / total);
};

// Chapter "Attention": what one query reads from keys and values, and the weights of each head.
// Where hidden[i] is true, key i cannot be looked at.
const attend = (block, nHeads, x, [keys, values], hidden = []) => {
  const query = linear(block.q_proj, x), width = query.length / nHeads;
  const read = new Float32Array(query.length);
  const weights = Array.from({ length: nHeads }, (_, head) => {
    const from = head * width, to = from + width;
    const scores = keys.map((key, i) => {
      let score = 0;
      for (let j = from; j < to; j++) score += query[j] * key[j];
      return hidden[i] ? -Infinity : score / Math.sqrt(width);
    });
    const row = softmax(scores);
    for (const [i, value] of values.entries()) for (let j = from; j < to; j++) read[j] += row[i] * value[j];
    return row;
  });
  return [linear(block.out_proj, read), weights];
};

const keysValues = (block, xs) => [xs.map((x) => linear(block.k_proj, x)), xs.map((x) => linear(block.v_proj, x))];

// Chapter "The decoder stack": up, zero for what is negative, down.
const feedForward = (ffn, x) => linear(ffn.down_proj, linear(ffn.up_proj, x).map((value) => Math.max(value, 0)));

// Chapter "Normalization": norm before a sublayer, or after the sum.
const preNorm = { read: ({ norm }, x) => layerNorm(norm, x), add: (_, x, update) => add(x, update) };
const postNorm = { read: (_, x) => x, add: ({ norm }, x, update) => layerNorm(norm, add(x, update)) };

// Chapter "Embedding and position": a token's row times √d, plus sines and cosines of where it stands.
const embed = ({ tokens: { weight } }, d, token, position) => Float32Array.from({ length: d }, (_, i) => {
  const angle = position / 10000 ** ((i - (i % 2)) / d);
  return weight[token * d + i] * Math.sqrt(d) + (i % 2 ? Math.cos(angle) : Math.sin(angle));
});

// ---- The model ----

// What the layers above are; the header of a file may ask for others.
const PARTS = {
  norm: "layer", activation: "relu", gated: false, positions: "sinusoidal", embedding_norm: false,
  embedding_scale: null, attention_scale: null, head_dim: null, norm_eps: null, linear_bias: true,
};

export class Model {
  constructor(buffer) {
    const [about, weights] = readFile(buffer);
    for (const side of ["encoder", "decoder"]) {
      for (const [name, ours] of Object.entries(PARTS)) {
        const asked = about[side][name] ?? ours;
        if (asked !== ours) throw new Error(`the ${side}'s ${name} is ${asked}; this page has ${ours}`);
      }
    }
    Object.assign(this, { about, weights, source: about.source, target: about.target, config: about.decoder });
    const { weight } = about.tied ? weights.decoder.embedding.tokens : weights.projection;
    this.head = { weight, bias: weights.projection?.bias };
    this.layers = Object.values(weights.decoder.layers);
    this.residual = about.decoder.pre_norm ? preNorm : postNorm;
  }

  // The letters of a word, as the model knows them; an Error says in a sentence why there are none.
  lettersOf(word) {
    const plain = word.trim().replace(/[\u2018\u2019\u02BC]/g, "'").normalize("NFD").replace(/\p{M}/gu, "").toLowerCase();
    const letters = [...plain], unknown = letters.find((letter) => !this.source.includes(letter));
    const most = this.about.encoder.max_len - 1;
    if (!letters.length) throw new Error("Type a word.");
    if (/\s/.test(plain)) throw new Error("One word at a time, please: there is a space in it.");
    if (/\d/.test(plain)) throw new Error("The model reads letters and no numbers: write them out, “two” for 2.");
    const known = this.source.includes("'") ? "a to z and the apostrophe" : "the letters a to z";
    if (unknown) throw new Error(`The model has never seen “${unknown}”; it reads ${known}.`);
    if (letters.length > most) throw new Error(`That is ${letters.length} letters; the model reads at most ${most}.`);
    return letters;
  }

  // Chapter "Two stacks side by side": each letter's vector, once it has read all the others.
  encode(letters) {
    const { encoder } = this.weights, { d_model: d, n_heads: nHeads, pre_norm, end_id } = this.about.encoder;
    const residual = pre_norm ? preNorm : postNorm;
    const ids = [...letters.map((letter) => this.source.indexOf(letter)), end_id];
    let xs = ids.map((id, position) => embed(encoder.embedding, d, id, position));
    for (const layer of Object.values(encoder.layers)) {
      const read = xs.map((x) => residual.read(layer.self_res, x)), kv = keysValues(layer.self_attn, read);
      xs = xs.map((x, i) => {
        const [update] = attend(layer.self_attn, nHeads, read[i], kv);
        const y = residual.add(layer.self_res, x, update);
        return residual.add(layer.ffn_res, y, feedForward(layer.ffn, residual.read(layer.ffn_res, y)));
      });
    }
    return pre_norm ? xs.map((x) => layerNorm(encoder.final_norm, x)) : xs;
  }

  decode(memory, hidden) {
    return new Decode(this, memory, hidden);
  }
}

// Chapters "The generation loop" and "Remembering keys and values": a decode under way, with its cache.
class Decode {
  constructor(model, memory, hidden) {
    Object.assign(this, { model, hidden, position: 0 });
    this.cache = model.layers.map((layer) => ({ self: [[], []], cross: keysValues(layer.cross_attn, memory) }));
  }

  // Reads one token; gives the logits of the next, and where each layer's heads looked in the memory.
  read(token) {
    const { model: { weights: { decoder }, config, layers, residual, head }, cache, hidden } = this;
    let x = embed(decoder.embedding, config.d_model, token, this.position++);
    const attention = layers.map((layer, i) => {
      const [keys, values] = cache[i].self, { self_attn: self, cross_attn: cross } = layer;
      let h = residual.read(layer.self_res, x);
      keys.push(linear(self.k_proj, h));
      values.push(linear(self.v_proj, h));
      x = residual.add(layer.self_res, x, attend(self, config.n_heads, h, cache[i].self)[0]);
      h = residual.read(layer.cross_res, x);
      const [update, looked] = attend(cross, config.n_heads, h, cache[i].cross, hidden);
      x = residual.add(layer.cross_res, x, update);
      x = residual.add(layer.ffn_res, x, feedForward(layer.ffn, residual.read(layer.ffn_res, x)));
      return looked;
    });
    if (config.pre_norm) x = layerNorm(decoder.final_norm, x);
    return { logits: linear(head, x), attention };
  }
}

// Chapter "Choosing the token": the most probable, the first of several.
export const greedy = (logits) => logits.indexOf(Math.max(...logits));

// The loop: start symbol, read, choose, read what was chosen, until the end symbol or the last position.
// `choose(logits, position)` may be any other way; each step says what it chose among what.
export function* generate(model, memory, { choose = greedy, hidden } = {}) {
  const { start_id, end_id, max_len } = model.config, decode = model.decode(memory, hidden);
  for (let position = 0, token = start_id; position < max_len && token !== end_id; position++) {
    const { logits, attention } = decode.read(token);
    token = choose(logits, position);
    yield { position, token, logits, attention, finished: token === end_id };
  }
}
