"""data/formats/config.py: what config.json says is done as transformers does it, or refused in one line by name."""
import itertools
import json

import pytest

from data import UserError
from data.formats.config import Config

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}
FAMILY = {"llama": {"attention_bias": False, "mlp_bias": False}, "qwen2": {"use_sliding_window": False},
          "qwen3": {"attention_bias": False, "head_dim": 16}}
# As the published files have it; what else older and newer versions write into theirs.
REAL = {
    "llama": {"_name_or_path": "x/y", "bos_token_id": 1, "eos_token_id": [2, 3], "initializer_range": 0.02,
              "pretraining_tp": 1, "torch_dtype": "bfloat16", "transformers_version": "4.45.0", "use_cache": True,
              "is_llama_config": True, "rope_interleaved": False, "attention_dropout": 0.0,
              "transformers.js_config": {"dtype": "q4"}, "unsloth_fixed": True},
    "qwen2": {"max_window_layers": 28, "sliding_window": 32768, "use_mrope": False, "attention_bias": True,
              "layer_types": ["full_attention"] * 2},
    "qwen3": {"max_window_layers": 28, "sliding_window": None, "dtype": "bfloat16", "pruned_heads": {},
              "id2label": {"0": "LABEL_0"}, "temperature": 1.0, "quantization_config": None}}


def raw(family="llama", **changes):
    return {"model_type": family, "vocab_size": 99, "hidden_size": 32, "intermediate_size": 64,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_act": "silu",
            "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
            "rope_theta": 1e4, **FAMILY[family], **changes}


def refused(config):
    with pytest.raises(UserError) as error:
        Config.from_hf(config)
    assert "\n" not in str(error.value) and "config.json" in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("family", REAL)
def test_entries_that_do_no_harm(family):
    assert Config.from_hf(raw(family, **REAL[family])) == Config.from_hf(raw(family))


@pytest.mark.parametrize("key, value", [
    ("attention_bias", True), ("mlp_bias", True), ("use_sliding_window", True), ("partial_rotary_factor", 0.5),
    ("logit_scale", 0.0625), ("logits_scaling", 8.0), ("final_logit_softcapping", 30.0),
    ("attn_logit_softcapping", 50.0), ("query_pre_attn_scalar", 256), ("attention_multiplier", 0.1),
    ("embedding_multiplier", 12.0), ("residual_multiplier", 0.22), ("use_qk_norm", True), ("clip_qkv", 8.0),
    ("quantization_config", {"quant_method": "awq"}), ("quantization", {"bits": 4}), ("rope_interleaved", True),
    ("use_mrope", True), ("num_experts", 8), ("sliding_window_pattern", 6), ("no_rope_layers", [1, 0]),
    ("dual_chunk_attention_config", {"chunk_size": 1}), ("per_layer_config", {"0": {}}), ("auto_map", {"a": "b"}),
    ("pruned_heads", {"0": [1]}), ("layer_types", ["full_attention", "sliding_attention"]), ("layer_types", 3),
    ("hidden_act", "gelu"), ("hidden_act", None), ("tie_word_embeddings", "false"), ("rms_norm_eps", "1e-5"),
    ("rms_norm_eps", 0), ("rms_norm_eps", float("nan")), ("rope_theta", "1e4"), ("rope_theta", [1e4]),
    ("num_attention_heads", 0), ("num_attention_heads", "4"), ("hidden_size", None), ("head_dim", 7),
    ("num_key_value_heads", 3), ("model_type", ["llama"]), ("model_type", None), ("never_heard_of", "it")])
def test_whatever_else_may_change_the_logits_is_named(key, value):
    line = refused(raw(**{key: value}))
    assert key in line or key in ("head_dim", "num_key_value_heads") and "divide" in line \
        or key == "num_attention_heads" and "heads" in line or key == "hidden_size" and "width" in line
    if key == "hidden_size":
        assert "no hidden_size" in line


def test_an_endless_entry_is_cut():
    assert len(refused(raw(auto_map={"x": "y" * 10_000}))) < 300


