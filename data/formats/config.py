"""config.json of a Hugging Face directory, in our words: what a transformer must know before its weights."""
from dataclasses import dataclass

from data import UserError

# Entries that every family has: our name of it, and the one in config.json
SIZES = {"vocab_size": "vocab_size", "width": "hidden_size", "layers": "num_hidden_layers",
         "heads": "num_attention_heads", "kv_heads": "num_key_value_heads", "hidden": "intermediate_size",
         "context": "max_position_embeddings"}
ENTRIES = {**SIZES, "eps": "rms_norm_eps", "tied": "tie_word_embeddings"}
LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
FAMILIES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM",
            "mistral": "MistralForCausalLM"}
# The only values with which our transformer computes what theirs does
IMPLEMENTED = {"use_sliding_window": False, "mlp_bias": False, "attention_bias": False, "hidden_act": "silu",
               "partial_rotary_factor": 1.0, "rope_interleaved": False, "use_mrope": False, "pruned_heads": {}}
# Read elsewhere in this file, or without influence on the logits: names, types, training, what samplers and
# older versions keep here. Any other entry is refused: whoever wrote it may count on it.
HARMLESS = set("""
    model_type rope_theta rope_scaling rope_parameters head_dim layer_types sliding_window max_window_layers
    architectures transformers_version torch_dtype dtype _name_or_path name_or_path _commit_hash model_name
    _attn_implementation _attn_implementation_autoset attn_implementation use_cache pretraining_tp
    initializer_range attention_dropout chunk_size_feed_forward torchscript use_bfloat16 return_dict
    output_attentions output_hidden_states output_scores return_dict_in_generate tf_legacy_loss
    is_encoder_decoder is_decoder add_cross_attention cross_attention_hidden_size tie_encoder_decoder
    finetuning_task problem_type task_specific_params id2label label2id tokenizer_class prefix
    bos_token_id eos_token_id pad_token_id unk_token_id sep_token_id cls_token_id decoder_start_token_id
    forced_bos_token_id forced_eos_token_id bad_words_ids suppress_tokens begin_suppress_tokens
    do_sample temperature top_k top_p typical_p repetition_penalty length_penalty diversity_penalty
    no_repeat_ngram_size encoder_no_repeat_ngram_size exponential_decay_length_penalty remove_invalid_values
    early_stopping num_beams num_beam_groups num_return_sequences max_length min_length max_sequence_length
    is_llama_config transformers.js_config unsloth_fixed unsloth_version""".split())


@dataclass
class Config:
    """What config.json says, in our words. Nothing that changes the logits has a default."""
    family: str              # "llama", "qwen2", "qwen3" or "mistral"
    vocab_size: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    hidden: int              # width of the SwiGLU layer
    context: int             # the longest sequence that the model was made for
    eps: float               # of the RMS norms
    rope_theta: float
    rope_scaling: dict | None
    tied: bool               # the head is the embedding
    qkv_bias: bool
    qk_norm: bool

    @classmethod
    def from_hf(cls, raw: dict) -> "Config":
        """config.json of transformers 4 (rope_theta, rope_scaling) or 5 (rope_parameters) -> Config.

        Raises UserError for an unknown architecture, a missing entry, and a setting that we would get wrong.
        """
        check_settings(raw)
        family = raw["model_type"]
        known = {}
        for ours, theirs in ENTRIES.items():
            known[ours] = need(raw, theirs)
            if ours in SIZES:
                check_size(ours, known[ours])
        if raw.get("layer_types") not in (None, ["full_attention"] * known["layers"]):
            raise UserError("config.json: layer_types other than full_attention are not implemented")
        if family == "mistral":
            check_window(raw.get("sliding_window"), known["context"])
        check_number("rms_norm_eps", known["eps"])
        if not isinstance(known["tied"], bool):
            raise UserError(f"config.json: tie_word_embeddings = {known['tied']!r} is neither true nor false")
        heads, kv_heads = known["heads"], known["kv_heads"]
        head_width = raw.get("head_dim")
        if head_width is None and family != "qwen3":        # Qwen 3's transformer has a default of its own
            head_width = known["width"] // heads
        check_size("head_dim", head_width)
        if heads % kv_heads or head_width % 2:
            raise UserError(f"config.json: {heads} heads over {kv_heads} key-value heads of width {head_width} "
                            "do not divide")
        theta, scaling = read_rope(raw)
        return cls(**known, family=family, head_width=head_width, rope_theta=theta, rope_scaling=scaling,
                   qkv_bias=family == "qwen2", qk_norm=family == "qwen3")

    def to_hf(self, dtype: str, stop_ids: set[int]) -> dict:
        """The config.json that transformers 4 and 5 read (each knows one of the rope's two spellings)."""
        dtype = dtype.removeprefix("torch.")
        rope, scaling = {"rope_type": "default"}, None
        if self.rope_scaling:
            rope = scaling = {"rope_type": "llama3", **self.rope_scaling}
        raw = {"architectures": [FAMILIES[self.family]], "model_type": self.family, "hidden_act": "silu",
               "head_dim": self.head_width, "attention_bias": self.qkv_bias, "torch_dtype": dtype, "dtype": dtype,
               "rope_theta": self.rope_theta, "rope_scaling": scaling,
               "rope_parameters": {"rope_theta": self.rope_theta, **rope}}
        if self.family == "mistral":
            raw["sliding_window"] = None             # without the entry theirs would be 4096
        for ours, theirs in ENTRIES.items():
            raw[theirs] = getattr(self, ours)
        raw["eos_token_id"] = sorted(stop_ids)
        return raw


