"""DeepSeek R1's distilled models and Mistral: their tokens, their templates, thoughts, and what is refused.

The templates here are shorter than the published ones and write the same in conversations without tools. Golden ids
were made with transformers 5.24 from the published templates, on the vocabularies that these models were built on.
"""
import json
import os

import pytest
from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

import rema
import rewards
import rollout
from conftest import MODELS, need
from data import UserError
from data.answers.reading import split_thought
from data.formats.config import Config
from data.formats.tokenizer import Tokenizer
from data.views import page, statistics, terminal
from test_tokenizer import show, split, write

slow = pytest.mark.skipif(not os.environ.get("REMA_SLOW"), reason="REMA_SLOW=1 runs this")

BEGIN, END, ASKS, ANSWERS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"
R1 = """{% set kept = namespace(system='') %}
{%- for m in messages if m['role'] == 'system' %}{% set kept.system = m['content'] %}{% endfor -%}
{{ bos_token }}{{ kept.system }}
{%- for m in messages %}
    {%- if m['role'] == 'user' %}{{- '<｜User｜>' + m['content'] }}{% endif %}
    {%- if m['role'] == 'assistant' %}
        {%- set said = m['content'] %}
        {%- if '</think>' in said %}{% set said = said.split('</think>')[-1] %}{% endif %}
        {{- '<｜Assistant｜>' + said + '<｜end▁of▁sentence｜>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<｜Assistant｜><think>\\n' }}{% endif %}"""
TAKE_TURNS = """{%- for m in talk %}
    {%- if m['role'] == 'system' or (m['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('take turns') }}
    {%- endif %}
{%- endfor %}"""
NEMO = """{%- set talk = messages %}
{%- if messages[0]['role'] == 'system' %}
    {%- set rule = messages[0]['content'] %}{% set talk = messages[1:] %}
{%- endif %}""" + TAKE_TURNS + """{{- bos_token }}
{%- for m in talk %}
    {%- if m['role'] == 'assistant' %}
        {{- m['content'] + eos_token }}
    {%- elif loop.last and rule is defined %}
        {{- '[INST]' + rule + '\\n\\n' + m['content'] + '[/INST]' }}
    {%- else %}
        {{- '[INST]' + m['content'] + '[/INST]' }}
    {%- endif %}
{%- endfor %}"""
SMALL = """{%- set rule = 'Today is ' + strftime_now('%Y-%m-%d') %}{% set talk = messages %}
{%- if messages[0]['role'] == 'system' %}
    {%- set rule = messages[0]['content'] %}{% set talk = messages[1:] %}
{%- endif %}
{{- bos_token + '[SYSTEM_PROMPT]' + rule + '[/SYSTEM_PROMPT]' }}
{%- for m in talk %}
    {%- if m['role'] == 'user' %}{{- '[INST]' + m['content'] + '[/INST]' }}{% endif %}
    {%- if m['role'] == 'assistant' %}{{- m['content'] + eos_token }}{% endif %}
    {%- if m['role'] == 'system' %}{{- '[SYSTEM_PROMPT]' + m['content'] + '[/SYSTEM_PROMPT]' }}{% endif %}
{%- endfor %}"""
TEMPLATES = {"DeepSeek R1": R1, "DeepSeek R1, first": R1.replace("<think>\\n", ""), "Mistral Nemo": NEMO,
             "Mistral Small": SMALL}
# As the published files have them: what frames a turn is not always called special there.
DEEPSEEK_TOKENS = [(BEGIN, True), (END, True), (ASKS, False), (ANSWERS, False), ("<think>", False), ("</think>", False)]
MISTRAL_TOKENS = [(name, True) for name in ("<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]")]

SYSTEM, USER = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}
BOT, AGAIN = {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "Bye"}
THINKER = {"role": "assistant", "content": "<think>\nA greeting.\n</think>\n\nHello."}


