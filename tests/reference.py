"""Tiny random checkpoints of other people's families, written by transformers, and what transformers makes of them."""

import json
from pathlib import Path

import torch
import transformers
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BlenderbotConfig,
    BlenderbotForConditionalGeneration,
    GenerationConfig,
    M2M100Config,
    M2M100ForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    MBartConfig,
    MBartForConditionalGeneration,
    MT5Config,
    MT5ForConditionalGeneration,
    PegasusConfig,
    PegasusForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
    UMT5Config,
    UMT5ForConditionalGeneration,
    WhisperConfig,
    WhisperForConditionalGeneration,
)
from transformers.generation.utils import GenerationMixin

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

VOCAB = 47
SIZES = dict(vocab_size=VOCAB, d_model=16, encoder_layers=3, decoder_layers=2, encoder_ffn_dim=24, decoder_ffn_dim=20)
SIZES |= dict(encoder_attention_heads=2, decoder_attention_heads=4)
T5_SIZES = dict(vocab_size=VOCAB, d_model=16, d_kv=6, d_ff=24, num_layers=3, num_decoder_layers=2, num_heads=4)
T5_SIZES |= dict(relative_attention_num_buckets=8, relative_attention_max_distance=20, decoder_start_token_id=0)
MARIAN = SIZES | dict(pad_token_id=46, decoder_start_token_id=46, max_position_embeddings=32)
WHISPER = SIZES | dict(pad_token_id=46, bos_token_id=46, decoder_start_token_id=45, num_mel_bins=5)
WHISPER |= dict(max_source_positions=12, max_target_positions=32)
FAIRSEQ = SIZES | dict(pad_token_id=1, bos_token_id=0, decoder_start_token_id=2, max_position_embeddings=32)

# What each tiny checkpoint is made with; its end symbol is one that comes at different places in different rows.
KINDS = {
    "marian": (MarianMTModel, MarianConfig, MARIAN | dict(activation_function="swish", scale_embedding=True)),
    "marian, two vocabularies": (
        MarianMTModel,
        MarianConfig,
        MARIAN
        | dict(share_encoder_decoder_embeddings=False, decoder_vocab_size=51, decoder_start_token_id=50)
        | dict(activation_function="relu"),
    ),
    "bart": (BartForConditionalGeneration, BartConfig, FAIRSEQ),
    "mbart": (MBartForConditionalGeneration, MBartConfig, FAIRSEQ | dict(scale_embedding=True)),
    "blenderbot": (BlenderbotForConditionalGeneration, BlenderbotConfig, FAIRSEQ | dict(scale_embedding=True)),
    "pegasus": (
        PegasusForConditionalGeneration,
        PegasusConfig,
        SIZES | dict(pad_token_id=0, decoder_start_token_id=0, max_position_embeddings=32, scale_embedding=True),
    ),
    "m2m_100": (M2M100ForConditionalGeneration, M2M100Config, FAIRSEQ),
    "t5": (T5ForConditionalGeneration, T5Config, T5_SIZES),
    "t5, gated": (
        T5ForConditionalGeneration,
        T5Config,
        T5_SIZES | dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    ),
    "mt5": (MT5ForConditionalGeneration, MT5Config, T5_SIZES),
    "umt5": (UMT5ForConditionalGeneration, UMT5Config, T5_SIZES | dict(tie_word_embeddings=False)),
    "whisper": (WhisperForConditionalGeneration, WhisperConfig, WHISPER),
}
# Their positions are computed, and no number of them is moved.
COMPUTED = (MarianMTModel, PegasusForConditionalGeneration, M2M100ForConditionalGeneration)
# How each asks to be decoded: what its real relatives ask for.
ASKED = {
    "marian": dict(bad_words_ids=[[46]], renormalize_logits=True),
    "marian, two vocabularies": dict(bad_words_ids=[[46]]),
    "bart": dict(forced_bos_token_id=0, no_repeat_ngram_size=3, min_length=4),
    "mbart": dict(forced_bos_token_id=5),
    "m2m_100": dict(forced_bos_token_id=5),
    "whisper": dict(suppress_tokens=[1, 2, 7], begin_suppress_tokens=[3, 46]),
}
# Found by searching: seeds and end symbols with which a wild one emits many tokens and rows of different lengths.
CHOSEN = {"marian": (12, 17), "marian, two vocabularies": (27, 47), "bart": (2, 18)}
CHOSEN |= {"mbart": (5, 8), "blenderbot": (4, 35), "pegasus": (8, 33), "m2m_100": (4, 20)}
CHOSEN |= {"mt5": (11, 11), "umt5": (11, 32)}
CHOSEN |= {"t5": (3, 30), "t5, gated": (0, 33), "whisper": (1, 28)}
PROMPT = dict(forced_decoder_ids=[[1, 10], [2, 11]], no_timestamps_token_id=12)    # Whisper's, after the start symbol


