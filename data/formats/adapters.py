"""adapter_config.json of an adapter in PEFT's format, read whole: where it has its matrices, and how they count.

Kinds of LoRA differ by an entry in this file while their tensors look the same, so an entry that is overlooked is a
model that is silently another one. What is read here is done as PEFT does it; what changes nothing is listed; any
other entry must be at rest (false, null or empty), or is refused by name.
"""
import math
import re

from data import UserError
from data.formats.files import read_json
from data.formats.safetensors import read_tensors

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
READ = set("""
    peft_type base_model_name_or_path r lora_alpha use_rslora rank_pattern alpha_pattern target_modules
    exclude_modules layers_to_transform layers_pattern init_lora_weights bias""".split())
# About training, or about entries that are refused themselves: without influence on the logits.
HARMLESS = set("""
    task_type auto_mapping peft_version inference_mode lora_dropout megatron_core qalora_group_size runtime_config
    eva_config""".split())
# How the matrices began, where that left the base as it was. PiSSA, OLoRA, LoftQ and others change its weights.
BEGINNINGS = (True, False, None, "gaussian", "orthogonal", "eva")
LARGEST_RANK = 100_000


class AdapterConfig:
    """raw: the entries as they are; base: the name of the model that the adapters stand on."""

    def __init__(self, directory):
        self.path = directory / "adapter_config.json"
        self.raw = read_json(self.path)
        self.check_entries()
        self.base = self.raw.get("base_model_name_or_path")
        if not isinstance(self.base, str) or not self.base:
            self.refuse(f"base_model_name_or_path is {show(self.base)}: the model below the adapters has to be named")

    def refuse(self, why: str):
        raise UserError(f"{self.path}: {why}")

    def check_entries(self) -> None:
        """UserError for another kind of adapter, and for an entry that we would get wrong or don't know."""
        kind = self.raw.get("peft_type")
        if kind != "LORA":
            self.refuse(f"peft_type {show(kind)} is not implemented; only LORA is")
        begun = self.raw.get("init_lora_weights", True)
        if begun not in BEGINNINGS or type(begun) in (int, float):
            self.refuse(f"init_lora_weights = {show(begun)} changes the base's weights, which is not implemented; "
                        "PEFT's save_pretrained(path_initial_model_for_weight_conversion=...) makes plain LoRA of it")
        if self.raw.get("bias", "none") != "none":
            self.refuse(f"bias = {show(self.raw['bias'])} is not implemented; only 'none' is")
        for key, value in self.raw.items():
            if key in READ or key in HARMLESS or is_at_rest(value):
                continue
            if key == "revision" and value == "main":
                continue
            self.refuse(f"{key} = {show(value)} is not implemented, and may change the logits; if you know "
                        "that it does not, delete the entry")

    def read_tensors(self) -> dict:
        path = self.path.with_name("adapter_model.safetensors")
        pickled = path.with_suffix(".bin")
        if pickled.exists() and not path.exists():
            raise UserError(f"{pickled} is a pickle, which may run code when loaded: convert it to {path.name}")
        return read_tensors(path)

    def place(self, modules: list[str]) -> dict[str, tuple[int, float]]:
        """{layer with adapters: (rank, what their output is multiplied by)}, by PEFT's rules.

        modules: names of all parts of the model, as transformers has them: model.layers.0.self_attn.q_proj.
        """
        found = {}
        for name in modules:
            if not self.is_targeted(name):
                continue
            if name.rpartition(".")[2] not in TARGETS:
                self.refuse(f"target_modules name {name}, but adapters are implemented on {', '.join(TARGETS)}")
            found[name] = self.find_rank_and_scale(name)
        if not found:
            self.refuse("target_modules name no layer of the base")
        return found

    def is_targeted(self, name: str) -> bool:
        targets = self.raw.get("target_modules")
        if isinstance(targets, str) and targets.lower() == "all-linear":
            targets = list(TARGETS)
        if not targets:
            self.refuse(f"target_modules is {show(targets)}: no layer is named")
        if self.matches("exclude_modules", self.raw.get("exclude_modules") or [], name):
            return False
        return self.matches("target_modules", targets, name) and self.is_chosen_layer(name, targets)

    def matches(self, entry: str, targets, name: str) -> bool:
        """Whether a module is meant: by a regular expression for its whole name, or a list of ends of names."""
        if isinstance(targets, str):
            return self.match(entry, targets, name) is not None
        self.need_texts(entry, targets)
        return name in targets or name.endswith(tuple(f".{target}" for target in targets))

    def match(self, entry: str, pattern: str, name: str):
        try:
            return re.fullmatch(pattern, name)
        except (re.error, RecursionError, OverflowError) as error:
            self.refuse(f"{entry}: {show(pattern)} is no regular expression ({error})")

    def need_texts(self, entry: str, values) -> None:
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            self.refuse(f"{entry} = {show(values)} is neither a text nor a list of texts")

    def is_chosen_layer(self, name: str, targets) -> bool:
        """Whether layers_to_transform leaves this module in: it may name the numbers of some blocks."""
        numbers, patterns = self.raw.get("layers_to_transform"), self.raw.get("layers_pattern")
        if numbers in (None, []):
            if patterns:
                self.refuse("layers_pattern is for a list of layers_to_transform, which is not there")
            return True
        if isinstance(targets, str):
            self.refuse("layers_to_transform is for target_modules that are a list")
        if not isinstance(numbers, list):
            numbers = [numbers]
        if not all(type(number) is int for number in numbers):
            self.refuse(f"layers_to_transform = {show(numbers)} are no numbers of layers")
        patterns = patterns or r"[^.]*"
        if isinstance(patterns, str):
            patterns = [patterns]
        self.need_texts("layers_pattern", patterns)
        for pattern in patterns:
            found = self.match("layers_pattern", rf"(?:.*?\.)?(?:{pattern})\.(?P<number>\d+)\..*", name)
            if found:
                return int(found["number"]) in numbers
        return False

    def find_rank_and_scale(self, name: str) -> tuple[int, float]:
        """alpha / r, or with rank-stabilised LoRA (arXiv 2312.03732) alpha / sqrt(r)."""
        rank = self.find_own("rank_pattern", name, self.raw.get("r"))
        if type(rank) is not int or not 1 <= rank <= LARGEST_RANK:
            self.refuse(f"r = {show(rank)} is no rank")
        alpha = self.find_own("alpha_pattern", name, self.raw.get("lora_alpha"))
        if type(alpha) not in (int, float) or not abs(alpha) <= 1e12:          # nan is neither
            self.refuse(f"lora_alpha = {show(alpha)} is no finite number")
        stabilised = self.raw.get("use_rslora")
        if stabilised not in (None, True, False) or type(stabilised) in (int, float):
            self.refuse(f"use_rslora = {show(stabilised)} is neither true nor false")
        if stabilised:
            return rank, alpha / math.sqrt(rank)
        return rank, alpha / rank

    def find_own(self, entry: str, name: str, usual):
        """What rank_pattern or alpha_pattern say about a module: the first whose expression is an end of its name."""
        patterns = self.raw.get(entry) or {}
        if not isinstance(patterns, dict):
            self.refuse(f"{entry} = {show(patterns)} is no object of names and numbers")
        for pattern, value in patterns.items():
            if self.match(entry, rf"(?:.*\.)?(?:{pattern})", name):
                return value
        return usual


def show(value) -> str:
    """A stranger's entry, in a message: as it is written, but not without end."""
    return repr(value)[:60]


def is_at_rest(value) -> bool:
    """false, null or empty: what an entry says that nobody has set."""
    return value is None or value is False or value in ("", [], {})
