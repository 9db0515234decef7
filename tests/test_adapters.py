"""Other people's adapters: what PEFT computes with them, or one line that says what is not implemented."""
import json
import re

import pytest
import torch

import model as models
from data import UserError
from data.formats.adapters import TARGETS
from data.formats.hub import TINY
from data.formats.safetensors import read_tensors, write_tensors

IDS = torch.arange(6, 40).view(2, 17)


def write_adapter(directory, entries=None, layers=None, rank=2):
    """An adapter as PEFT writes it: the matrices of some layers, random, and entries of its config."""
    raw = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "tiny",
    "r": rank, "lora_alpha": 8,
           "target_modules": ["q_proj", "v_proj"], "bias": "none", **(entries or {})}
    base, _ = models.load("tiny")
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for name, linear in base.named_modules():
        if layers is None:
            chosen = name.endswith(("q_proj", "v_proj"))
        else:
            chosen = re.fullmatch(layers, name)
        if chosen:
            key = f"base_model.model.model.{name}"
            tensors[f"{key}.lora_A.weight"] = torch.randn(rank, linear.in_features, generator=generator) / 10
            tensors[f"{key}.lora_B.weight"] = torch.randn(linear.out_features, rank, generator=generator) / 10
    directory.mkdir(parents=True, exist_ok=True)
    write_tensors(tensors, directory / "adapter_model.safetensors")
    (directory / "adapter_config.json").write_text(json.dumps(raw))
    return tensors


def merge(tensors, scale):
    """The base with scale B A added to the layers that have adapters. scale: a number, or of a layer's name."""
    model, _ = models.load("tiny")
    with torch.no_grad():
        for key, a in tensors.items():
            if ".lora_A." in key:
                name = key.removeprefix("base_model.model.model.").removesuffix(".lora_A.weight")
                factor = scale(name) if callable(scale) else scale
                model.get_submodule(name).weight += factor * tensors[key.replace("lora_A", "lora_B")] @ a
    return model


def assert_like_merged(directory, tensors, scale):
    with torch.no_grad():
        found = models.load(str(directory))[0](IDS)
        assert (found - merge(tensors, scale)(IDS)).abs().max() < 1e-3
        assert (found - models.load("tiny")[0](IDS)).abs().max() > 0.1


# ------------------------------------------------------------------------------------------------------------
# What counts

@pytest.mark.parametrize("entries, scale", [
    ({}, 8 / 2),
    ({"use_rslora": True}, 8 / 2 ** 0.5),
    ({"use_rslora": False, "lora_alpha": -3.5}, -3.5 / 2),
    ({"alpha_pattern": {"q_proj": 1}}, lambda name: (1 if "q_proj" in name else 8) / 2),
    ({"alpha_pattern": {"layers.0.self_attn.q_proj": 2, r".*\.3\..*": 16}},
     lambda name: {"layers.0.self_attn.q_proj": 1, "layers.3.self_attn.q_proj": 8,
                   "layers.3.self_attn.v_proj": 8}.get(name, 4)),
    ({"alpha_pattern": {"proj": 99}}, 8 / 2),                # an end of a name begins behind a point
    ({"alpha_pattern": {"v_proj": 4}, "use_rslora": True},
     lambda name: (4 if "v_proj" in name else 8) / 2 ** 0.5),
    ({"rank_pattern": {"q_proj": 2, "v_proj": 2}, "r": 16}, 8 / 2),
    ({"rank_pattern": {}, "alpha_pattern": None, "layers_to_transform": []}, 8 / 2),
    ({"target_modules": r".*self_attn\.(q|v)_proj"}, 8 / 2),
    ({"target_modules": list(TARGETS), "exclude_modules": r".*(k|o|gate|up|down)_proj"}, 8 / 2),
    ({"target_modules": ["self_attn.q_proj", "v_proj", "nowhere"], "exclude_modules": ["down_proj"]}, 8 / 2),
    ({"init_lora_weights": "gaussian", "lora_dropout": 0.3, "megatron_core": "megatron.core", "revision": None,
      "auto_mapping": {"base_model_class": "LlamaForCausalLM"}, "loftq_config": {}, "eva_config": None}, 8 / 2),
    ({"something_new": None, "something_else": [], "and_more": False}, 8 / 2)])
def test_entries_that_count(tmp_path, entries, scale):
    """Against the merged matrices, computed here by hand."""
    tensors = write_adapter(tmp_path, entries)
    assert_like_merged(tmp_path, tensors, scale)


