"""The transformer against transformers' own where it is installed, against golden values where it is not."""
import json
import math

import pytest
import torch

import model as models
from data import UserError
from data.formats.safetensors import read_tensors
from test_rollout import FAMILIES, small

HF = {
    "llama": dict(model_type="llama", tie_word_embeddings=False, attention_bias=False, rope_theta=500000.0,
                  rope_scaling={"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                                "high_freq_factor": 4.0, "original_max_position_embeddings": 16}),
    "smollm2": dict(model_type="llama", tie_word_embeddings=True, attention_bias=False, rope_theta=10000.0),
    "qwen2": dict(model_type="qwen2", tie_word_embeddings=True, rope_theta=1e6, use_sliding_window=False),
    "qwen3": dict(model_type="qwen3", tie_word_embeddings=False, attention_bias=False, rope_theta=1e6),
    "deepseek": dict(model_type="qwen2", tie_word_embeddings=False, rope_theta=10000.0, use_sliding_window=False,
                     sliding_window=64, max_window_layers=2),
    "mistral": dict(model_type="mistral", tie_word_embeddings=False, rope_theta=1e6, sliding_window=None),
}
COMMON = dict(
    vocab_size=101, hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=6,
    num_key_value_heads=2, max_position_embeddings=128, rms_norm_eps=1e-5, hidden_act="silu")


def raw(family, **changes):
    width = {"head_dim": 16} if family in ("qwen3", "mistral") else {}    # explicit, and not 48 / 6
    return {**COMMON, **HF[family], **width, **changes}


class NoTokenizer:
    """Stands in where only weights matter."""
    stop_ids = {2}

    @classmethod
    def load(cls, directory):
        return cls()

    def save(self, directory):
        pass


@pytest.fixture
def no_tokenizer(monkeypatch):
    monkeypatch.setattr(models, "Tokenizer", NoTokenizer)
    return NoTokenizer()


@pytest.mark.parametrize("family", HF)
def test_logits_equal_transformers(family, tmp_path, no_tokenizer):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    settings = raw(family)
    if hasattr(transformers.LlamaConfig(), "rope_parameters"):       # transformers 5 keeps one dictionary
        settings["rope_parameters"] = {"rope_type": "default", "rope_theta": settings.pop("rope_theta"),
                                       **settings.pop("rope_scaling", {})}
    config = transformers.AutoConfig.for_model(settings.pop("model_type"), **settings)
    theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for weight in theirs.parameters():                               # biases are 0, norms 1: disturb them
            weight += 0.1 * torch.randn_like(weight)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="60KB")    # several shards
    ours, _ = models.load(str(tmp_path / "theirs"))
    tokens = torch.randint(0, 101, (3, 100))
    with torch.no_grad():
        expected = theirs(tokens).logits
        assert (ours(tokens) - expected).abs().max() < 1e-4
        if family == "mistral":
            assert torch.equal(ours(tokens), expected)
        models.save(ours, no_tokenizer, tmp_path / "ours")
        again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
        assert (again(tokens).logits - expected).abs().max() < 1e-5
        double = theirs.double()(tokens).logits
        assert (models.load(str(tmp_path / "theirs"), dtype=torch.float64)[0](tokens)
                - double).abs().max() < 1e-6


def test_smollm2_equals_transformers(smollm2, monkeypatch):
    """Theirs norms in float32 even if all else is float64, which in 30 layers adds up to 1.4e-5: not here."""
    transformers = pytest.importorskip("transformers")
    tokens = torch.randint(0, 49152, (2, 60), generator=torch.Generator().manual_seed(0))

    def norm(self, x):
        return self.weight * torch.nn.functional.rms_norm(x, x.shape[-1:], eps=self.variance_epsilon)
    monkeypatch.setattr("transformers.models.llama.modeling_llama.LlamaRMSNorm.forward", norm)
    for dtype, tolerance in ((torch.float32, 5e-4), (torch.float64, 1e-6)):
        theirs = transformers.AutoModelForCausalLM.from_pretrained(smollm2, dtype=dtype)
        ours, _ = models.load(str(smollm2), dtype=dtype)
        with torch.no_grad():
            assert (ours(tokens) - theirs(tokens).logits).abs().max() < tolerance


GOLDEN = {
    "llama": [-0.726966, 0.627616, -0.401011, 0.093098, 0.233691],
    "smollm2": [-0.147156, 0.328495, 0.638315, 0.625901, 0.297519],
    "qwen2": [1.425434, 2.37684, 2.128368, 0.805453, -0.924071],
    "qwen3": [-0.010201, -0.073565, -0.103245, -0.085652, -0.02884],
    "deepseek": [-4.280728, -2.267651, 1.001044, 3.715453, 4.372582],
    "mistral": [-0.529633, 0.36509, -0.126522, -0.137699, 0.374001],
}
GOLDEN_TOKENS = torch.tensor([[1, 5, 9, 2, 7, 7, 30, 11] * 8])


@pytest.mark.parametrize("family", FAMILIES)
def test_golden_logits(family):
    """Parity where transformers is absent; test_golden_logits_are_those_of_transformers compares the two."""
    model = counted(family)
    with torch.no_grad():
        logits = model(GOLDEN_TOKENS)[0, -1, :5]
    assert logits.tolist() == pytest.approx(GOLDEN[family], abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_golden_logits_are_those_of_transformers(family, tmp_path, no_tokenizer):
    transformers = pytest.importorskip("transformers")
    models.save(counted(family), no_tokenizer, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)
    with torch.no_grad():
        assert theirs(GOLDEN_TOKENS).logits[0, -1, :5].tolist() == pytest.approx(GOLDEN[family], abs=1e-5)


def counted(family):
    """A model whose weights follow from a formula, not a generator that may change: sines of the place."""
    model = small(family)
    with torch.no_grad():
        for i, weight in enumerate(model.parameters()):
            place = torch.arange(weight.numel(), dtype=torch.float64).view_as(weight)
            weight.copy_((place * (i + 1) * 0.37).sin() * 0.4 + (1 if weight.dim() == 1 else 0))
    return model


@pytest.mark.parametrize("family", HF)
def test_both_spellings_of_the_rope(family):
    old = raw(family)
    new = {key: value for key, value in old.items() if key not in ("rope_theta", "rope_scaling")}
    new["rope_parameters"] = {"rope_theta": old["rope_theta"],
                              **(old.get("rope_scaling") or {"rope_type": "default"})}
    config = models.Config.from_hf(old)
    assert models.Config.from_hf(new) == config
    assert models.Config.from_hf(config.to_hf("float32", [2])) == config


@pytest.mark.parametrize("change, message", [
    ({"model_type": "gpt2"}, "gpt2"), ({"rope_theta": None}, "rope_theta"),
    ({"rms_norm_eps": None}, "rms_norm_eps"), ({"hidden_act": "gelu"}, "gelu"),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "yarn"),
    ({"rope_scaling": {"rope_type": "llama3", "factor": 4.0}}, "low_freq_factor"),
    ({"mlp_bias": True}, "mlp_bias"), ({"attention_bias": True}, "attention_bias"),
    ({"use_sliding_window": True}, "use_sliding_window"),
    ({"tie_word_embeddings": None}, "tie_word_embeddings"),
    ({"num_key_value_heads": 4}, "do not divide"), ({"hidden_size": "48"}, "width"),
    ({"quantization_config": {"bits": 4}}, "quantization_config"),
    ({"layer_types": ["sliding_attention"]}, "layer_types")])
def test_nothing_that_changes_the_logits_is_guessed(change, message):
    with pytest.raises(UserError, match=message):
        models.Config.from_hf(raw("llama", head_dim=8, **change))


def test_round_trip_and_wrong_tensors(tmp_path, no_tokenizer):
    model = small("llama", dtype=torch.float32)
    models.save(model, no_tokenizer, tmp_path)
    again, _ = models.load(str(tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    half, _ = models.load(str(tmp_path), dtype=torch.bfloat16)
    half(torch.tensor([[1]]))                # which makes the table of frequencies
    assert half.embed_tokens.weight.dtype == torch.bfloat16 and half.frequency.dtype == torch.float32

    with torch.no_grad():                    # the weights in memory are no view of the file
        again.embed_tokens.weight.zero_()
    assert models.load(str(tmp_path))[0].embed_tokens.weight.any()

    tensors = read_tensors(tmp_path)
    for name, wrong, message in (
            ("model.norm.weight", None, "'model.norm.weight' is missing"),
            ("model.layers.7.x", torch.zeros(1), "'model.layers.7.x' is unexpected"),
            ("model.norm.weight", torch.zeros(3), r"model.norm.weight has shape \(3,\)")):
        changed = {key: value for key, value in {**tensors, name: wrong}.items() if value is not None}
        models.write_tensors(changed, tmp_path / "model.safetensors")
        with pytest.raises(UserError, match=message):
            models.load(str(tmp_path))


def test_a_tied_head_in_the_file_must_be_the_embedding(tmp_path, no_tokenizer):
    model = small("smollm2", dtype=torch.float32)
    models.save(model, no_tokenizer, tmp_path)
    tensors = read_tensors(tmp_path)
    head = tensors["model.embed_tokens.weight"].clone()
    models.write_tensors({**tensors, "lm_head.weight": head}, tmp_path / "model.safetensors")
    models.load(str(tmp_path))
    models.write_tensors({**tensors, "lm_head.weight": head + 1}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="differs"):
        models.load(str(tmp_path))


def test_config_json_of_a_saved_model(tmp_path, no_tokenizer):
    models.save(small("qwen3", dtype=torch.bfloat16), no_tokenizer, tmp_path)
    found = json.loads((tmp_path / "config.json").read_text())
    assert (found["torch_dtype"] == found["dtype"] == "bfloat16"
            and found["architectures"] == ["Qwen3ForCausalLM"])
    assert found["head_dim"] == 8 and found["rope_theta"] == 10000.0 and found["rope_scaling"] is None


def test_logprobs_in_chunks_equal_log_softmax():
    model = small()
    hidden = torch.randn(23, 32, dtype=torch.float64,
                         generator=torch.Generator().manual_seed(0)).requires_grad_()
    targets = torch.arange(23) % 50
    expected = (model.lm_head(hidden) / 0.7).log_softmax(-1)
    wanted = torch.autograd.grad(expected[range(23), targets].sum(), (hidden, model.lm_head.weight))
    for chunk in (1, 5, 100):
        found, entropy = models.compute_logprobs(model, hidden, targets, 0.7, chunk)
        assert torch.allclose(found, expected[range(23), targets], atol=1e-12)
        assert torch.allclose(entropy, -(expected.exp() * expected).sum(-1), atol=1e-10)
        for a, b in zip(torch.autograd.grad(found.sum(), (hidden, model.lm_head.weight)), wanted):
            assert torch.allclose(a, b, atol=1e-12)


@pytest.mark.parametrize("dtype, rounding", [(torch.float64, 1e-12), (torch.bfloat16, 0.02)])
def test_decoding_attends_as_the_formula_says(dtype, rounding):
    """One query a row, four query heads to each key-value head, a slot that nobody sees, keys in a larger buffer."""
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(3, 8, 1, 16, generator=generator, dtype=torch.float64).to(dtype)
    k, v = torch.randn(2, 3, 2, 9, 16, generator=generator, dtype=torch.float64).to(dtype)[:, :, :, :7]
    mask = torch.zeros(3, 1, 1, 7, dtype=dtype)
    mask[1, :, :, 0] = -math.inf
    with torch.no_grad():
        found = models.attend(q, k, v, mask).double()
    for row in range(3):
        for head in range(8):
            keys, values = k[row, head // 4].double(), v[row, head // 4].double()
            scores = keys @ q[row, head, 0].double() / 4 + mask[row, 0, 0].double()
            assert (found[row, head, 0] - scores.softmax(0) @ values).abs().max() < rounding