def speaker(directory, name, tokens=None, template=None):
    """A tokenizer of bytes and the family's own tokens."""
    bos, eos, own = "<s>", "</s>", MISTRAL_TOKENS
    if name.startswith("DeepSeek"):
        bos, eos, own = BEGIN, END, DEEPSEEK_TOKENS
    config = {"chat_template": template or TEMPLATES[name], "bos_token": bos, "eos_token": eos, "add_bos_token": True,
              "tokenizer_class": "LlamaTokenizerFast", "legacy": True}
    return write(directory, ["Ċ Ċ"], pre_tokenizer=split(r"\s*[\r\n]+|\S+|\s"), added=tokens or own,
                 files={"tokenizer_config.json": json.dumps(config)})


def render(name, messages):
    """As transformers does."""
    def raise_exception(message):
        raise TemplateError(message)
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    bos, eos = ("<s>", "</s>")
    if name.startswith("DeepSeek"):
        bos, eos = BEGIN, END
    return environment.from_string(TEMPLATES[name]).render(
        messages=messages, add_generation_prompt=True, bos_token=bos, eos_token=eos, raise_exception=raise_exception,
        strftime_now=lambda form: "2025-01-30")


# ------------------------------------------------------------------------------------------------------------
# Templates

WRITTEN = {                 # of [SYSTEM, USER] and of [SYSTEM, USER, THINKER, AGAIN]
    "DeepSeek R1": (f"{BEGIN}Be brief.{ASKS}Hi{ANSWERS}<think>\n",
                    f"{BEGIN}Be brief.{ASKS}Hi{ANSWERS}\n\nHello.{END}{ASKS}Bye{ANSWERS}<think>\n"),
    "DeepSeek R1, first": (f"{BEGIN}Be brief.{ASKS}Hi{ANSWERS}",
                           f"{BEGIN}Be brief.{ASKS}Hi{ANSWERS}\n\nHello.{END}{ASKS}Bye{ANSWERS}"),
    "Mistral Nemo": ("<s>[INST]Be brief.\n\nHi[/INST]",
                     "<s>[INST]Hi[/INST]<think>\nA greeting.\n</think>\n\nHello.</s>[INST]Be brief.\n\nBye[/INST]"),
    "Mistral Small": ("<s>[SYSTEM_PROMPT]Be brief.[/SYSTEM_PROMPT][INST]Hi[/INST]",
                      "<s>[SYSTEM_PROMPT]Be brief.[/SYSTEM_PROMPT][INST]Hi[/INST]<think>\nA greeting.\n</think>\n\n"
                      "Hello.</s>[INST]Bye[/INST]")}


@pytest.mark.parametrize("name", TEMPLATES)
def test_formats_by_hand(tmp_path, name):
    tokenizer = speaker(tmp_path, name)
    assert tokenizer.format.name == name.removesuffix(", first")
    short, long = WRITTEN[name]
    assert show(tokenizer, tokenizer.chat([SYSTEM, USER])) == short
    assert show(tokenizer, tokenizer.chat([SYSTEM, USER, THINKER, AGAIN])) == long


