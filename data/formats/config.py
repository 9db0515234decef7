"""config.json of a Hugging Face directory, in our words: what a transformer must know before its weights."""
from dataclasses import dataclass

from data import UserError

# Entries that every family has: our name of it, and the one in config.json
SIZES = {"vocab_size": "vocab_size", "width": "hidden_size", "layers": "num_hidden_layers",
         "heads": "num_attention_heads", "kv_heads": "num_key_value_heads", "hidden": "intermediate_size",
         "context": "max_position_embeddings"}
ENTRIES = {**SIZES, "eps": "rms_norm_eps", "tied": "tie_word_embeddings"}
LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
FAMILIES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
# The only values with which our transformer computes what theirs does
IMPLEMENTED = {"use_sliding_window": False, "mlp_bias": False, "quantization_config": None,
               "partial_rotary_factor": 1.0, "hidden_act": "silu"}


@dataclass
class Config:
    """What config.json says, in our words. Nothing that changes the logits has a default."""
    family: str              # "llama", "qwen2" or "qwen3"
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
        for ours, theirs in ENTRIES.items():
            raw[theirs] = getattr(self, ours)
        raw["eos_token_id"] = sorted(stop_ids)
        return raw


def check_size(name, value):
    """UserError if a width or a count is none."""
    if not isinstance(value, int) or value < 1:
        raise UserError(f"config.json: {name} = {value!r} is not a positive whole number")


def need(source: dict, key: str):
    """The entry `key`; UserError if there is none."""
    if source.get(key) is None:
        raise UserError(f"config.json has no {key}: without it the logits would be a guess")
    return source[key]


def check_settings(raw):
    """UserError for a family that is not implemented, or a setting of it."""
    family = raw.get("model_type")
    if family not in list(FAMILIES):
        raise UserError(f"config.json: model_type {family!r} is none of {', '.join(FAMILIES)}")
    need(raw, "hidden_act")
    expected = dict(IMPLEMENTED)
    if family != "qwen2":                   # Qwen 2 has these biases whatever the entry says
        expected["attention_bias"] = False
    for key, value in expected.items():
        if raw.get(key) not in (value, None):
            raise UserError(f"config.json says {key} = {raw[key]!r}; only {value!r} is implemented")
    for kind in raw.get("layer_types") or []:
        if kind != "full_attention":
            raise UserError("config.json: layer_types other than full_attention are not implemented")


def read_rope(raw):
    """-> (theta, None), or with Llama 3's scaling (theta, its four numbers)."""
    rope = raw.get("rope_parameters")
    if not rope:
        rope = {"rope_theta": raw.get("rope_theta")}
        rope.update(raw.get("rope_scaling") or {})
    theta = need(rope, "rope_theta")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise UserError(f"config.json: rope type {kind!r} is not implemented (default and llama3 are)")
    return theta, {key: need(rope, key) for key in LLAMA3}