def made(kind, seed=None, end=None, wild=False, **changes):
    "A random model of this kind, all of its norms and biases moved off 0 and 1; a wild one says many things."
    seed, end = seed if seed is not None else CHOSEN[kind][0], end if end is not None else CHOSEN[kind][1]
    model_class, config_class, sizes = KINDS[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config_class(**sizes | dict(eos_token_id=end, forced_eos_token_id=end) | changes)).eval()
        with torch.no_grad():
            for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
                if not ("embed_positions" in name and model_class in COMPUTED):
                    tensor.add_(torch.randn_like(tensor), alpha=0.2)
                    tensor.mul_(3.0 if wild and tensor.dim() > 1 else 1.0)
    return model


def settings(kind, model, beams):
    "How the checkpoint asks to be decoded, greedily or with a beam."
    config = model.config
    asked = dict(eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id, max_length=14, num_beams=beams)
    asked |= dict(decoder_start_token_id=config.decoder_start_token_id) | ASKED.get(kind, {})
    if kind.startswith(("marian", "bart", "mbart")):
        asked |= dict(forced_eos_token_id=config.eos_token_id)
    if beams > 1:
        asked |= dict(length_penalty=0.7, early_stopping=kind == "bart")
    return GenerationConfig(**asked)


def write(folder, kind, beams=1, *, shards=None, **changes):
    "The checkpoint as transformers saves it, with its settings."
    model = made(kind, **changes)
    model.generation_config = settings(kind, model, beams)
    model.save_pretrained(folder, **({} if shards is None else dict(max_shard_size=shards)))
    if kind == "whisper":
        path = Path(folder) / "generation_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | PROMPT))
    return model


def theirs(folder, kind, dtype=torch.float64):
    "The folder as transformers reads it."
    return KINDS[kind][0].from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()


def source_for(kind, rows=4, dtype=torch.float64, seed=0):
    "A batch of sources, of unequal lengths where there is a mask, and the mask."
    generator = torch.Generator().manual_seed(seed)
    if kind == "whisper":
        return torch.randn(rows, 5, 24, generator=generator, dtype=dtype), None
    source = torch.randint(3, VOCAB - 2, (rows, 9), generator=generator)
    return source, torch.arange(9) < torch.tensor([9, 5, 7, 2, 8, 3][:rows])[:, None]


def tokens_for(rows=4, length=7, seed=1):
    return torch.randint(3, VOCAB - 2, (rows, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def their_logits(model, kind, source, mask, tokens):
    given = dict(input_features=source) if kind == "whisper" else dict(input_ids=source, attention_mask=mask.long())
    return model(**given, decoder_input_ids=tokens).logits


def their_ids(model, kind, source, mask, prompt):
    "What transformers generates of each row: without the prompt, and with the end symbol where it came."
    given = dict(input_ids=source, attention_mask=None if mask is None else mask.long())
    if kind == "whisper":    # the search alone, without what Whisper's own generate() does about long sound
        given = dict(inputs=source)
    begin = torch.tensor([prompt]).expand(len(source), -1)
    rows = GenerationMixin.generate(model, **given, decoder_input_ids=begin)[:, len(prompt) :].tolist()
    end = model.config.eos_token_id
    return [tuple(row[: row.index(end) + 1] if end in row else row) for row in rows]