def check_size(name, value):
    """UserError if a width or a count is none."""
    if not isinstance(value, int) or value < 1:
        raise UserError(f"config.json: {name} = {value!r} is not a positive whole number")


def check_window(window, context):
    """UserError if a token would not see all before it; Mistral has no switch beside the number."""
    if window is not None and not (type(window) is int and window >= context):
        raise UserError(f"config.json: sliding_window = {window!r} is not implemented where the context is longer, "
                        f"here {context}; if no sequence will be, set max_position_embeddings to the window")


def need(source: dict, key: str):
    """The entry `key`; UserError if there is none."""
    if source.get(key) is None:
        raise UserError(f"config.json has no {key}: without it the logits would be a guess")
    return source[key]


def check_number(name, value):
    """UserError if a value is no positive number."""
    if type(value) not in (int, float) or not value > 0:
        raise UserError(f"config.json: {name} = {value!r} is not a positive number")


def check_settings(raw):
    """UserError for a family that is not implemented, and for an entry that we would get wrong or don't know."""
    family = raw.get("model_type")
    if family not in list(FAMILIES):
        raise UserError(f"config.json: model_type {family!r} is none of {', '.join(FAMILIES)}")
    need(raw, "hidden_act")
    for key, value in raw.items():
        if value is None or key in HARMLESS or key in ENTRIES.values():
            continue
        if key == "attention_bias" and family == "qwen2":       # it has these biases whatever the entry says
            continue
        if key not in IMPLEMENTED:
            raise UserError(f"config.json: {key} = {str(value)[:60]!r} is not implemented, and may change the "
                            "logits; if you know that it does not, delete the entry")
        if value != IMPLEMENTED[key]:
            raise UserError(f"config.json says {key} = {value!r}; only {IMPLEMENTED[key]!r} is implemented")


def read_rope(raw):
    """-> (theta, None), or with Llama 3's scaling (theta, its four numbers).

    There are two spellings: rope_theta and rope_scaling, or rope_parameters. Versions of transformers differ
    in which one counts, so where both stand they must say the same.
    """
    theta, scaling, parameters = raw.get("rope_theta"), raw.get("rope_scaling"), raw.get("rope_parameters")
    if not parameters:
        return parse_rope(theta, scaling or {})
    found = parse_rope(theta, parameters)
    if theta not in (None, found[0]) or scaling and parse_rope(theta, scaling) != found:
        raise UserError("config.json: rope_parameters and rope_theta or rope_scaling say different things; "
                        "delete the ones that are wrong")
    return found


def parse_rope(theta, rope):
    """(theta, None or Llama 3's four numbers) of one spelling; theta: what holds if `rope` has none."""
    if not isinstance(rope, dict):
        raise UserError(f"config.json: {rope!r} does not describe a rope")
    rope = {"rope_theta": theta, **rope}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "llama3"):
        raise UserError(f"config.json: rope type {kind!r} is not implemented (default and llama3 are)")
    numbers = ["rope_theta"]
    if kind == "llama3":
        numbers += LLAMA3
    for key, value in rope.items():
        if key == "partial_rotary_factor" and value == 1.0:
            continue
        if value is not None and key not in ("rope_type", "type", *numbers):
            raise UserError(f"config.json: {key} = {value!r} of the rope is not implemented")
    for key in numbers:
        check_number(key, need(rope, key))
    if kind == "default":
        return rope["rope_theta"], None
    return rope["rope_theta"], {key: rope[key] for key in LLAMA3}
