"""The transformer of Llama 3, Qwen 2.5, Qwen 3, SmolLM2 and Mistral, its KV cache, and its Hugging Face directory.

One file, one model: RMSNorm, rotary positions, grouped-query attention, SwiGLU. The families differ in three
switches (a bias on q, k, v; a norm on q and k; tied or untied head) and in numbers. Modules carry the names
of the tensors in the checkpoint, so that loading is a comparison of two dictionaries and nothing is renamed.

Shapes: B rows, T new tokens, S slots of the cache, V vocabulary, D width, H heads, K key-value heads,
C head width, N tokens of all rows.
"""
import json
import math
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from data import UserError
from data.formats.config import Config
from data.formats.files import atomic_write, read_json
from data.formats.hub import resolve
from data.formats.safetensors import read_weights, write_tensors
from data.formats.tokenizer import Tokenizer


# ------------------------------------------------------------------------------------------------------------
# Positions: pairs of channels turn by an angle that grows with the position

def compute_rope_frequencies(config: Config) -> Tensor:
    """Angle per position of each pair of channels -> (C / 2,), float32: theta^(-2i / C)."""
    even = torch.arange(0, config.head_width, 2).float()
    frequency = 1.0 / config.rope_theta ** (even / config.head_width)
    if config.rope_scaling:              # extension: Llama 3.1
        frequency = stretch_frequencies(frequency, config.rope_scaling)
    return frequency


def compute_rotation(positions: Tensor, frequency: Tensor, dtype: torch.dtype):
    """positions (B, T) -> cos, sin (B, 1, T, C), once for all layers.

    With x = (a, b), its two halves, and swapped = (b, a), rotate() computes
        x * (cos, cos) + swapped * (-sin, sin) = (a cos - b sin, b cos + a sin)
    """
    angle = positions[:, None, :, None] * frequency                            # (B, 1, T, C / 2)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat((cos, cos), -1).to(dtype), torch.cat((-sin, sin), -1).to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn channel i with channel i + C / 2 by the position's angle: Hugging Face's half-split order."""
    swapped = x.roll(x.shape[-1] // 2, -1)           # the halves change places
    return x * cos + swapped * sin


# ------------------------------------------------------------------------------------------------------------
# The transformer

class RMSNorm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x):
        # x / sqrt(mean(x^2) + eps). For bfloat16 it is computed in float32, and rounded to bfloat16 BEFORE it is
        # multiplied by the weight: that is how the published models were trained.
        return self.weight * F.rms_norm(x, x.shape[-1:], eps=self.eps)


