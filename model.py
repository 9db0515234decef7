"""The transformer of Llama 3, Qwen 2.5, Qwen 3 and SmolLM2, its KV cache, and its Hugging Face directory.

One file, one model: RMSNorm, rotary positions, grouped-query attention, SwiGLU. The families differ in three
switches (a bias on q, k, v; a norm on q and k; tied or untied head) and in numbers. Modules carry the names
of the tensors in the checkpoint, so that loading is a comparison of two dictionaries and nothing is renamed.

Shapes: B rows, P prompts, T new tokens, S keys (T and what came before), V vocabulary, D width, H heads,
K key-value heads, R = H / K query heads for each of them, C head width, L layers.
"""
import json
import math
import pathlib

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from data import UserError
from data.formats.files import atomic_write, read_json
from data.formats.hub import resolve
from data.formats.safetensors import compare, read_tensors, write_tensors
from data.formats.config import Config
from data.formats.tokenizer import Tokenizer


# ------------------------------------------------------------------------------------------------------------
# The transformer

def rope_frequencies(config):
    """Angle per position of each pair of channels -> (C / 2,), float32.

    theta^(-2i / C); with llama3 scaling (Llama 3.1's config, rope_type "llama3") slow rotations are `factor`
    times slower, fast ones are kept, and between the two wavelengths the two are blended.
    """
    exponent = torch.arange(0, config.head_width, 2, dtype=torch.int64).float() / config.head_width
    frequency = 1.0 / config.rope_theta ** exponent
    if config.rope_scaling is None:
        return frequency
    factor, low, high, original = config.rope_scaling.values()
    turns = original * frequency / (2 * math.pi)             # turns of the pair within the original context
    keep = ((turns - low) / (high - low)).clamp(0, 1)        # 0: slow, stretch it; 1: fast, leave it
    return (1 - keep) * frequency / factor + keep * frequency


def rotate(x, cos, sin):
    """Turn channel i with channel i + C / 2 by the position's angle: Hugging Face's half-split order."""
    return x * cos + x.roll(x.shape[-1] // 2, -1) * sin      # sin of the first half has its sign turned


class RMSNorm(nn.Module):
    precision = torch.float32        # published models norm in float32 whatever their type; tests set float64

    def __init__(self, width, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x):
        wide = x.to(self.precision)
        return self.weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype)


