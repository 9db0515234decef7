"""config.json of a Hugging Face directory, in our words: what a transformer must know before its weights."""
from dataclasses import dataclass

from data import UserError


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

        def refuse(key, expected):
            if raw.get(key, expected) not in (expected, None):
                raise UserError(f"config.json says {key} = {raw[key]!r}; only {expected!r} is implemented")

        family = raw.get("model_type")
        if family not in ("llama", "qwen2", "qwen3"):
            raise UserError(f"config.json: model_type {family!r} is not implemented "
                            "(llama, qwen2 and qwen3 are)")
        refuse("use_sliding_window", False)
        refuse("mlp_bias", False)
        refuse("quantization_config", None)
        refuse("partial_rotary_factor", 1.0)
        if need("hidden_act") != "silu":
            raise UserError(f"config.json says hidden_act = {raw['hidden_act']!r}; "
                            "only 'silu' is implemented")
        if any(kind != "full_attention" for kind in raw.get("layer_types") or ()):
            raise UserError("config.json: layer_types other than full_attention are not implemented")
        if family != "qwen2":
            refuse("attention_bias", False)

        rope = raw.get("rope_parameters") or {"rope_theta": raw.get("rope_theta"),
                                              **(raw.get("rope_scaling") or {})}
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind not in ("default", "llama3"):
            raise UserError(f"config.json: rope type {kind!r} is not implemented (default and llama3 are)")
        scaling = None
        if kind == "llama3":
            keys = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
            scaling = {key: need(key, rope) for key in keys}

        heads = need("num_attention_heads")
        config = cls(
            family=family, vocab_size=need("vocab_size"), width=need("hidden_size"),
            layers=need("num_hidden_layers"), heads=heads, kv_heads=need("num_key_value_heads"),
            hidden=need("intermediate_size"), head_width=need("head_dim") if family == "qwen3" else (
                raw.get("head_dim") or need("hidden_size") // heads),
            context=need("max_position_embeddings"), eps=need("rms_norm_eps"),
            rope_theta=need("rope_theta", rope), rope_scaling=scaling, tied=need("tie_word_embeddings"),
            qkv_bias=family == "qwen2", qk_norm=family == "qwen3")
        for name in ("vocab_size", "width", "layers", "heads", "kv_heads", "head_width", "hidden", "context"):
            if not isinstance(getattr(config, name), int) or getattr(config, name) < 1:
                raise UserError(f"config.json: {name} = {getattr(config, name)!r} is not a positive "
                                "whole number")
        if config.heads % config.kv_heads or config.head_width % 2:
            raise UserError(f"config.json: {config.heads} heads over {config.kv_heads} key-value heads "
                            f"of width {config.head_width} do not divide")
        return config

    def to_hf(self, dtype):
        """The config.json that transformers 4 and 5 read (each knows one of the rope's two spellings)."""
        rope = {"rope_type": "llama3", **self.rope_scaling} if self.rope_scaling else {"rope_type": "default"}
        architecture = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
        return {"architectures": [architecture[self.family]], "model_type": self.family,
                "vocab_size": self.vocab_size, "hidden_size": self.width, "num_hidden_layers": self.layers,
                "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads,
                "head_dim": self.head_width, "intermediate_size": self.hidden, "hidden_act": "silu",
                "max_position_embeddings": self.context, "rms_norm_eps": self.eps,
                "tie_word_embeddings": self.tied, "attention_bias": self.qkv_bias,
                "rope_theta": self.rope_theta, "rope_scaling": rope if self.rope_scaling else None,
                "rope_parameters": {"rope_theta": self.rope_theta, **rope},
                "torch_dtype": dtype, "dtype": dtype}