def attend(q, k, v, mask):
    """softmax(q k^T / sqrt C) v: q (B, H, T, C), k and v (B, K, S, C) -> (B, H, T, C).

    mask (B, 1, T, S), added to the scores: 0 for a key that a query sees, -inf for one that it does not see. None:
    plain causal attention (T = S). H / K query heads share each key-value head.
    """
    B, H, T, C = q.shape
    K = k.shape[1]
    if mask is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    if T == 1 and not torch.is_grad_enabled():
        # Decoding, written out: the H / K query heads of a key-value head are the rows of one small matrix.
        q = q.view(B, K, H // K, C) / math.sqrt(C)
        if k.is_cpu and k.dtype == torch.bfloat16:
            scores = (k @ q.mT).mT.contiguous()      # the same, but q @ k.mT would make a copy of all keys
        else:
            scores = q @ k.mT                                                  # (B, K, H / K, S)
        return ((scores + mask).softmax(-1) @ v).view(B, H, 1, C)
    if q.is_cuda:
        # With a mask AND fewer key-value heads a card has no fast kernel: it would compute in float32 and keep all
        # scores in memory. With the keys repeated it has one.
        k = k.repeat_interleave(H // K, 1)
        v = v.repeat_interleave(H // K, 1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=k.shape[1] < H)


class Attention(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        D = config.width
        H = config.heads
        K = config.kv_heads
        C = config.head_width
        self.layer = layer
        self.head_width = C
        self.q_proj = nn.Linear(D, H * C, bias=config.qkv_bias)
        self.k_proj = nn.Linear(D, K * C, bias=config.qkv_bias)
        self.v_proj = nn.Linear(D, K * C, bias=config.qkv_bias)
        self.o_proj = nn.Linear(H * C, D, bias=False)
        self.q_norm = nn.Identity()
        self.k_norm = nn.Identity()
        if config.qk_norm:
            self.q_norm = RMSNorm(C, config.eps)
            self.k_norm = RMSNorm(C, config.eps)

    def forward(self, x, cos, sin, mask, cache):
        B, T, _ = x.shape
        q = self.q_proj(x).view(B, T, -1, self.head_width)
        k = self.k_proj(x).view(B, T, -1, self.head_width)
        v = self.v_proj(x).view(B, T, -1, self.head_width)
        heads = torch.cat((self.q_norm(q), self.k_norm(k)), 2)                 # turned together: fewer kernels
        heads = rotate(heads.transpose(1, 2), cos, sin)                        # (B, H + K, T, C)
        q, k = heads.split((q.shape[2], k.shape[2]), 1)
        v = v.transpose(1, 2)
        if cache is not None:
            k, v = cache.append(self.layer, k, v)                              # (B, K, S, C)
        y = attend(q, k, v, mask)
        return self.o_proj(y.transpose(1, 2).reshape(B, T, -1))


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.gate_proj = nn.Linear(config.width, config.hidden, bias=False)
        self.up_proj = nn.Linear(config.width, config.hidden, bias=False)
        self.down_proj = nn.Linear(config.hidden, config.width, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.input_layernorm = RMSNorm(config.width, config.eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.width, config.eps)
        self.mlp = MLP(config)

    def forward(self, x, cos, sin, mask, cache):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Transformer(nn.Module):
    """tokens (B, T) int64 -> logits (B, T, V)."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        # nn.Embedding(V, D) would draw random numbers, which on the meta device imports half of torch first: a second.
        empty = torch.empty(config.vocab_size, config.width)
        self.embed_tokens = nn.Embedding.from_pretrained(empty, freeze=False)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.norm = RMSNorm(config.width, config.eps)
        self.lm_head = nn.Linear(config.width, config.vocab_size, bias=False)
        if config.tied:
            self.lm_head.weight = self.embed_tokens.weight
        self.frequency = None                # (C / 2,), made at the first call. No buffer: .to(bfloat16) would round it
        self.checkpointing = False           # recompute the blocks in the backward pass, to save memory
        self.adapter = None                  # of a model with LoRA: its adapter_config.json

    @property
    def device(self) -> torch.device:
        return self.embed_tokens.weight.device

    def forward(self, tokens, cache=None):
        return self.lm_head(self.hidden(tokens, cache))

    def step(self, token: Tensor, cache: "Buffers") -> Tensor:
        """Decoding: one token of each row (B,) -> logits of the next one (B, V)."""
        return self(token[:, None], cache)[:, 0]

    def hidden(self, tokens: Tensor, cache: "Cache | Buffers | None" = None, real: Tensor | None = None):
        """tokens (B, T) -> the normed output of the last block (B, T, D); the head turns it into logits.

        Without a cache, rows are plain causal sequences: padding goes right, where nothing looks at it. With a cache,
        the tokens come after those that it holds. real (B, T) bool: which of the tokens are no padding (None: all).
        """
        x = self.embed_tokens(tokens)                                          # (B, T, D)
        if cache is None:
            positions = torch.arange(tokens.shape[1], device=x.device)[None]
            mask = None
        else:
            if real is None:
                real = torch.ones_like(tokens, dtype=torch.bool)
            positions, seen = cache.begin(tokens, real)                        # (B, T), (B, 1, T, S)
            mask = torch.zeros_like(seen, dtype=x.dtype).masked_fill(~seen, -math.inf)
        if self.frequency is None or self.frequency.device != x.device:
            self.frequency = compute_rope_frequencies(self.config).to(x.device)
        cos, sin = compute_rotation(positions, self.frequency, x.dtype)
        for block in self.layers:
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, cos, sin, mask, cache, use_reentrant=False)
            else:
                x = block(x, cos, sin, mask, cache)
        return self.norm(x)


# ------------------------------------------------------------------------------------------------------------
# The KV cache: keys and values of the tokens that were run, in slots 0, 1, 2 ... of each row.
#
# Prompts are padded on the left, so that all end at the same slot and all rows put their next token into the next slot.
# Two prompts of 3 and 1 tokens, then two steps of decoding (. is padding, which nobody looks at):
#
#     slot        0  1  2 | 3  4
#     row 0       a  b  c | d  e          positions 0 1 2 3 4
#     row 1       .  .  f | g  h          positions     0 1 2: the number of real slots before it

class Cache:
    """Keys and values of B rows that one call of the model makes, for a later call to go on from, with gradients.

    1. `cache = Cache()` is empty. Hand it to one call of the model, which fills it.
    2. Then ask it for what the next call needs:

        sampling    prompts -> Cache -> repeat() -> Buffers, for decoding, a token a call
        training    prompts -> Cache -> select() -> a second Cache, for one call with all tokens of the samples
    """

    def __init__(self, real: Tensor | None = None, past: dict | None = None):
        self.real = real                 # (B, S) bool: in which slots a row has a token; None: no call was made
        self.past = past or {}           # layer -> keys and values (2, B, K, S, C) of earlier calls: only read
        self.new = {}                    # layer -> those of this call. With checkpointing a layer runs again in the
                                         # backward pass, and then overwrites its own

    def begin(self, tokens: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Before the first layer -> positions (B, T) of the call's tokens, what each sees (B, 1, T, S)."""
        if self.real is not None:
            real = torch.cat((self.real, real), 1)
        self.real = real
        return find_seen(real, tokens.shape[1])

    def append(self, layer: int, k: Tensor, v: Tensor) -> Tensor:
        """Take a layer's new keys and values (B, K, T, C) -> all of them, old and new (2, B, K, S, C)."""
        self.new[layer] = torch.stack((k, v))
        return self.join(layer)

    def join(self, layer: int) -> Tensor:
        """What is there of a layer after the call."""
        if layer in self.past:
            return torch.cat((self.past[layer], self.new[layer]), 3)
        return self.new[layer]

    def select(self, rows: Tensor) -> "Cache":
        """A cache for one call more, whose row b goes on from row rows[b] of this one."""
        past = {layer: self.join(layer)[:, rows] for layer in self.new}
        return Cache(self.real[rows], past)

    def repeat(self, samples: int, room: int) -> "Buffers":
        """Each row `samples` times, with room for so many more tokens."""
        real = self.real.repeat_interleave(samples, 0)
        kv = {}
        for layer in list(self.new):
            joined = self.join(layer)
            del self.new[layer]                      # a layer at a time: both would be twice the memory
            kv[layer] = F.pad(joined.repeat_interleave(samples, 1), (0, 0, 0, room))
        return Buffers(F.pad(real, (0, room)), kv, real.shape[1])


class Buffers:
    """What Cache.repeat makes for decoding: room for all tokens to come, so each call writes its own into place."""

    def __init__(self, real: Tensor, kv: dict[int, Tensor], filled: int):
        self.real = real                 # (B, capacity) bool
        self.kv = kv                     # layer -> keys and values (2, B, K, capacity, C)
        self.filled = filled             # slots in use: S

    def begin(self, tokens: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        T = tokens.shape[1]
        self.real[:, self.filled:self.filled + T] = real
        self.filled += T
        return find_seen(self.real[:, :self.filled], T)

    def append(self, layer: int, k: Tensor, v: Tensor) -> Tensor:
        kv = self.kv[layer]
        kv[:, :, :, self.filled - k.shape[2]:self.filled] = torch.stack((k, v))
        return kv[:, :, :, :self.filled]

    def keep(self, rows: Tensor) -> None:
        """Only these rows (n,) go on: their keys and values move to rows 0 to n - 1, the others are forgotten."""
        n = len(rows)
        self.real[:n] = self.real[rows]
        self.real = self.real[:n]
        for layer, kv in self.kv.items():
            kv[:, :n, :, :self.filled] = kv[:, rows, :, :self.filled]
            self.kv[layer] = kv[:, :n]


def find_seen(real: Tensor, T: int) -> tuple[Tensor, Tensor]:
    """real (B, S) of all slots -> of the last T of them positions (B, T), and which slots each sees (B, 1, T, S)."""
    positions = (real.cumsum(1)[:, -T:] - 1).clamp(min=0)
    if T == 1:
        return positions, real[:, None, None]
    # A token sees the real ones up to itself; padding sees itself, since softmax needs something.
    slots = torch.arange(real.shape[1], device=real.device)
    own = slots[-T:, None]                                                     # (T, 1)
    earlier = (slots <= own) & real[:, None]                                   # (T, S) and (B, 1, S) -> (B, T, S)
    mask = earlier | (slots == own)
    return positions, mask[:, None]


# ------------------------------------------------------------------------------------------------------------
# Log-probabilities of given tokens

def compute_chunk_logprobs(hidden, weight, targets, temperature):
    logits = F.linear(hidden, weight)                                          # (N, V)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    logz = logits.logsumexp(-1)
    with torch.no_grad():                # entropy is watched, not trained
        probs = torch.exp(logits - logz[:, None])
        entropy = logz - (probs * logits).sum(-1)
    return logits.gather(1, targets[:, None])[:, 0] - logz, entropy


def compute_logprobs(model: Transformer, hidden: Tensor, targets: Tensor, temperature: float = 1.0,
                     chunk: int = 1024) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and entropy of its distribution, in nats -> (N,), (N,).

    hidden (N, D) from model.hidden, targets (N,). The head runs over `chunk` positions at a time, and again in
    the backward pass, so that logits never exist for more than a chunk (a plain loop would keep them all).
    """
    logprobs, entropies = [], []
    for start in range(0, len(targets), chunk):
        end = start + chunk
        part = checkpoint(compute_chunk_logprobs, hidden[start:end], model.lm_head.weight, targets[start:end],
                          temperature, use_reentrant=False)
        logprobs.append(part[0])
        entropies.append(part[1])
    return torch.cat(logprobs), torch.cat(entropies)


# ------------------------------------------------------------------------------------------------------------
# Load and save

def to_file_name(name: str) -> str:
    """Our name of a weight -> the checkpoint's."""
    if name.startswith("lm_head"):
        return name
    return "model." + name


def assemble(config: Config, weights: dict[str, nn.Parameter]) -> Transformer:
    """A Transformer around given tensors (name -> tensor): nothing is copied."""
    with torch.device("meta"):           # shapes alone
        model = Transformer(config)
    for name, weight in weights.items():
        path, _, last = name.rpartition(".")
        setattr(model.get_submodule(path), last, weight)
    if config.tied:
        model.lm_head.weight = model.embed_tokens.weight
    return model


def load(name_or_dir: str, device: str = "cpu", dtype: torch.dtype = torch.float32,
         bases: dict | None = None) -> tuple[Transformer, Tokenizer]:
    """The model and tokenizer of a Hugging Face directory, or of a name that data/formats/hub.py resolves.

    bases: see load_adapters. Raises UserError that names what is missing, unexpected or misshapen.
    """
    directory = resolve(name_or_dir)
    if (directory / "adapter_config.json").exists():         # extension
        return load_adapters(directory, device, dtype, bases)
    config = Config.from_hf(read_json(directory / "config.json"))
    wanted = {}
    with torch.device("meta"):
        for name, weight in Transformer(config).named_parameters():
            wanted[to_file_name(name)] = weight
    weights = {}
    for name, tensor in read_weights(directory, wanted, config.tied).items():
        weight = tensor.to(device=device, dtype=dtype, copy=True)              # the file stays as it is
        weights[name.removeprefix("model.")] = nn.Parameter(weight)
    return assemble(config, weights), Tokenizer.load(directory)


def save(model: Transformer, tokenizer: Tokenizer, directory: str | Path) -> None:
    """Write a Hugging Face directory that transformers 4, 5 and load read: config, weights, tokenizer."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(directory)
    if model.adapter:                    # extension
        return save_adapters(model, directory)
    tensors = {}
    for name, weight in model.named_parameters():
        tensors[to_file_name(name)] = weight.detach().cpu()
    write_tensors(tensors, directory / "model.safetensors")
    config = model.config.to_hf(str(tensors["model.norm.weight"].dtype), tokenizer.stop_ids)
    atomic_write(directory / "config.json", json.dumps(config, indent=1))


# --- extensions ---------------------------------------------------------------------------------------------

from data.formats.adapters import TARGETS, AdapterConfig  # noqa: E402
from data.formats.safetensors import compare  # noqa: E402

# ------------------------------------------------------------------------------------------------------------
# Llama 3.1's rotary positions

def stretch_frequencies(frequency: Tensor, scaling: dict) -> Tensor:
    """Slow rotations become `factor` times slower, fast ones are kept, those between are blended.

    Slow: fewer turns than low_freq_factor in the old context. Fast: more than high_freq_factor.
    """
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = scaling["original_max_position_embeddings"] * frequency / (2 * math.pi)     # in the old context
    keep = ((turns - low) / (high - low)).clamp(0, 1)        # 0: slow, stretch it; 1: fast, leave it
    return (1 - keep) * frequency / scaling["factor"] + keep * frequency


# ------------------------------------------------------------------------------------------------------------
# New weights, for a model that is trained from nothing (data/tiny/make_tiny.py)

def init_weights(model: Transformer, generator: torch.Generator) -> None:
    """N(0, 0.02), what a block adds to the residual stream smaller (GPT-2); biases 0."""
    for name, weight in model.named_parameters():
        if weight.dim() == 2:
            std = 0.02
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                std = 0.02 / math.sqrt(2 * model.config.layers)
            nn.init.normal_(weight, std=std, generator=generator)
        elif name.endswith("bias"):
            nn.init.zeros_(weight)


# ------------------------------------------------------------------------------------------------------------
# Conversations: rows that go on after a turn of unequal lengths

def reserve(cache: Buffers, room: int) -> None:
    """Make room for so many more tokens."""
    more = cache.filled + room - cache.real.shape[1]
    if more <= 0:
        return
    cache.real = F.pad(cache.real, (0, more))
    for layer, kv in cache.kv.items():
        cache.kv[layer] = F.pad(kv, (0, 0, 0, more))


def hide(cache: Buffers, first: int, lengths: Tensor) -> None:
    """Of the slots from `first` on only the first lengths[b] of row b stay real: what it drew later becomes padding."""
    places = torch.arange(cache.filled - first, device=lengths.device)
    cache.real[:, first:cache.filled] &= places < lengths[:, None]


# ------------------------------------------------------------------------------------------------------------
# LoRA: agents that share one frozen base

class LoRA(nn.Linear):
    """A frozen linear layer and what is learned beside it, of rank r: y = W x + b + scale B A x.

    arXiv 2106.09685, where scale is alpha / r. A (r, in) starts random and B (out, r) at zero, so that nothing
    changes at first. Both are float32 whatever the type of W, which is the very tensor of the base: all agents look
    at the same one.
    """

    def __init__(self, linear, a, b, scale):
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        self.weight = linear.weight
        self.bias = linear.bias
        self.scale = scale
        dtype = torch.promote_types(linear.weight.dtype, torch.float32)
        self.lora_A = nn.Parameter(a.to(device=linear.weight.device, dtype=dtype, copy=True))
        self.lora_B = nn.Parameter(b.to(device=linear.weight.device, dtype=dtype, copy=True))

    def forward(self, x):
        low = F.linear(x.to(self.lora_A.dtype), self.lora_A)                   # (..., r)
        learned = F.linear(low, self.lora_B)
        y = super().forward(x) + self.scale * learned
        return y.to(x.dtype)


def share_base(base: Transformer, adapter: dict) -> Transformer:
    """A Transformer of the very weights of `base`, which are frozen from now on: adapters can be put on it."""
    if base.adapter:
        raise UserError("this model has adapters already, which go on learning without --lora")
    base.requires_grad_(False)
    model = assemble(base.config, dict(base.named_parameters()))
    model.adapter = adapter
    return model


def add_adapters(base: Transformer, rank: int, alpha: float, generator: torch.Generator | None,
                 targets=TARGETS, name: str = "") -> Transformer:
    """A Transformer whose weights are those of `base`, now frozen, with adapters on `targets` of its blocks.

    base is then the model with all adapters off: the reference policy. name: of the base, for PEFT.
    """
    unknown = set(targets) - set(TARGETS)
    if unknown:
        raise UserError(f"no layer is called {min(unknown)}: adapters go on {', '.join(TARGETS)}")
    adapter = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "lora_dropout": 0.0, "bias": "none"}
    adapter["base_model_name_or_path"] = str(name)
    adapter["r"] = rank
    adapter["lora_alpha"] = alpha
    adapter["target_modules"] = sorted(targets)
    model = share_base(base, adapter)
    for block in model.layers:
        for part in (block.self_attn, block.mlp):
            for layer, linear in list(part.named_children()):
                if layer in targets:
                    dtype = torch.promote_types(linear.weight.dtype, torch.float32)
                    bound = linear.in_features ** -0.5
                    a = torch.empty(rank, linear.in_features, dtype=dtype)
                    nn.init.uniform_(a, -bound, bound, generator=generator)
                    b = torch.zeros(linear.out_features, rank)
                    setattr(part, layer, LoRA(linear, a, b, alpha / rank))
    return model


def name_adapters(model: Transformer) -> dict[str, nn.Parameter]:
    """Name in PEFT's file -> parameter, for every A and B."""
    found = {}
    for name, weight in model.named_parameters():
        if name.endswith(("lora_A", "lora_B")):
            found[f"base_model.model.model.{name}.weight"] = weight
    return found


def load_adapters(directory: Path, device: str, dtype: torch.dtype,
                  bases: dict | None) -> tuple[Transformer, Tokenizer]:
    """Adapters in PEFT's format, on their base. The directory's own tokenizer and template count before the base's.

    bases: {directory: (Transformer, Tokenizer)} of the bases loaded so far, so that two agents share one.
    """
    settings = AdapterConfig(directory)
    below = resolve(settings.base)
    if (below / "adapter_config.json").exists():
        raise UserError(f"{directory}: its base, {settings.base}, is an adapter itself, not a model")
    if bases is None:
        bases = {}
    if below not in bases:
        bases[below] = load(str(below), device, dtype)
    base, tokenizer = bases[below]
    # layer's name -> (rank, scale)
    layers = settings.place(to_file_name(name) for name, _ in base.named_modules() if name)
    wanted = {}                          # name in PEFT's file -> a tensor of that shape
    for name, (rank, _) in layers.items():
        linear = base.get_submodule(name.removeprefix("model."))
        wanted[f"base_model.model.{name}.lora_A.weight"] = torch.empty(rank, linear.in_features, device="meta")
        wanted[f"base_model.model.{name}.lora_B.weight"] = torch.empty(linear.out_features, rank, device="meta")
    tensors = settings.read_tensors()
    compare(directory, tensors, wanted)
    model = share_base(base, settings.raw)
    for name, (_, scale) in layers.items():
        path, _, last = name.removeprefix("model.").rpartition(".")
        a = tensors[f"base_model.model.{name}.lora_A.weight"]
        b = tensors[f"base_model.model.{name}.lora_B.weight"]
        part = model.get_submodule(path)
        setattr(part, last, LoRA(part.get_submodule(last), a, b, scale))
    own = Tokenizer.load(directory, tokenizer)
    if own.vocab_size > base.config.vocab_size:
        raise UserError(f"{directory}: its tokenizer has {own.vocab_size} ids, its base only {base.config.vocab_size}")
    return model, own


def save_adapters(model: Transformer, directory: Path) -> None:
    """The adapters alone, in PEFT's format."""
    tensors = {}
    for name, weight in name_adapters(model).items():
        tensors[name] = weight.detach().cpu()
    write_tensors(tensors, directory / "adapter_model.safetensors")
    atomic_write(directory / "adapter_config.json", json.dumps(model.adapter, indent=1))
