"""config.json of a Hugging Face directory, in our words: what a transformer must know before its weights."""
from dataclasses import dataclass

from data import UserError


# Entries that every family has: our name of it, and the one in config.json
ENTRIES = {"vocab_size": "vocab_size", "width": "hidden_size", "layers": "num_hidden_layers",
           "heads": "num_attention_heads", "kv_heads": "num_key_value_heads", "hidden": "intermediate_size",
           "context": "max_position_embeddings", "eps": "rms_norm_eps", "tied": "tie_word_embeddings"}
LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
FAMILIES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}


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
    def from_hf(cls, raw):
        """config.json of transformers 4 (rope_theta, rope_scaling) or 5 (rope_parameters) -> Config.

        Raises UserError for an unknown architecture, a missing entry, and a setting that we would get wrong.
        """
        def need(key, source=raw):
            if source.get(key) is None:
                raise UserError(f"config.json has no {key}: without it the logits would be a guess")
            return source[key]

        family = raw.get("model_type")
        if family not in tuple(FAMILIES):
            raise UserError(f"config.json: model_type {family!r} is none of {', '.join(FAMILIES)}")
        only = {"use_sliding_window": False, "mlp_bias": False, "quantization_config": None,
                "partial_rotary_factor": 1.0, "hidden_act": "silu"}
        if family != "qwen2":
            only["attention_bias"] = False
        for key, expected in only.items():
            if raw.get(key, expected) not in (expected, None):
                raise UserError(f"config.json says {key} = {raw[key]!r}; only {expected!r} is implemented")
        need("hidden_act")
        if any(kind != "full_attention" for kind in raw.get("layer_types") or ()):
            raise UserError("config.json: layer_types other than full_attention are not implemented")

        rope = raw.get("rope_parameters") or {"rope_theta": raw.get("rope_theta"),
                                              **(raw.get("rope_scaling") or {})}
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind not in ("default", "llama3"):
            raise UserError(f"config.json: rope type {kind!r} is not implemented (default and llama3 are)")
        scaling = {key: need(key, rope) for key in LLAMA3} if kind == "llama3" else None
        known = {ours: need(theirs) for ours, theirs in ENTRIES.items()}
        config = cls(family=family, rope_theta=need("rope_theta", rope), rope_scaling=scaling, **known,
                     qkv_bias=family == "qwen2", qk_norm=family == "qwen3", head_width=need("head_dim")
                     if family == "qwen3" else raw.get("head_dim") or known["width"] // known["heads"])
        for name in ("vocab_size", "width", "layers", "heads", "kv_heads", "head_width", "hidden", "context"):
            value = getattr(config, name)
            if not isinstance(value, int) or value < 1:
                raise UserError(f"config.json: {name} = {value!r} is not a positive whole number")
        if config.heads % config.kv_heads or config.head_width % 2:
            raise UserError(f"config.json: {config.heads} heads over {config.kv_heads} key-value heads "
                            f"of width {config.head_width} do not divide")
        return config

    def to_hf(self, dtype):
        """The config.json that transformers 4 and 5 read (each knows one of the rope's two spellings)."""
        rope = {"rope_type": "llama3", **self.rope_scaling} if self.rope_scaling else {"rope_type": "default"}
        return {"architectures": [FAMILIES[self.family]], "model_type": self.family,
                **{theirs: getattr(self, ours) for ours, theirs in ENTRIES.items()},
                "head_dim": self.head_width, "hidden_act": "silu", "attention_bias": self.qkv_bias,
                "rope_theta": self.rope_theta, "rope_scaling": rope if self.rope_scaling else None,
                "rope_parameters": {"rope_theta": self.rope_theta, **rope},
                "torch_dtype": dtype, "dtype": dtype}