@pytest.mark.parametrize("name", TEMPLATES)
def test_conversations_are_those_of_the_template_or_refused(tmp_path, name):
    tokenizer = speaker(tmp_path, name)
    blank, bare = {**USER, "content": " \n\n Hi \n"}, {**BOT, "content": "\n\nHi "}
    written = 0
    for messages in ([USER], [SYSTEM, USER], [SYSTEM, blank, bare, blank], [USER, THINKER, AGAIN], [USER, THINKER],
                     [SYSTEM, USER, THINKER, AGAIN, BOT, USER], [SYSTEM, USER, BOT], [USER, SYSTEM, USER],
                     [SYSTEM, USER, THINKER], [SYSTEM, USER, AGAIN]):
        try:
            ids = tokenizer.chat(messages)
        except UserError as error:
            assert "way of its own" in str(error) and messages not in ([SYSTEM, USER], [SYSTEM, blank, bare, blank])
            continue
        assert show(tokenizer, ids) == render(name, messages)
        written += 1
    assert written >= 3


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("stopped", [True, False])
def test_a_conversation_grows_by_appending(tmp_path, name, stopped):
    """What a thought was stays, as does Mistral Nemo's system message in the first question: it was seen."""
    tokenizer = speaker(tmp_path, name)
    end = tokenizer.after([])[0]
    sampled = [*b"Hello."] + [end] * stopped
    grown = tokenizer.chat([SYSTEM, USER]) + sampled + tokenizer.after(sampled)
    grown += tokenizer.turn("user", "Bye") + tokenizer.assistant
    wanted = WRITTEN[name][0] + show(tokenizer, [end]).join(["Hello.", ""])
    wanted += {"D": f"{ASKS}Bye{ANSWERS}" + "<think>\n" * (name == "DeepSeek R1"), "M": "[INST]Bye[/INST]"}[name[0]]
    assert show(tokenizer, grown) == wanted
    assert tokenizer.turn("assistant", sampled) == tokenizer.turn("assistant", "Hello.")


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("name", ["DeepSeek R1", "Mistral Small"])
def test_what_frames_a_turn_is_no_text_and_what_frames_a_thought_is(tmp_path, name, special):
    tokens = DEEPSEEK_TOKENS if name.startswith("DeepSeek") else MISTRAL_TOKENS
    tokenizer = speaker(tmp_path, name, [(token, special) for token, _ in tokens])
    for token, _ in tokens:
        if "think" in token:
            assert len(tokenizer.encode(token)) == 1 and tokenizer.decode(tokenizer.encode(token)) == token
        else:
            assert tokenizer.encode(token) == list(token.encode())
            assert tokenizer.decode([97, tokenizer.special_id(token)]) == "a"
    assert tokenizer.stop_ids == {tokenizer.after([])[0]}


def test_a_system_message_that_says_what_day_it_is_is_not_made_up(tmp_path):
    """Mistral Small's default would be another one tomorrow: a conversation without a system message is refused."""
    with pytest.raises(UserError, match="begin with a system message"):
        speaker(tmp_path, "Mistral Small").chat([USER])


def test_one_system_message_where_it_joins_a_question(tmp_path):
    tokenizer = speaker(tmp_path, "Mistral Nemo")
    with pytest.raises(UserError, match="no system messages but one"):
        tokenizer.turn("system", "Be brief.")


@pytest.mark.parametrize("name, old, new", [
    ("DeepSeek R1", "said.split('</think>')[-1]", "said.split('</think>')[-1].strip()"),
    ("DeepSeek R1", "<think>\\n'", "<think>'"), ("DeepSeek R1", "'<｜User｜>'", "'<｜User｜> '"),
    ("DeepSeek R1", "{{ bos_token }}", ""), ("Mistral Nemo", "'[INST]' + m", "'[INST] ' + m"),
    ("Mistral Nemo", "\\n\\n", "\\n"), ("Mistral Nemo", "loop.last and ", ""),
    ("Mistral Small", "'[SYSTEM_PROMPT]' + rule", "'[SYSTEM_PROMPT] ' + rule")])
def test_templates_that_write_something_else_are_refused(tmp_path, name, old, new):
    template = TEMPLATES[name].replace(old, new)
    assert template != TEMPLATES[name]
    with pytest.raises(UserError, match="chat template is none of"):
        speaker(tmp_path, name, template=template).chat([SYSTEM, USER])


# ------------------------------------------------------------------------------------------------------------
# Thoughts

@pytest.mark.parametrize("text, thought, said", [
    ("Two.", "", "Two."), (" Two.\n", "", " Two.\n"), ("", "", ""),
    ("<think>\nhm\n</think>\n\nTwo.\n", "hm", "Two."), ("hm\n</think>\n\nTwo.", "hm", "Two."),
    ("<think>\nhm", "hm", ""), ("<think>\n", "", ""), ("Two. <think> or three", "or three", "Two."),
    ("<think>a</think>b<think>c</think>d", "a</think>bc", "d"), ("<think>a</think>b<think>c", "ac", "b")])