@pytest.mark.parametrize("entries, layers", [
    ({"layers_to_transform": [1, 3]}, r"layers\.[13]\.self_attn\.[qv]_proj"),
    ({"layers_to_transform": 2}, r"layers\.2\.self_attn\.[qv]_proj"),
    ({"layers_to_transform": [0], "layers_pattern": ["h", "layers"]}, r"layers\.0\.self_attn\.[qv]_proj"),
    ({"target_modules": "all-linear"}, r".*_proj"),
    ({"target_modules": ["model.layers.1.mlp.up_proj"]}, r"layers\.1\.mlp\.up_proj")])
def test_layers_that_have_adapters(tmp_path, entries, layers):
    tensors = write_adapter(tmp_path, entries, layers)
    assert_like_merged(tmp_path, tensors, 4)


def test_other_adapters_are_not_taken_for_these(tmp_path):
    """Tensors of more or fewer layers than the config names, or of another rank."""
    for layers, entries, what in [(r"layers\.0\..*[qv]_proj", {}, "is missing"),
                                  (r".*[qvk]_proj", {}, "is unexpected"),
                                  (None, {"r": 3}, "has shape"),
                                  (None, {"r": 99_999}, "has shape"),
                                  (None, {"rank_pattern": {"q_proj": 5}}, "has shape")]:
        write_adapter(tmp_path, entries, layers)
        with pytest.raises(UserError, match=what):
            models.load(str(tmp_path))


def test_what_was_read_is_written_again(tmp_path):
    """Going on with an adapter keeps its kind: scale, layers and entries survive a round."""
    entries = {"use_rslora": True, "layers_to_transform": [1], "alpha_pattern": {"q_proj": 3}}
    tensors = write_adapter(tmp_path / "a", entries, r"layers\.1\.self_attn\.[qv]_proj")
    model, tokenizer = models.load(str(tmp_path / "a"))
    models.save(model, tokenizer, tmp_path / "b")
    again = read_tensors(tmp_path / "b/adapter_model.safetensors")
    assert again.keys() == tensors.keys() and all(torch.equal(again[key], tensors[key]) for key in tensors)
    with torch.no_grad():
        assert torch.equal(models.load(str(tmp_path / "b"))[0](IDS), model(IDS))


# ------------------------------------------------------------------------------------------------------------
# What is refused, by its name and in one line

@pytest.mark.parametrize("entries, named", [
    ({"init_lora_weights": "pissa"}, "pissa"), ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
    ({"init_lora_weights": "olora"}, "olora"), ({"init_lora_weights": "loftq"}, "loftq"),
    ({"init_lora_weights": "corda"}, "corda"), ({"init_lora_weights": 1}, "init_lora_weights"),
    ({"use_dora": True}, "use_dora"), ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens"),
    ({"bias": "all"}, "bias"), ({"bias": "lora_only"}, "bias"), ({"bias": None}, "bias"),
    ({"lora_bias": True}, "lora_bias"), ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    ({"trainable_token_indices": [5]}, "trainable_token_indices"), ({"layer_replication": [[0,
    2]]}, "layer_replication"),
    ({"target_parameters": ["mlp.up_proj.weight"]}, "target_parameters"), ({"use_qalora": True}, "use_qalora"),
    ({"fan_in_fan_out": True}, "fan_in_fan_out"), ({"revision": "v2"}, "revision"),
    ({"invented_later": 0.5}, "invented_later"), ({"invented_later": {"a": 1}}, "invented_later"),
    ({"invented_later": 0}, "invented_later"),
    ({"peft_type": "IA3"}, "IA3"), ({"peft_type": "LOHA"}, "LOHA"), ({"peft_type": None}, "peft_type"),
    ({"base_model_name_or_path": None}, "base_model_name_or_path"), ({"base_model_name_or_path": 5}, "base_model"),
    ({"base_model_name_or_path": ""}, "base_model_name_or_path"), ({"base_model_name_or_path": "nowhere"}, "nowhere"),
    ({"r": 0}, "r = 0"), ({"r": None}, "r = None"), ({"r": "2"}, "r = '2'"), ({"r": True}, "r = True"),
    ({"r": 2.0}, "r = 2.0"), ({"r": -2}, "r = -2"), ({"r": 10 ** 30}, "r = 1000"),
    ({"lora_alpha": None}, "lora_alpha"), ({"lora_alpha": "8"}, "lora_alpha"),
    ({"lora_alpha": float("nan")}, "lora_alpha"),
    ({"lora_alpha": float("inf")}, "lora_alpha"), ({"use_rslora": "yes"}, "use_rslora"),
    ({"use_rslora": 1}, "use_rslora"),
    ({"alpha_pattern": {"q_proj": None}}, "lora_alpha"), ({"alpha_pattern": ["q_proj"]}, "alpha_pattern"),
    ({"rank_pattern": {"q_proj": 0}}, "r = 0"), ({"rank_pattern": {"(": 2}}, "rank_pattern"),
    ({"target_modules": None}, "target_modules"), ({"target_modules": []}, "target_modules"),
    ({"target_modules": "("}, "target_modules"), ({"target_modules": [1]}, "target_modules"),
    ({"target_modules": {"q_proj": 1}}, "target_modules"), ({"target_modules": ["nowhere"]}, "no layer"),
    ({"target_modules": ["q_proj", "lm_head"]}, "lm_head"), ({"target_modules": ["embed_tokens"]}, "embed_tokens"),
    ({"target_modules": ".*"}, "implemented on"), ({"exclude_modules": 5}, "exclude_modules"),
    ({"layers_to_transform": "all"}, "layers_to_transform"), ({"layers_to_transform": [1.5]}, "layers_to_transform"),
    ({"layers_pattern": "layers"}, "layers_pattern"), ({"layers_to_transform": [9]}, "no layer"),
    ({"layers_to_transform": [0], "target_modules": ".*q_proj"}, "layers_to_transform"),
    ({"layers_to_transform": [0], "layers_pattern": 3}, "layers_pattern")])