class Attention(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        D, H, K, C = config.width, config.heads, config.kv_heads, config.head_width
        self.layer, self.head_width = layer, C
        self.q_proj = nn.Linear(D, H * C, bias=config.qkv_bias)
        self.k_proj = nn.Linear(D, K * C, bias=config.qkv_bias)
        self.v_proj = nn.Linear(D, K * C, bias=config.qkv_bias)
        self.o_proj = nn.Linear(H * C, D, bias=False)
        self.q_norm, self.k_norm = (RMSNorm(C, config.eps) if config.qk_norm else nn.Identity() for _ in "qk")

    def forward(self, x, cos, sin, cache):
        B, T, _ = x.shape
        q, k, v = (proj(x).view(B, T, -1, self.head_width)
                   for proj in (self.q_proj, self.k_proj, self.v_proj))
        q, k, v = (x.transpose(1, 2) for x in (self.q_norm(q), self.k_norm(k), v))     # (B, H or K, T, C)
        q, k = rotate(torch.cat((q, k), 1), cos, sin).split((q.shape[1], k.shape[1]), 1)
        if cache is None:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        else:
            y = cache.attend(self.layer, q, k, v)                              # (B, H, T, C)
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

    def forward(self, x, cos, sin, cache):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Transformer(nn.Module):
    """tokens (B, T) int64 -> logits (B, T, V). New weights: N(0, 0.02), residual outputs smaller (GPT-2)."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.width)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.norm = RMSNorm(config.width, config.eps)
        self.lm_head = nn.Linear(config.width, config.vocab_size, bias=False)
        if config.tied:
            self.lm_head.weight = self.embed_tokens.weight
        self.frequency = rope_frequencies(config)            # no buffer: .to(bfloat16) must not round angles
        self.checkpointing = False                           # recompute the blocks in the backward pass
        self.adapter = None                                  # of a model with LoRA: its adapter_config.json
        self.compiled = False                                # whether `step` is: then shapes stay the same

    def init_weights(self, generator):
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                std = 0.02 / math.sqrt(2 * self.config.layers) if residual else 0.02
                nn.init.normal_(weight, std=std, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(weight)
        return self

    def forward(self, tokens, cache=None):
        return self.lm_head(self.hidden(tokens, cache))

    def step(self, token, cache):
        """One token of each row (B,) -> logits of the next (B, V). What data/extensions/compiling.py compiles."""
        return self(token[:, None], cache)[:, 0]

    def hidden(self, tokens, cache=None, lengths=None):
        """tokens (B, T) -> the normed output of the last block (B, T, D); what the head turns into logits.

        Without a cache, rows are plain causal sequences: padding goes right, where nothing looks at it. With
        one, row b's tokens follow what the cache holds of it; lengths (B,): how many of the T are real (all).
        """
        x = self.embed_tokens(tokens)                                          # (B, T, D)
        position = cache.begin(tokens) if cache else torch.arange(tokens.shape[1], device=x.device)[None]
        angle = position[:, None, :, None].float() * self.frequency.to(x.device)       # (B or 1, 1, T, C / 2)
        cos = torch.cat((angle.cos(), angle.cos()), -1).to(x.dtype)            # (B or 1, 1, T, C)
        sin = torch.cat((-angle.sin(), angle.sin()), -1).to(x.dtype)
        for block in self.layers:
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, cos, sin, cache, use_reentrant=False)
            else:
                x = block(x, cos, sin, cache)
        if cache is not None:
            cache.end(tokens.shape[1] if lengths is None else lengths)
        return self.norm(x)


# ------------------------------------------------------------------------------------------------------------
# The KV cache

class Cache:
    """Keys and values of B rows, perhaps on top of prompts that several rows share.

    What all prompts begin with (system message, worked example) is run once, as a Cache of one row; prompts
    then continue it: Cache(base=...). A prompt is run once, into a Cache of its own; what its samples add is
    held by Cache(prefix=prompts, group=...), and each sample looks at both. Row b's keys lie at 0, 1, 2 ...
    without holes, so a key's place is its position, and the whole mask is `key's position <= query's`: what
    lies behind a short row, padding or not, is never seen, and overwritten when the row grows. Training uses
    the same class: with capacity 0 tensors are kept as they are, so gradients flow into the prompt through
    all samples that look at it.

    prefix    Cache of P prompts, or None
    group     (B,) the prompt of each row
    capacity  room for so many tokens a row, doubled when full; 0: a single call, its tensors kept as they are
    base      Cache of one row that every row begins with (capacity 0), or None
    static    shapes never change, for a compiled step: the mask is over the whole capacity
    """

    def __init__(self, prefix=None, group=None, capacity=0, base=None, static=False):
        self.prefix, self.group, self.capacity, self.base, self.static = prefix, group, capacity, base, static
        self.length = None if group is None else torch.zeros_like(group)       # (B,) tokens each row holds
        self.filled = base.filled if base else 0             # the longest row's, without asking the device
        self.kv = {}                                         # layer -> keys and values (2, B, K, capacity, C)
        if prefix is not None:
            self.align()
            for layer, (keys, _) in prefix.kv.items() if capacity else ():
                self.kv[layer] = keys.new_zeros(2, len(group), keys.shape[1], capacity, keys.shape[3])

    def begin(self, tokens):
        """Called by the model before its first layer -> position of each token (B, T)."""
        (B, T), device = tokens.shape, tokens.device
        if self.length is None:
            self.length = torch.full((B,), self.filled, device=device)
        self.new = self.length[:, None] + torch.arange(T, device=device)      # (B, T) places of the new keys
        self.keys = self.capacity if self.static else self.filled + T
        if 0 < self.capacity < self.keys:
            self.capacity = max(self.keys, 2 * self.capacity)
        self.mask = torch.arange(self.keys, device=device) <= self.new[..., None]             # (B, T, S)
        if self.prefix is None:
            return self.new
        prompt = torch.arange(self.prefix.filled, device=device) < self.prefix.length[:, None]     # (P, Tp)
        self.mask = torch.cat((prompt[self.group][:, None].expand(B, T, -1), self.mask), -1)  # (B, T, Tp + S)
        if T == 1:                                           # decoding: added to the scores of every layer
            self.bias = torch.zeros(self.mask.shape, device=device).masked_fill_(~self.mask, -math.inf)
        return self.prefix.length[self.group][:, None] + self.new

    def end(self, lengths):
        """Called by the model after its last layer: each row now holds so many tokens more (int or (B,))."""
        self.length = self.length + lengths
        self.filled = self.keys

    def align(self):
        """Index the rows as a rectangle (P, the most rows of a prompt): one matrix product per prompt."""
        counts = torch.bincount(self.group, minlength=len(self.prefix.length))                 # (P,)
        first = counts.cumsum(0) - counts
        self.column = self.group.argsort(stable=True).argsort() - first[self.group]            # (B,)
        self.slots = torch.zeros(len(counts), int(counts.max()), dtype=torch.int64, device=counts.device)
        every = torch.arange(self.slots.numel(), device=counts.device)
        self.slots[self.group, self.column] = every[:len(self.group)]                          # empty: row 0
        self.full = torch.equal(self.slots.flatten(), every)

    def append(self, layer, new):
        """Put the new keys and values (2, B, K, T, C) in their places -> all that the rows hold, likewise."""
        if not self.capacity:
            self.kv.setdefault(layer, new)                   # not again when checkpointing runs a block twice
            return self.whole(layer, new)
        room = self.capacity - self.kv[layer].shape[3]
        if room:
            self.kv[layer] = F.pad(self.kv[layer], (0, 0, 0, room))
        rows = torch.arange(len(self.new), device=new.device)[:, None]
        self.kv[layer][:, rows, :, self.new] = new.permute(1, 3, 0, 2, 4)      # (B, T, 2, K, C)
        return self.kv[layer][..., :self.keys, :]

    def whole(self, layer, kv):
        """The rows' keys and values (2, B, K, T, C) behind those of the base."""
        return torch.cat((self.base.kv[layer].expand(-1, len(kv[0]), -1, -1, -1), kv), 3) if self.base else kv

    def attend(self, layer, q, k, v):
        """Attention of the new queries (B, H, T, C) over all that their rows hold -> (B, H, T, C)."""
        kv = self.append(layer, torch.stack((k, v)))                           # (2, B, K, S, C)
        if self.prefix is not None:
            if q.shape[2] == 1 and not torch.is_grad_enabled():
                return self.attend_one(layer, q, *kv)
            prompts = self.prefix.whole(layer, self.prefix.kv[layer])          # (2, P, K, Tp, C)
            kv = torch.cat((prompts[:, self.group], kv), 3)
        if q.is_cuda:        # with a mask and grouped heads a card would fall back to plain products in float32
            kv = kv.repeat_interleave(q.shape[1] // kv.shape[2], 2)
        return F.scaled_dot_product_attention(q, *kv, attn_mask=self.mask[:, None],
                                              enable_gqa=q.shape[1] != kv.shape[2])

    def attend_one(self, layer, q, k, v):
        """One new token a row (decoding): keys that rows share are read once for all of them, never copied.

        softmax over [base's keys, prompt's keys, own keys] = one softmax over three products, side by side.
        In the shapes below n is the most rows of a prompt, Tb the length of the base, N anything.
        """
        (prompt_k, prompt_v), base = self.prefix.kv[layer], self.prefix.base and self.prefix.base.kv[layer]
        (B, H, _, C), (P, K, Tp, _) = q.shape, prompt_k.shape
        R = H // K

        def by_prompt(x):                                    # (B, K, R, N) -> (P, K, nR, N)
            x = (x.view(P, -1, K, R, x.shape[-1]).transpose(1, 2) if self.full
                 else x[self.slots[:, None], torch.arange(K, device=x.device)[:, None]])     # (P, K, n, R, N)
            return x.reshape(P, K, -1, x.shape[-1])

        def by_row(x):                                       # (P, K, nR, N) -> (B, K, R, N)
            x = x.view(P, K, -1, R, x.shape[-1]).transpose(1, 2)                             # (P, n, K, R, N)
            return x.reshape(-1, K, R, x.shape[-1]) if self.full else x[self.group, self.column]

        def with_base(x, y):                                 # x (B, K, R, N), y (K, N, M) -> (B, K, R, M)
            return (x.transpose(0, 1).reshape(K, B * R, -1) @ y).view(K, B, R, -1).transpose(0, 1)

        q = q.view(B, K, R, C) / math.sqrt(C)
        scores = [by_row(by_prompt(q) @ prompt_k.transpose(2, 3)), q @ k.transpose(2, 3)]
        if base is not None:
            scores.insert(0, with_base(q, base[0, 0].transpose(1, 2)))
        scores = torch.cat(scores, -1).add_(self.bias[:, None])                # (B, K, R, Tb + Tp + S)
        weight = scores.softmax(-1, dtype=torch.promote_types(q.dtype, torch.float32)).to(q.dtype)
        shared, far, near = weight.split((weight.shape[-1] - Tp - self.keys, Tp, self.keys), -1)
        y = by_row(by_prompt(far) @ prompt_v) + near @ v
        if base is not None:
            y = y + with_base(shared, base[1, 0])
        return y.reshape(B, H, 1, C)

    def cut(self, lengths):
        """Row b goes on behind its first lengths[b] tokens, its prompt's included: it forgets the others.

        Nothing is moved: keys behind a row's length are never seen, and overwritten when it grows.
        """
        self.length = lengths - self.prefix.length[self.group]                 # (B,)
        self.filled = int(self.length.max())

    def keep(self, rows):
        """Let the other rows leave a cache with a prefix. rows: (B,) bool or indices in ascending order."""
        self.kv = {layer: kv[:, rows] for layer, kv in self.kv.items()}
        self.length, self.group = self.length[rows], self.group[rows]
        self.align()


# ------------------------------------------------------------------------------------------------------------
# Log-probabilities of given tokens

def slow(weight):
    """Is it bfloat16 on a CPU without AMX? Then float32 products take half as long, and are more exact."""
    return weight.type() == "torch.BFloat16Tensor" and not getattr(torch.cpu, "_is_amx_tile_supported", int)()


def _chunk_logprobs(hidden, weight, targets, temperature, allowed, states):
    if slow(weight):                                         # as in rollout.nimble
        hidden, weight = hidden.float(), weight.float()
    logits = F.linear(hidden, weight)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature         # (N, V)
    if allowed is not None:                                  # not -inf: 0 * -inf would spoil the entropy
        logits = logits.masked_fill(~allowed[states], -1e30)
    logz = logits.logsumexp(-1)
    with torch.no_grad():                                    # entropy is watched, not trained
        entropy = logz - (torch.exp(logits - logz[:, None]) * logits).sum(-1)
    return logits.gather(1, targets[:, None])[:, 0] - logz, entropy


def logprobs(model, hidden, targets, temperature=1.0, chunk=1024, allowed=None, states=None):
    """Log-probability of each target and entropy of its distribution, in nats -> (N,), (N,).

    hidden (N, D) from model.hidden, targets (N,). The head runs over `chunk` positions at a time, and again
    in the backward pass, so that logits never exist for more than a chunk (a plain loop keeps them all).
    allowed (S, V) bool and states (N,): which tokens each distribution is limited to, see data/extensions/guide.py.
    """
    parts = [checkpoint(_chunk_logprobs, hidden[i:i + chunk], model.lm_head.weight, targets[i:i + chunk],
                        temperature, allowed, None if states is None else states[i:i + chunk],
                        use_reentrant=False) for i in range(0, len(targets), chunk)]
    return tuple(torch.cat(part) for part in zip(*parts))


# ------------------------------------------------------------------------------------------------------------
# LoRA: agents that share one frozen base

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class LoRA(nn.Linear):
    """A frozen linear layer and what is learned beside it, of rank r: y = W x + b + (alpha / r) B A x.

    arXiv 2106.09685. A (r, in) starts random and B (out, r) at zero, so that nothing changes at first. Both
    are float32 whatever the type of W, which is the very tensor of the base: all agents look at the same one.
    """

    def __init__(self, linear, rank, alpha, generator):
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        self.weight, self.bias, self.scale = linear.weight, linear.bias, alpha / rank
        device, dtype = linear.weight.device, torch.promote_types(linear.weight.dtype, torch.float32)
        a = torch.empty(rank, linear.in_features, dtype=dtype)
        nn.init.uniform_(a, -linear.in_features ** -0.5, linear.in_features ** -0.5, generator=generator)
        self.lora_A = nn.Parameter(a.to(device))
        self.lora_B = nn.Parameter(torch.zeros(linear.out_features, rank, device=device, dtype=dtype))

    def forward(self, x):
        low = F.linear(F.linear(x.to(self.lora_A.dtype), self.lora_A), self.lora_B)
        return (super().forward(x) + self.scale * low).to(x.dtype)


def adapt(base, rank, alpha, generator, targets=TARGETS, name=""):
    """A Transformer whose weights are those of `base`, now frozen, with adapters on `targets` of its blocks.

    base is then the model with all adapters off: the reference policy. name: of the base, for PEFT.
    """
    if unknown := set(targets) - set(TARGETS):
        raise UserError(f"no layer is called {min(unknown)}: adapters go on {', '.join(TARGETS)}")
    if base.adapter:
        raise UserError("this model has adapters already, which go on learning without --lora")
    model = assemble(base.config, dict(base.requires_grad_(False).named_parameters()))
    for block in list(model.layers.modules()):
        for layer, linear in list(block.named_children()):
            if layer in targets:
                setattr(block, layer, LoRA(linear, rank, alpha, generator))
    model.adapter = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(name),
                     "r": rank, "lora_alpha": alpha, "lora_dropout": 0.0, "bias": "none",
                     "target_modules": sorted(targets)}
    return model


def adapter_tensors(model):
    """Name in PEFT's file -> parameter, for every A and B."""
    return {f"base_model.model.model.{name}.weight": weight for name, weight in model.named_parameters()
            if name.endswith(("lora_A", "lora_B"))}


# ------------------------------------------------------------------------------------------------------------
# Load and save

def hf_name(name):
    return name if name.startswith("lm_head") else "model." + name


def assemble(config, weights):
    """A Transformer around given tensors (name -> tensor): nothing is copied."""
    with torch.device("meta"):                               # shapes alone
        model = Transformer(config)
    model.frequency = rope_frequencies(config)
    for name, weight in weights.items():
        path, _, last = name.rpartition(".")
        setattr(model.get_submodule(path), last, weight)
    if config.tied:
        model.lm_head.weight = model.embed_tokens.weight
    return model


def load(name_or_dir, device="cpu", dtype=torch.float32, bases=None):
    """-> (Transformer, Tokenizer) of a Hugging Face directory, or of a name that data/formats/checkpoint.py resolves.

    A directory may hold adapters in PEFT's format instead of weights. bases: {name: (Transformer, Tokenizer)}
    of the bases loaded so far, so that two agents share one. Raises UserError that names what is missing,
    unexpected or misshapen.
    """
    directory = resolve(name_or_dir)
    if (directory / "adapter_config.json").exists():
        raw, bases = read_json(directory / "adapter_config.json"), {} if bases is None else bases
        name = raw["base_model_name_or_path"]
        if name not in bases:
            bases[name] = load(name, device, dtype)
        model = adapt(bases[name][0], raw["r"], raw["lora_alpha"], None, raw["target_modules"], name)
        ours, tensors = adapter_tensors(model), read_tensors(directory / "adapter_model.safetensors")
        compare(directory, tensors, ours)
        for key, weight in ours.items():
            weight.data.copy_(tensors[key])
        return model, bases[name][1]
    config = Config.from_hf(read_json(directory / "config.json"))
    with torch.device("meta"):
        wanted = {hf_name(name): weight for name, weight in Transformer(config).named_parameters()}
    tensors = {name: tensor for name, tensor in read_tensors(directory).items()
               if not name.endswith("rotary_emb.inv_freq")}  # a constant of old files
    if config.tied:                      # some files carry the tied head twice; it must be the same matrix
        head = tensors.pop("lm_head.weight", None)
        if head is not None and not torch.equal(head, tensors.get("model.embed_tokens.weight", head)):
            raise UserError(f"{directory}: tie_word_embeddings is true but lm_head.weight differs "
                            "from the embedding")
    compare(directory, tensors, wanted)
    weights = {}
    for name, tensor in tensors.items():
        weight = tensor.to(device=device, dtype=dtype, copy=True)    # the file stays as it is
        if device == "cpu" and weight.dim() == 2 and "embed" not in name:
            weight = weight.t().contiguous().t()     # transposed in memory: few rows times it are 20 % faster
        weights[name.removeprefix("model.")] = nn.Parameter(weight)
    return assemble(config, weights), Tokenizer.load(directory)


def save(model, tokenizer, directory, dtype=None):
    """Write a Hugging Face directory that transformers 4, 5 and load read: config, weights, tokenizer.

    Of a model with LoRA: its adapters alone, in PEFT's format.
    """
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(directory)
    if model.adapter:
        write_tensors({name: weight.detach().cpu() for name, weight in adapter_tensors(model).items()},
                      directory / "adapter_model.safetensors")
        atomic_write(directory / "adapter_config.json", json.dumps(model.adapter, indent=1).encode())
        return
    tensors = {hf_name(name): weight.detach().to("cpu", dtype or weight.dtype)
               for name, weight in model.named_parameters()}
    kind = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
    config = {**model.config.to_hf(kind), "eos_token_id": sorted(tokenizer.stop_ids)}
    write_tensors(tensors, directory / "model.safetensors")
    atomic_write(directory / "config.json", json.dumps(config, indent=1).encode())