def test_what_was_thought_and_what_was_said(text, thought, said):
    assert split_thought(text) == (thought, said)


def test_an_answer_is_what_was_said_behind_the_thoughts():
    """A box that only stands in the thoughts is none: they may try many, and nobody is shown them."""
    thinking = "<think>\nPerhaps \\boxed{41}? No.\n</think>\n\n"
    assert rewards.extract(thinking + "It is \\boxed{42}.") == "42"
    assert rewards.extract(thinking + "It is 42.") is None
    assert rewards.extract(thinking + "The answer is 42.", lenient=True) == "42"
    assert rewards.extract("<think>\nPerhaps \\boxed{42}") is None                 # cut off
    assert rewards.compute_reward(thinking + "It is 42.", "42") == -1
    assert rewards.compute_reward("Perhaps \\boxed{41}\n</think>\n\\boxed{42}", "42") == 1
    assert rewards.is_correct("\\boxed{1}</think>\\boxed{2} and \\boxed{3}", "2, 3")
    assert not rewards.is_correct("\\boxed{2} and </think>\\boxed{3}", "2, 3")
    assert rewards.verdict("Perhaps [A].\n</think>\n\nOverall: [B]") == "B"
    assert rewards.verdict("[A]</think>Both are good.") is None
    long = "<think>" + "x" * 20_000          # its beginning lies before what is looked at
    assert rewards.extract(long + "\\boxed{1}") is None and rewards.extract(long + "</think>\\boxed{2}") == "2"


class Scripted(rollout.Agent):
    """An agent that says what it is told to."""
    def generate(self, prompts, samples, **how):
        self.shown = [show(self.tokenizer, prompt) for prompt in prompts]
        return [[rema.Turn(prompt, self.tokens, [0.0] * len(self.tokens), True) for _ in range(samples)]
                for prompt in prompts]


def make_scripted(tokenizer, role, text):
    agent = Scripted(role, None, tokenizer)
    agent.tokens = tokenizer.encode(text) + tokenizer.after([])
    return agent


def test_thoughts_stay_with_who_thinks(tmp_path):
    """The solver sees the plan alone, a box in the planner's thoughts is no leak, and people see both."""
    tokenizer = speaker(tmp_path, "DeepSeek R1")
    high = make_scripted(tokenizer, rema.HIGH, "That is \\boxed{3}.\n</think>\n\nAdd one and two.")
    low = make_scripted(tokenizer, rema.LOW, "One and two.\n</think>\n\n\\boxed{3}")
    row = {"id": 1, "problem": "1+2", "answer": "3"}
    [episode] = rollout.rollout([high, low], [row], [1, 1], temperatures=[1, 1])
    assert low.shown[0].endswith(f"Plan:\nAdd one and two.{ANSWERS}<think>\n") and "boxed{3}" not in low.shown[0]
    plan, answer = episode.turns
    assert (plan.thought, plan.text) == ("That is \\boxed{3}.", "Add one and two.")
    rema.score([episode], [rema.HIGH, rema.LOW])
    assert episode.correct and plan.reward == 1.0 and answer.reward == 1.0
    assert not statistics.is_leaking(episode)
    assert statistics.record(episode)["turns"][1]["thought"] == "One and two."
    for text in (terminal.describe_episode(episode), terminal.describe_turn(plan, tokenizer),
                 page.write_turn(plan)):
        assert "That is" in text and "Add one" in text
    plan.thought = ""
    assert "thought" not in statistics.record(episode)["turns"][0]


def test_who_is_cut_off_while_thinking_has_said_nothing(tmp_path):
    tokenizer = speaker(tmp_path, "DeepSeek R1")
    assert tokenizer.read(tokenizer.encode("Perhaps \\boxed{3}")) == ("Perhaps \\boxed{3}", "")
    assert tokenizer.read([]) == ("", "")
    first = speaker(tmp_path, "DeepSeek R1, first")          # here the model opens its thought itself
    assert first.read(first.encode("<think>\nPerhaps")) == ("Perhaps", "")
    assert first.read(first.encode("Three")) == ("", "Three")


