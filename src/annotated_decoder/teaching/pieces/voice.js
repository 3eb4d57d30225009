// What the model says, as sound: pieces cut from a synthesiser's speech, each from the middle of one sound to the
// middle of the next, are laid one over the other, period on period. tools/voice.py made the file of them.

// How long, how loud and how high a vowel is by its stress: none, strong, weak. The pieces are spoken fast.
const STRESS = [
  { long: 1.3, loud: 0.75, high: 0.94 }, { long: 2, loud: 1, high: 1.1 }, { long: 1.65, loud: 0.85, high: 1 },
];
const CONSONANT = { long: 1.4, loud: 0.9, high: 1 };
const NOISES = ["F", "S", "SH", "TH"];          // a period of these that comes twice would hum: it is turned round
const LAST = 1.25;                              // a word's last vowel is longer by this factor
const FALL = 0.12;                              // the voice sinks by this share from the beginning to the end
const SMOOTH = 0.4;                             // how far loudness and height go towards their aim in each period
const PEAK = 0.8;                               // of the loudest sample

// A piece: one byte for the first step's index, then four bits a sample (IMA ADPCM) for how far it is from 3/4 of the last.
const STEPS = [7];
while (STEPS.length < 89) STEPS.push(STEPS.at(-1) + Math.floor(STEPS.at(-1) / 10) + 1);
const MOVES = [-1, -1, -1, -1, 2, 4, 6, 8];
const unpack = (bytes, length) => {
  const samples = new Float32Array(length);
  let index = bytes[0], value = 0, before = 0;
  for (let i = 0; i < length; i++) {
    const code = (bytes[1 + (i >> 1)] >> (4 * (i & 1))) & 15, size = code & 7;
    const change = ((2 * size + 1) * STEPS[index]) >> 3;
    value = Math.max(-32768, Math.min(32767, value + (code & 8 ? -change : change)));
    index = Math.max(0, Math.min(88, index + MOVES[size]));
    before = value / 32768 + 0.75 * before;
    samples[i] = before;
  }
  return samples;
};

export class Voice {
  // The file: the length of its header, the header in JSON, then the pieces; as the model's file is.
  constructor(buffer) {
    const length = Number(new DataView(buffer).getBigUint64(0, true));
    Object.assign(this, JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length))));
    this.bytes = new Uint8Array(buffer, 8 + length);
    const both = 2 * this.period;
    this.window = Float32Array.from({ length: both }, (_, i) => Math.sin((Math.PI * i) / both) ** 2);
  }

  // The periods of a piece, each with its neighbour behind it: those of its first sound, those of its second.
  piece(name) {
    const [start, n, second] = this.pairs[name], { period } = this;
    const samples = unpack(this.bytes.subarray(start), n * period);
    const periods = Array.from({ length: n - 1 }, (_, i) => samples.subarray(i * period, (i + 2) * period));
    return [periods.slice(0, second), periods.slice(second)];
  }

  // For ARPAbet symbols: samples between -1 and 1, and the symbols that have no sound here and are passed over.
  say(symbols) {
    const unit = (symbol) => (symbol === "AH0" ? symbol : symbol.replace(/[012]$/, ""));
    const hasSound = (symbol) => `_ ${unit(symbol)}` in this.pairs;
    const known = symbols.filter(hasSound), units = ["_", ...known.map(unit), "_"], sounds = units.map(() => []);
    for (let i = 1; known.length && i < units.length; i++) {
      const [first, second] = this.piece(`${units[i - 1]} ${units[i]}`);
      sounds[i - 1].push(...first);
      sounds[i].push(...second);
    }
    const digits = ["", ...known.map((symbol) => symbol.match(/[012]$/)?.[0])], last = digits.findLastIndex(Boolean);
    const periods = sounds.flatMap((waves, i) => {
      const aim = STRESS[digits[i]] ?? CONSONANT, n = Math.round(waves.length * aim.long * (i === last ? LAST : 1));
      const chosen = Array.from({ length: n }, (_, k) => waves[Math.floor(((k + 0.5) * waves.length) / n)]);
      const back = (wave, k) => NOISES.includes(units[i]) && wave === chosen[k - 1];
      return chosen.map((wave, k) => ({ ...aim, wave: back(wave, k) ? wave.slice().reverse() : wave }));
    });
    return { samples: this.join(periods), rate: this.rate, unknown: symbols.filter((symbol) => !hasSound(symbol)) };
  }

  // Each period fades in over the one before it and out under the next; where they lie closer, the voice is higher.
  join(periods) {
    const { period, window } = this, samples = new Float32Array(2 * (periods.length + 1) * period);
    let loud = 0, high = 1, at = 0;
    for (const [i, aim] of periods.entries()) {
      loud += SMOOTH * (aim.loud - loud);
      high += SMOOTH * (aim.high - high);
      for (let k = 0; k < 2 * period; k++) samples[at + k] += (loud / high) * window[k] * aim.wave[k];
      at += Math.round(period / (high * (1 + FALL * (0.5 - i / periods.length))));
    }
    const said = samples.slice(0, at + period), most = said.reduce((top, x) => Math.max(top, Math.abs(x)), 0);
    return said.map((x) => (PEAK * x) / (most || 1));
  }
}