@pytest.mark.parametrize("rope", [
    {"rope_type": "yarn", "factor": 4.0}, {"type": "linear", "factor": 2.0}, {"rope_type": "dynamic", "factor": 2.0},
    {"factor": 2.0}, {"rope_type": "default", "factor": 2.0}, {**LLAMA3, "factor": "8"}, {**LLAMA3, "factor": None},
    {**LLAMA3, "attention_factor": 1.2}, {"rope_type": "llama3"}, {"partial_rotary_factor": 0.5},
    {"mrope_section": [1, 2]}, {"full_attention": {"rope_theta": 1e4}}, {"rope_type": ["default"]},
    ["rope_type"], "llama3", 3])
def test_ropes_that_are_refused(rope):
    refused(raw(rope_scaling=rope))
    refused(raw(rope_parameters=rope))
    refused(raw(rope_parameters={"rope_theta": 1e4, "rope_type": "default"}, rope_scaling=rope))


THETAS = (None, 1e4, 5e5)
SCALINGS = (None, {}, {"rope_type": "default"}, LLAMA3, {**LLAMA3, "factor": 2.0}, {**LLAMA3, "rope_theta": 5e5})
PARAMETERS = (None, {"rope_type": "default", "rope_theta": 1e4}, {"rope_type": "default", "rope_theta": 5e5},
              {**LLAMA3, "rope_theta": 1e4}, {**LLAMA3, "rope_theta": 5e5}, LLAMA3)
SPELLINGS = [dict(zip(("rope_theta", "rope_scaling", "rope_parameters"), made))
             for made in itertools.product(THETAS, SCALINGS, PARAMETERS)]


def resolve(spelling):
    """Our (theta, scaling), None if refused."""
    try:
        config = Config.from_hf(raw(**spelling))
    except UserError as error:
        assert "rope" in str(error) and "\n" not in str(error)
        return None
    return config.rope_theta, config.rope_scaling


def test_two_spellings_of_the_rope():
    """A rope_scaling that somebody added beside rope_parameters was dropped without a word."""
    default = {"rope_type": "default", "rope_theta": 1e4}
    numbers = {key: value for key, value in LLAMA3.items() if key != "rope_type"}
    assert resolve({"rope_scaling": LLAMA3}) == (1e4, numbers)
    assert resolve({"rope_parameters": {**LLAMA3, "rope_theta": 1e4}}) == (1e4, numbers)
    assert resolve({"rope_scaling": LLAMA3, "rope_parameters": {**LLAMA3, "rope_theta": 1e4}}) == (1e4, numbers)
    assert "different things" in refused(raw(rope_parameters=default, rope_scaling=LLAMA3))
    assert "different things" in refused(raw(rope_parameters={**LLAMA3, "rope_theta": 1e4},
                                             rope_scaling={**LLAMA3, "factor": 2.0}))
    assert "different things" in refused(raw(rope_theta=5e5, rope_parameters=default))
    assert "yarn" in refused(raw(rope_parameters=default, rope_scaling={"rope_type": "yarn", "factor": 4.0}))
    assert sum(resolve(spelling) is None for spelling in SPELLINGS) < len(SPELLINGS)


def test_ropes_are_those_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers.LlamaConfig(), "rope_parameters"):
        pytest.skip("this transformers knows one spelling only")
    for spelling in SPELLINGS:
        found = resolve(spelling)
        if found is None:
            continue
        (tmp_path / "config.json").write_text(json.dumps(raw(**spelling)))
        theirs = transformers.AutoConfig.from_pretrained(tmp_path).rope_parameters
        numbers = {key: theirs[key] for key in LLAMA3 if key != "rope_type"} \
            if theirs["rope_type"] == "llama3" else None
        assert found == (theirs["rope_theta"], numbers), spelling


@pytest.mark.parametrize("family", FAMILY)
@pytest.mark.parametrize("scaling", [None, LLAMA3])
def test_what_we_write_we_read(family, scaling):
    config = Config.from_hf(raw(family, rope_scaling=scaling))
    written = json.loads(json.dumps(config.to_hf("float32", {2})))
    assert Config.from_hf(written) == config