def test_lessons_go_on_with_the_thought_that_the_prompt_begins(tmp_path):
    tokenizer = speaker(tmp_path, "DeepSeek R1")
    for message, said in ((THINKER, "A greeting.\n</think>\n\nHello."), (BOT, "\n</think>\n\nHello.")):
        lesson = rema.make_lesson(tokenizer, [SYSTEM, USER, message])
        assert show(tokenizer, lesson.prompt) == WRITTEN["DeepSeek R1"][0]
        assert show(tokenizer, lesson.tokens) == said + END
        assert tokenizer.read(lesson.tokens)[1] == "Hello."
    plain = speaker(tmp_path, "DeepSeek R1, first")
    assert show(plain, rema.make_lesson(plain, [USER, THINKER]).tokens) == THINKER["content"] + END


def test_a_guided_plan_is_no_thought(tmp_path):
    agent = make_scripted(speaker(tmp_path, "DeepSeek R1"), rema.HIGH, "")
    with pytest.raises(UserError, match="thinks first"):
        rollout.guide_plans([agent])


# ------------------------------------------------------------------------------------------------------------
# Mistral's config.json, and vocabularies that are not of bytes

MISTRAL = {"model_type": "mistral", "vocab_size": 99, "hidden_size": 40, "intermediate_size": 64, "head_dim": 8,
           "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_act": "silu",
           "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "rope_theta": 1e6,
           "sliding_window": None, "architectures": ["MistralForCausalLM"], "attention_dropout": 0.0}


def test_a_window_that_hides_nothing():
    config = Config.from_hf(MISTRAL)
    assert config.head_width == 8 and not config.qkv_bias and not config.qk_norm
    assert Config.from_hf({**MISTRAL, "sliding_window": 128}) == config
    assert Config.from_hf(config.to_hf("float32", {2})) == config
    assert config.to_hf("float32", {2})["sliding_window"] is None                  # theirs would be 4096
    assert Config.from_hf({**MISTRAL, "head_dim": None, "hidden_size": 32}).head_width == 8


@pytest.mark.parametrize("window", [127, 0, -1, "128", 200.0, True])
def test_a_window_that_hides_something_is_refused(window):
    with pytest.raises(UserError, match="sliding_window") as error:
        Config.from_hf({**MISTRAL, "sliding_window": window})
    assert "\n" not in str(error.value)