def test_entries_that_are_refused(tmp_path, entries, named):
    write_adapter(tmp_path, entries)
    with pytest.raises(UserError) as error:
        models.load(str(tmp_path))
    assert named in str(error.value) and "\n" not in str(error.value)


def test_an_adapter_on_an_adapter_is_refused(tmp_path):
    write_adapter(tmp_path / "a", {"base_model_name_or_path": str(tmp_path / "a")})      # itself
    write_adapter(tmp_path / "b", {"base_model_name_or_path": str(tmp_path / "a")})
    for name in ("a", "b"):
        with pytest.raises(UserError, match="is an adapter itself"):
            models.load(str(tmp_path / name))


def test_files_that_are_no_adapter(tmp_path):
    for text in ("", "[]", "null", '{"peft_type": "LORA"', '"LORA"'):
        (tmp_path / "adapter_config.json").write_text(text)
        with pytest.raises(UserError, match="adapter_config.json"):
            models.load(str(tmp_path))
    write_adapter(tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    (tmp_path / "adapter_model.bin").write_bytes(b"pickle")
    with pytest.raises(UserError, match="adapter_model.bin is a pickle"):
        models.load(str(tmp_path))


# ------------------------------------------------------------------------------------------------------------
# The tokenizer beside an adapter

MESSAGES = [{"role": "user", "content": "Hi"}]


def test_an_adapters_own_template_counts_before_its_bases(tmp_path):
    """In either of the two places where a template may stand, beside all of a tokenizer's files or alone."""
    _, base = models.load("tiny")
    config = json.loads((TINY / "tokenizer_config.json").read_text())
    template = base._find_template()
    changed = template.replace("<|im_start|>assistant\n", "<|im_start|>assistant\n<think>")
    own = {"config": {"tokenizer_config.json": json.dumps({**config, "chat_template": changed})},
           "jinja": {"chat_template.jinja": changed},
           "all": {"chat_template.jinja": changed, "tokenizer.json": (TINY / "tokenizer.json").read_text()}}
    assert changed != template
    for name, files in own.items():
        write_adapter(tmp_path / name)
        for file, text in files.items():
            (tmp_path / name / file).write_text(text)
        _, tokenizer = models.load(str(tmp_path / name))
        assert tokenizer is not base and tokenizer._find_template() == changed
        assert tokenizer.stop_ids == base.stop_ids           # config.json of the base counts, too
        models.save(*models.load(str(tmp_path / name)), tmp_path / f"{name}-again")
        assert models.load(str(tmp_path / f"{name}-again"))[1]._find_template() == changed


def test_a_template_in_the_base_serves_an_adapter_without_one(tmp_path):
    write_adapter(tmp_path)
    _, base = models.load("tiny")
    assert models.load(str(tmp_path))[1].chat(MESSAGES) == base.chat(MESSAGES)
    config = json.loads((TINY / "tokenizer_config.json").read_text())
    config.pop("chat_template")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer.json").write_bytes((TINY / "tokenizer.json").read_bytes())
    assert models.load(str(tmp_path))[1].chat(MESSAGES) == base.chat(MESSAGES)


def test_two_adapters_share_base_and_tokenizer_as_far_as_they_can(tmp_path):
    """However they spell its name; what stands beside one of them is its own."""
    write_adapter(tmp_path / "a")
    write_adapter(tmp_path / "b", {"base_model_name_or_path": str(TINY)})
    bases = {}
    a, tokenizer_a = models.load(str(tmp_path / "a"), bases=bases)
    b, tokenizer_b = models.load(str(tmp_path / "b"), bases=bases)
    assert a.embed_tokens.weight is b.embed_tokens.weight and tokenizer_a is tokenizer_b


def test_ids_beyond_the_embedding_are_refused(tmp_path):
    write_adapter(tmp_path)
    file = json.loads((TINY / "tokenizer.json").read_text())
    file["added_tokens"].append({**file["added_tokens"][-1], "id": 600, "content": "<|more|>"})
    (tmp_path / "tokenizer.json").write_text(json.dumps(file))
    with pytest.raises(UserError, match="601 ids, its base only 528"):
        models.load(str(tmp_path))


# ------------------------------------------------------------------------------------------------------------
# Against PEFT itself

KINDS = {
    "plain": {}, "rslora": dict(use_rslora=True), "alpha": dict(alpha_pattern={"q_proj": 32,
    "layers.1.mlp.up_proj": 2}),
    "rank": dict(rank_pattern={"v_proj": 7, r"layers\.[01]\.mlp\.down_proj": 1}),
    "both": dict(rank_pattern={"q_proj": 3}, alpha_pattern={"^model.layers.2.self_attn.q_proj": 64}, use_rslora=True),
    "layers": dict(layers_to_transform=[0, 2]), "one layer": dict(layers_to_transform=3, layers_pattern="layers"),
    "expression": dict(target_modules=r".*\.[12]\.(self_attn\.[qk]|mlp\.up)_proj"),
    "linear": dict(target_modules="all-linear"),
    "without": dict(exclude_modules=["v_proj", "layers.0.mlp.up_proj"]),
    "expression without": dict(exclude_modules=r".*\.0\..*"),
    "gaussian": dict(init_lora_weights="gaussian"), "random": dict(init_lora_weights=False),
    "orthogonal": dict(init_lora_weights="orthogonal"), "dropout": dict(lora_dropout=0.5),
    "pissa": dict(init_lora_weights="pissa"), "pissa fast": dict(init_lora_weights="pissa_niter_2"),
    "olora": dict(init_lora_weights="olora"), "mica": dict(init_lora_weights="mica"),
    "dora": dict(use_dora=True), "lora bias": dict(lora_bias=True),
    "alora": dict(alora_invocation_tokens=[7, 8]), "bias": dict(bias="all"), "lora only": dict(bias="lora_only"),
    "saved": dict(modules_to_save=["norm"]), "head": dict(target_modules=["q_proj", "lm_head"]),
    "embedding": dict(target_modules=["q_proj", "embed_tokens"]), "tokens": dict(trainable_token_indices=[7, 8]),
    "replicated": dict(layer_replication=[(0, 3), (1, 4)]), "parameters": dict(target_parameters=["norm.weight"]),
    "fan": dict(fan_in_fan_out=True)}
REFUSED = {"pissa", "pissa fast", "olora", "mica", "dora", "lora bias", "alora", "bias", "lora only", "saved", "head",
           "embedding", "tokens", "replicated", "parameters"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_that_peft_writes_is_equal_or_refused(tmp_path, kind):
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    base = transformers.AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    entries = dict(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj", "up_proj", "down_proj"],
                   task_type="CAUSAL_LM")
    try:
        theirs = peft.get_peft_model(base, peft.LoraConfig(**{**entries, **KINDS[kind]}))
    except Exception as error:
        pytest.skip(f"this PEFT has no such kind: {error}")
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            if weight.requires_grad:
                weight += 0.05 * torch.randn_like(weight)
    theirs.save_pretrained(tmp_path)
    fresh = transformers.AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(fresh, tmp_path).eval()
    try:
        model, _ = models.load(str(tmp_path))
    except UserError as error:
        assert "\n" not in str(error) and kind in REFUSED
        return
    assert kind not in REFUSED
    with torch.no_grad():
        assert (model(IDS) - theirs(IDS).logits).abs().max() < 1e-3
        assert (model(IDS) - models.load("tiny")[0](IDS)).abs().max() > 0.01


def test_what_a_config_says_is_checked_before_its_base_is_sought(tmp_path):
    write_adapter(tmp_path, {"base_model_name_or_path": "owner/name", "use_dora": True})
    with pytest.raises(UserError, match="use_dora"):
        models.load(str(tmp_path))