def test_a_sentencepiece_vocabulary_is_refused_in_one_line(tmp_path):
    """Mistral 7B, as its tokenizer.json is: pieces with a bar for a blank, and bytes as a way out."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2, "<0x00>": 3, "▁t": 4, "▁": 5, "t": 6}
    added = [{"id": i, "content": name, "special": True, "lstrip": False, "rstrip": False, "single_word": False,
              "normalized": False} for i, name in enumerate(list(vocab)[:3])]
    file = {"added_tokens": added, "normalizer": {"type": "Prepend", "prepend": "▁"}, "pre_tokenizer": None,
            "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "byte_fallback": True, "fuse_unk": True,
                      "vocab": vocab, "merges": ["▁ t"]}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(file))
    with pytest.raises(UserError, match="byte_fallback") as error:
        Tokenizer.load(tmp_path)
    assert "SentencePiece" in str(error.value) and "Mistral Nemo" in str(error.value) and "\n" not in str(error.value)


# ------------------------------------------------------------------------------------------------------------
# Real vocabularies

# What DeepSeek calls the special tokens of the models that it built on, and whether its files call them special
QWEN_NAMES = {151643: (END, True), 151644: (ASKS, False), 151645: (ANSWERS, False), 151646: (BEGIN, True),
              151647: ("<|EOT|>", False), 151648: ("<think>", False), 151649: ("</think>", False)}
LLAMA_NAMES = {128000: (BEGIN, True), 128001: (END, True), 128011: (ASKS, False), 128012: (ANSWERS, False),
               128013: ("<think>", False), 128014: ("</think>", False), 128015: ("<｜▁pad▁｜>", True)}
REAL = {"deepseek-qwen": ("qwen2", "DeepSeek R1", QWEN_NAMES), "deepseek-llama": ("llama3", "DeepSeek R1", LLAMA_NAMES),
        "nemo": ("tekken", "Mistral Nemo", {}), "small": ("tekken", "Mistral Small", {})}
TALK = [{"role": "system", "content": "Be brief.\n"}, {"role": "user", "content": " What is 12 + 30?\n"},
        {"role": "assistant", "content": "<think>\nhm 12\n</think>\n\n42."},
        {"role": "user", "content": "HelloWorld //\n naïve 数学"}]
GOLDEN = {
    "deepseek-qwen": [151646, 3430, 9814, 624, 151644, 3555, 374, 220, 16, 17, 488, 220, 18, 15, 5267, 151645, 271,
        19, 17, 13, 151643, 151644, 9707, 10134, 6475, 94880, 586, 47685, 47764, 151645, 151648, 198],
    "deepseek-llama": [128000, 3513, 10015, 627, 128011, 3639, 374, 220, 717, 489, 220, 966, 5380, 128012, 271,
        2983, 13, 128001, 128011, 9906, 10343, 6611, 95980, 588, 48785, 48864, 128012, 128013, 198],
    "nemo": [1, 3, 5675, 1395, 1032, 1049, 1050, 1867, 1032, 1051, 1048, 9551, 4, 49250, 2077, 1561, 11950, 1032,
        1049, 1050, 1010, 1885, 74045, 3318, 1052, 1050, 1046, 2, 3, 5934, 13426, 19486, 22177, 20249, 19383, 98355,
        43029, 1176, 12104, 4],
    "small": [1, 17, 5934, 13426, 1626, 18, 3, 5675, 1395, 1032, 1049, 1050, 1867, 1032, 1051, 1048, 9551, 4, 49250,
        2077, 1561, 11950, 1032, 1049, 1050, 1010, 1885, 74045, 3318, 1052, 1050, 1046, 2, 3, 22177, 20249, 19383,
        98355, 43029, 1176, 12104, 4]}


def build(directory, name):
    """A checkpoint's tokenizer files, of the vocabulary that it was built on."""
    base, family, names = REAL[name]
    file = json.loads((need(MODELS / base) / "tokenizer.json").read_text(encoding="utf-8"))
    added = {token["id"]: token for token in file["added_tokens"]}
    frame = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
    for id, (token, special) in names.items():
        if id in added:
            file["model"]["vocab"].pop(added[id]["content"], None)
        added[id] = {"id": id, "content": token, "special": special, **frame}
    file["added_tokens"] = [added[id] for id in sorted(added)]
    bos, eos = (BEGIN, END) if names else ("<s>", "</s>")
    config = {"chat_template": TEMPLATES[family], "bos_token": bos, "eos_token": eos, "add_bos_token": True,
              "tokenizer_class": "LlamaTokenizerFast", "legacy": True}
    (directory / "tokenizer.json").write_text(json.dumps(file), encoding="utf-8")
    (directory / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return directory


@pytest.mark.parametrize("name", ["deepseek-qwen", *[pytest.param(name, marks=slow) for name in list(REAL)[1:]]])
def test_golden_ids(tmp_path, name):
    tokenizer = Tokenizer.load(build(tmp_path, name))
    assert tokenizer.chat(TALK) == GOLDEN[name]
    assert len(tokenizer.stop_ids) == 1


@slow
@pytest.mark.parametrize("name", REAL)
def test_golden_ids_are_those_of_transformers(tmp_path, name):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(build(tmp_path, name))
    assert theirs.apply_chat_template(TALK, add_generation_prompt=True, return_dict=False) == GOLDEN[name]
