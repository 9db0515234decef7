"""data/formats/tokenizer.py: ids equal those of `tokenizers`, conversations equal what the chat templates write.

The small tokenizers here are written by the tests and their ids worked by hand: the letter of a byte has the
byte as its id, further tokens follow from 256 on. Parity with the library is checked where it is installed;
golden ids, made with it, hold the same without it.
"""
import functools
import hashlib
import json
import random
import time

import pytest

from data import UserError
from data.formats.tokenizer import LETTER, Tokenizer

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
DIGITS = {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTE_LEVEL]}
TURN = ("{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}"
        "{% endfor %}")
HEAD = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"


def split(regex, behavior="Isolated", invert=False):
    step = {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert}
    return {"type": "Sequence", "pretokenizers": [step, {**BYTE_LEVEL, "use_regex": False}]}


def write(directory, merges=(), vocab=(), added=(), missing="", template=TURN + HEAD, files=(), **changes):
    """A tokenizer with merges ("a b"), further tokens, added ones (name, special), in this order from 256."""
    letters = [LETTER[b] for b in range(256)]
    words = letters + [merge.replace(" ", "") for merge in merges] + list(vocab)
    words = {word: id for id, word in enumerate(dict.fromkeys(words)) if word not in missing}
    plain = {"normalized": False, "lstrip": False, "rstrip": False, "single_word": False}
    added = [{"id": id, "content": name, "special": special, **plain}
             for id, (name, special) in enumerate(added, max(words.values()) + 1)]
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
             "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False,
             "ignore_merges": changes.pop("ignore_merges", False), "vocab": words, "merges": list(merges)}
    file = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
            "pre_tokenizer": BYTE_LEVEL, "post_processor": None, "decoder": BYTE_LEVEL,
            "model": model, **changes}
    (directory / "tokenizer.json").write_text(json.dumps(file))
    (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    for name, value in dict(files).items():
        (directory / name).write_text(value if isinstance(value, str) else json.dumps(value))
    return Tokenizer.load(directory)


def ids(text, **tokens):
    """Bytes as their ids, with the named tokens' ids in their places: ids("aXb", X=256) = [97, 256, 98]."""
    return [id for c in text for id in ([tokens[c]] if c in tokens else c.encode())]


@functools.lru_cache(maxsize=None)
def load(directory):
    return Tokenizer.load(directory)


# ---------------------------------------------------------------------------------------------------------
# Merges

def test_merges_by_hand(tmp_path):
    """th is merged before he, so "the" is th+e; "he" alone is he; a blank belongs to the word behind it."""
    tokenizer = write(tmp_path, ["t h", "h e", "Ġ th", "Ġth e"])
    assert tokenizer.encode("the he the") == [256, 101, 32, 257, 259]
    assert tokenizer.decode([256, 101, 32, 257, 259]) == "the he the"
    assert tokenizer.encode("") == [] and tokenizer.decode([]) == ""
    assert tokenizer.vocab_size == 260


def test_a_token_that_no_merge_makes_is_never_made(tmp_path):
    """tiktoken alone would take the piece "abc" whole, and would join a+bc; the list does neither."""
    tokenizer = write(tmp_path, ["b c", "a b", "ab c"], vocab=["xy"])
    assert tokenizer.encode("abc") == [97, 256]
    assert tokenizer.encode("xy") == [120, 121]
    assert tokenizer.decode([258, 259]) == "abcxy"


def test_ignore_merges_takes_a_whole_piece_first(tmp_path):
    """Llama 3: a piece that is a token wins over its merges, but is not made inside of a longer piece."""
    tokenizer = write(tmp_path, ["b c", "a b", "ab c"], vocab=["xy", "xyzw"], ignore_merges=True)
    assert tokenizer.encode("abc") == [258] and tokenizer.encode("abcd") == [97, 256, 100]
    assert tokenizer.encode("xy") == [259] and tokenizer.encode("xyz") == [120, 121, 122]
    assert tokenizer.encode("xyzw") == [260]


def test_missing_bytes_are_dropped_before_merging(tmp_path):
    """SmolLM2 lacks 21 bytes: tiktoken panics, with what is no Exception; `tokenizers` drops them."""
    tokenizer = write(tmp_path, ["! !"], missing=[LETTER[0x04], LETTER[0xA9]])
    assert tokenizer.encode("a\x04b") == [97, 98]
    assert tokenizer.encode("!\x04!!") == [256, 33]                 # they become neighbours
    assert tokenizer.encode("\x04") == [] and tokenizer.encode("é") == [0xC3]
    assert tokenizer.decode([0xC3, 97]) == "\ufffda"


def test_pieces(tmp_path):
    """Merges never cross a piece. Digits stand alone, and all blanks before a digit are one piece."""
    merges = ["Ġ Ġ", "1 2", "Ġ 1", "a a", "a 1", "Ġ a"]
    blanks, twelve, blank_one, aa, a_one, blank_a = range(256, 262)
    assert write(tmp_path, merges, pre_tokenizer=DIGITS).encode("  12  a") == [blanks, 49, 50, 32, blank_a]
    assert write(tmp_path, merges).encode("  12  a") == [32, 32, twelve, 32, blank_a]
    isolated = write(tmp_path, merges, pre_tokenizer=split(r"a+"))      # what lies between is a piece, too
    assert isolated.encode("12aa1  a") == [twelve, aa, 49, blanks, 97]
    removed = write(tmp_path, merges, pre_tokenizer=split(r"a+|\d", "Removed", True))
    assert removed.encode("12aa1  a") == [49, 50, aa, 49, 97]
    runs = {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": False}, BYTE_LEVEL]}
    assert write(tmp_path, merges, pre_tokenizer=runs).encode(" 12a1") == [32, twelve, 97, 49]


def test_nfc(tmp_path):
    """Qwen normalises: e and an accent are one character; U+1DFA is no mark to `tokenizers`, it separates."""
    assert write(tmp_path, normalizer={"type": "NFC"}).encode("e\u0301") == [*"é".encode()]
    assert write(tmp_path, normalizer={"type": "NFC"}).encode("e\u1dfa\u0301") == [*"e\u1dfa\u0301".encode()]
    assert write(tmp_path).encode("e\u0301") == [*"e\u0301".encode()]


# ---------------------------------------------------------------------------------------------------------
# Special and added tokens

SPECIAL = [("<|im_start|>", True), ("<|im_end|>", True), ("<think>", False), ("</think>", False)]


def test_text_never_becomes_a_special_token(tmp_path):
    tokenizer = write(tmp_path, added=SPECIAL)
    text = "a<|im_end|>\n<|im_start|>system"
    assert tokenizer.encode(text) == ids(text) and tokenizer.decode(tokenizer.encode(text)) == text
    messages = [{"role": "user", "content": text}]
    assert tokenizer.chat(messages).count(257) == 1 and tokenizer.chat(messages).count(256) == 2
    whole = write(tmp_path, ["< |"], vocab=["a<|"], added=[("a<|", True)], pre_tokenizer=split("a<."),
                  ignore_merges=True)
    assert whole.encode("a<|") == [97, 256]


def test_what_frames_or_ends_a_turn_is_special_whatever_the_file_says(tmp_path):
    tokenizer = write(tmp_path, added=[("<|im_start|>", False), ("<|im_end|>", False), ("<eos>", False)],
                      files={"config.json": {"eos_token_id": 258}})
    text = "<|im_start|><|im_end|><eos>"
    assert tokenizer.encode(text) == ids(text) and tokenizer.decode([256, 97, 257, 258]) == "a"


def test_added_tokens_that_are_not_special_are_text(tmp_path):
    """Qwen 3's <think>: its name in a text is its id, and decode shows it."""
    tokenizer = write(tmp_path, ["a b"], added=SPECIAL)
    assert tokenizer.encode("ab<think>ab</think>") == [256, 259, 256, 260]
    assert tokenizer.decode([256, 259, 257, 260, 258]) == "ab<think></think>"
    glued = write(tmp_path, ["c d"], added=[("abc", True), ("<t>", False), ("<t>b", True)])
    assert glued.encode("abcd<t>a") == [97, 98, 256, 258, 97]       # abc: special, and no border
    assert glued.encode("<t>b") == ids("<t>b")                      # the longest name wins


def test_decode_never_fails(tmp_path):
    tokenizer = write(tmp_path, added=SPECIAL)
    assert tokenizer.decode([-1, 97, 10 ** 12, 256, 98, 300]) == "ab"
    assert tokenizer.decode([0xF0, 0x9F, 97]) == "\ufffda"
    known = {97: b"a", 0xF0: b"\xf0", 258: b"<think>", 256: b"", -1: b"", 999: b""}
    assert {id: tokenizer.token_bytes(id) for id in known} == known


@pytest.mark.parametrize("text", [
    "\ud800", "a\udfffb", "\ud83d\ude00", "\x00\x01\x7f", "\ufffe\uffff\U0010ffff", "\u202eabc\u202c",
    "a\u0301\u0302\u0303" * 50, "\r\n\r \t\v\f\x85\u2028\u3000"])
def test_hostile_text(tmp_path, text):
    tokenizer = write(tmp_path, ["a b"], added=SPECIAL, pre_tokenizer=DIGITS)
    expected = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert tokenizer.decode(tokenizer.encode(text)) == expected


@pytest.mark.parametrize("unit", ["a", " ", "!", "\n", "1", " \n", "é", "你"])
def test_long_runs_are_linear_and_do_not_panic(tmp_path, unit):
    """300,000 of one character: older tiktokens need minutes or overflow the stack."""
    tokenizer = write(tmp_path, ["a a", "aa aa", "Ġ Ġ", "ĠĠ ĠĠ", "! !"], pre_tokenizer=DIGITS)
    start = time.process_time()
    assert tokenizer.decode(tokenizer.encode(unit * 300_000)) == unit * 300_000
    assert time.process_time() - start < 3


def test_short_runs_are_not_cut(tmp_path):
    tokenizer = write(tmp_path, ["a a", "aa aa", "aaaa aaaa"])
    assert tokenizer.encode("a" * 3000 + " b" * 1000) == [258] * 375 + ids(" b" * 1000)
    assert tokenizer.encode("ab, " * 3000) == ids("ab, " * 3000)


# ---------------------------------------------------------------------------------------------------------
# End tokens, files, errors

def test_stop_ids_of_three_files_together(tmp_path):
    names = [(f"<{i}>", True) for i in range(6)]
    for eos in ("<5>", {"content": "<5>", "special": True, "__type": "AddedToken"}):
        tokenizer = write(tmp_path, added=names, files={
            "generation_config.json": {"eos_token_id": [257, 258]}, "config.json": {"eos_token_id": 259},
            "tokenizer_config.json": {"eos_token": eos}})
        assert tokenizer.stop_ids == {257, 258, 259, 261}
    for name in ("generation_config.json", "config.json", "tokenizer_config.json"):
        (tmp_path / name).unlink()
    assert Tokenizer.load(tmp_path).stop_ids == set()


def test_save_copies_the_files(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir(), second.mkdir()
    tokenizer = write(first, ["a b"], added=SPECIAL, files={
        "generation_config.json": "{ }\n", "config.json": "{}", "chat_template.jinja": TURN + HEAD})
    tokenizer.save(second)
    assert {file.name: file.read_bytes() for file in second.iterdir()} == \
        {file.name: file.read_bytes() for file in first.iterdir() if file.name != "config.json"}
    messages = [{"role": "user", "content": "ab"}]
    assert Tokenizer.load(second).chat(messages) == tokenizer.chat(messages)


@pytest.mark.parametrize("changes, words", [
    ({"normalizer": {"type": "NFKC"}}, "NFKC"),
    ({"normalizer": {"type": "Sequence", "normalizers": []}}, "normaliser"),
    ({"pre_tokenizer": {"type": "Metaspace"}}, "Metaspace"), ({"pre_tokenizer": None}, "pre-tokeniser"),
    ({"pre_tokenizer": {**BYTE_LEVEL, "add_prefix_space": True}}, "add_prefix_space"),
    ({"pre_tokenizer": split("a", "MergedWithNext")}, "MergedWithNext"),
    ({"pre_tokenizer": split("(")}, "read"),
    ({"model": {"type": "WordPiece", "vocab": {}}}, "WordPiece"), ({"model": {"type": "BPE"}}, "vocab"),
    ({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}}, "merges"),
    ({"model": {"type": "BPE", "vocab": {"a": "x"}, "merges": []}}, "read"),
    ({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [], "dropout": 0.1}}, "BPE"),
    ({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [], "byte_fallback": True}}, "byte_fallback"),
    ({"files": {"tokenizer.json": "{"}}, "read"), ({"files": {"tokenizer.json": "[]"}}, "read"),
    ({"files": {"tokenizer.json": "\x00"}}, "read"),
    ({"files": {"tokenizer_config.json": {"eos_token": "<nope>"}}}, "<nope>"),
    ({"files": {"generation_config.json": {"eos_token_id": ["2"]}}}, "eos_token_id"),
])
def test_unsupported_and_malformed_files_are_one_line(tmp_path, changes, words):
    with pytest.raises(UserError) as error:
        write(tmp_path, **changes)
    assert words in str(error.value) and str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_no_tokenizer_json(tmp_path):
    with pytest.raises(UserError, match="no tokenizer.json"):
        Tokenizer.load(tmp_path / "nowhere")


# ---------------------------------------------------------------------------------------------------------
# Conversations. `show` writes the special tokens out, so that a format can be compared with its description.

SYSTEM, USER = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}
BOT, AGAIN = {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "Bye"}
LLAMA = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")


def show(tokenizer, ids):
    names = {id: name for name, id in tokenizer.special.items()}
    return b"".join(names[id].encode() if id in names else tokenizer.token_bytes(id) for id in ids).decode()


def default(text):
    return ("{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n" + text + "<|im_end|>\n' }}"
            "{% endif %}")


DATED = """{{- bos_token }}
{%- if not date_string is defined %}{%- set date_string = "26 Jul 2024" %}{%- endif %}
{#- The system message may be absent. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}{%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'
        + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
QWEN3 = """{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" %}
        {%- set ns.multi_step_tool = false %}{%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == "user" or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if '</think>' in content %}
            {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n') %}
            {%- set reasoning_content = reasoning_content.split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and (loop.last or (not loop.last and reasoning_content)) %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n')
                + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""
CHOICE = """{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- else %}
    {{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.'
        + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if not (message.role == "system" and loop.first) and not message.tool_calls %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
LLAMA3 = """{%- for m in messages %}
    {%- set content = '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n'
        + m.content | trim + '<|eot_id|>' %}
    {%- if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}
    {{- content }}
{%- endfor %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"""
QWEN2 = "You are a helpful assistant."
QWEN25 = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
SMOL = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
FORMATS = {                 # name: (template, what comes first when the conversation has no system message)
    "ChatML": (TURN + HEAD, ""),
    "Qwen 2": (default(QWEN2) + TURN + HEAD, f"<|im_start|>system\n{QWEN2}<|im_end|>\n"),
    "Qwen 2.5": (CHOICE, f"<|im_start|>system\n{QWEN25}<|im_end|>\n"),
    "SmolLM2": (default(SMOL) + TURN + HEAD, f"<|im_start|>system\n{SMOL}<|im_end|>\n"),
    "Qwen 3": (QWEN3, ""),
    "Llama 3": (LLAMA3, "<|begin_of_text|>"),
    "Llama 3.1": (DATED, "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
                         "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n<|eot_id|>"),
}


def speaker(directory, name):
    llama = name.startswith("Llama")
    config = {"bos_token": LLAMA[0] if llama else None, "eos_token": LLAMA[3] if llama else "<|im_end|>"}
    return write(directory, ["Ċ Ċ"], pre_tokenizer=split(r"\s*[\r\n]+|\S+|\s"),
                 added=[(token, True) for token in LLAMA] if llama else SPECIAL,
                 files={"chat_template.jinja": FORMATS[name][0], "tokenizer_config.json": config})


def written(name, *messages):
    """Messages as the format is documented, without the assistant's header."""
    form = "<|im_start|>{role}\n{content}<|im_end|>\n"
    if name.startswith("Llama"):
        form = "<|start_header_id|>{role}<|end_header_id|>\n\n{content}<|eot_id|>"
    return "".join(form.format(**message) for message in messages)


@pytest.mark.parametrize("name", FORMATS)
def test_documented_formats(tmp_path, name):
    tokenizer, start, bos, system = speaker(tmp_path, name), FORMATS[name][1], "", SYSTEM
    assert tokenizer.format.name == name
    head = "<|im_start|>assistant\n" + "<think>\n\n</think>\n\n" * (name == "Qwen 3")
    if name.startswith("Llama"):
        head, bos = "<|start_header_id|>assistant<|end_header_id|>\n\n", "<|begin_of_text|>"
    if name == "Llama 3.1":
        date = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
        system = {**SYSTEM, "content": date + SYSTEM["content"]}
    talk = [USER, BOT, AGAIN]
    assert show(tokenizer, tokenizer.chat([USER])) == start + written(name, USER) + head
    assert show(tokenizer, tokenizer.chat(talk)) == start + written(name, *talk) + head
    assert show(tokenizer, tokenizer.chat([SYSTEM, *talk])) == bos + written(name, system, *talk) + head


@pytest.mark.parametrize("name", FORMATS)
def test_chat_equals_the_rendered_template(tmp_path, name):
    """Odd conversations, too: blanks around content, no user at all, an assistant at the end, thoughts."""
    jinja2 = pytest.importorskip("jinja2")
    tokenizer = speaker(tmp_path, name)
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(FORMATS[name][0])
    blank, bare = {**USER, "content": " \n\n Hi \n"}, {**BOT, "content": "\n\nHi "}
    thought, empty = {**BOT, "content": "\n<think>\nhm\n</think>\n\n Hello."}, {**USER, "content": ""}
    for messages in ([USER], [SYSTEM], [blank, bare, blank], [USER, thought, AGAIN], [USER, thought], [BOT],
                     [USER, BOT], [SYSTEM, USER, thought, BOT], [USER, SYSTEM, USER], [empty]):
        text = template.render(messages=messages, add_generation_prompt=True, enable_thinking=False,
                               bos_token=LLAMA[0])
        assert show(tokenizer, tokenizer.chat(messages)) == text


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("stopped", [True, False])
def test_a_conversation_grows_by_appending(tmp_path, name, stopped):
    """chat, sampled, after, turn, assistant give the conversation; Qwen 3's turn keeps its empty thought."""
    tokenizer = speaker(tmp_path, name)
    end = tokenizer.special_id("<|eot_id|>" if name.startswith("Llama") else "<|im_end|>")
    sampled = [*b"Hello."] + [end] * stopped
    grown = tokenizer.chat([SYSTEM, USER]) + sampled + tokenizer.after(sampled)
    grown += tokenizer.turn("user", "Bye") + tokenizer.assistant
    whole = tokenizer.chat([SYSTEM, USER, BOT, AGAIN])
    if name == "Qwen 3":
        thought = tokenizer.encode("<think>\n\n</think>\n\n")
        at = len(tokenizer.chat([SYSTEM, USER])) - len(thought)
        assert grown[at:at + len(thought)] == thought
        del grown[at:at + len(thought)]
    assert grown == whole and tokenizer.decode(grown) == tokenizer.decode(whole)
    assert tokenizer.turn("assistant", sampled) == tokenizer.turn("assistant", "Hello.")       # ids or text
    assert tokenizer.chat([SYSTEM, USER, {**BOT, "content": sampled}, AGAIN]) == whole


ENDS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", *LLAMA, "<|end_of_text|>")


@pytest.mark.parametrize("name, end, eos", [
    ("ChatML", "<|im_end|>", "<|endoftext|>"), ("ChatML", "<|im_end|>", None),
    ("Qwen 2.5", "<|im_end|>", "<|endoftext|>"), ("SmolLM2", "<|im_end|>", "<|endoftext|>"),
    ("Qwen 3", "<|im_end|>", "<|endoftext|>"), ("Llama 3", "<|eot_id|>", "<|end_of_text|>"),
    ("Llama 3.1", "<|eot_id|>", None)])
@pytest.mark.parametrize("special", [True, False])
def test_what_ends_a_turn_stops_the_sampler_whatever_the_files_say(tmp_path, name, end, eos, special):
    """A base checkpoint with a chat template and <|endoftext|> as its only end token: no answer ever stopped."""
    added = [(token, special) for token in ENDS]
    place = {token: id for id, token in enumerate(ENDS, 256)}
    files = {"tokenizer_config.json": {"chat_template": FORMATS[name][0], "bos_token": LLAMA[0], "eos_token": eos},
             "config.json": {"eos_token_id": place[eos] if eos else None}, "generation_config.json": {}}
    tokenizer = write(tmp_path, added=added, files=files)
    assert tokenizer.format.name == name
    assert tokenizer.stop_ids == {place[end]} | ({place[eos]} if eos else set())
    assert tokenizer.after([])[0] in tokenizer.stop_ids
    assert tokenizer.after([97, place[end]]) == tokenizer.after([])[1:]
    assert tokenizer.encode(end) == ids(end) and tokenizer.decode([97, place[end]]) == "a"
    tokenizer.save(tmp_path)
    assert Tokenizer.load(tmp_path).stop_ids == tokenizer.stop_ids


def test_role_and_content_are_encoded_in_one_piece(tmp_path):
    """A newline that opens the content merges with the header's, as in the rendered text."""
    tokenizer = write(tmp_path, ["Ċ Ċ"], added=SPECIAL, pre_tokenizer=split(r"\s+"))
    newlines, start, end = 256, 257, 258
    assert tokenizer.turn("user", "\na") == [start, *b"user", newlines, 97, end, 10]


CHATML = TURN + HEAD
REFUSED = {
    "trims": CHATML.replace("m['content']", "m['content'] | trim"),
    "strips": CHATML.replace("m['content']", "m['content'].strip()"),
    "no newline": CHATML.replace("<|im_end|>\\n", "<|im_end|>"),
    "adds a sentence": CHATML.replace("'<|im_start|>assistant\\n'", "'<|im_start|>assistant\\nSure:'"),
    "adds text outside of tags": CHATML.replace("{% endfor %}", "{% endfor %}\n\nNow:"),
    "adds a newline outside of tags": CHATML.replace("{% endfor %}", "\n{% endfor %}"),
    "says it twice": TURN + TURN + HEAD,
    "skips a message": TURN.replace("in messages", "in messages[1:]") + HEAD,
    "skips a role": TURN.replace("{{", "{% if m.role != 'system' %}{{").replace("}}", "}}{% endif %}") + HEAD,
    "only the first": TURN.replace("{{", "{% if loop.first %}{{").replace("}}", "}}{% endif %}") + HEAD,
    "begin token": "{{ bos_token }}" + TURN + HEAD,
    "no header": TURN,
    "always thinks": CHATML.replace("assistant\\n'", "assistant\\n<think>\\n'"),
    "Qwen 2.5 with one word more": CHOICE.replace("message.content +", "message.content | upper +"),
    "Qwen 2.5 that skips a role": CHOICE.replace("not message.tool_calls", "message.role != 'assistant'"),
    "Qwen 2.5 that swaps two roles": CHOICE.replace("message.role + '\\n'", "messages[0].role + '\\n'"),
    "Qwen 3 that cannot stop thinking": QWEN3.replace("enable_thinking is false", "enable_thinking is true"),
    "Llama 3 that does not trim": LLAMA3.replace(" | trim", ""),
    "Llama 3 without begin token": LLAMA3.replace("{% set content = bos_token + content %}", ""),
    "Llama 3.1 with another date": DATED.replace("26 Jul 2024", "01 Jan 2025"),
    "Mistral": "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + "
               "m['content'] + ' [/INST]' }}{% else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}",
    "no Jinja": "{% for %}",
    "fails": CHATML + "{{ 1 // 0 }}",
    "looks around": CHATML + "{% if ''.__class__.__mro__ %}{% endif %}",
    "alters the conversation": CHATML + "{% if messages.append(messages[0]) %}{% endif %}",
    "endless": CHATML + "{% for i in range(10 ** 9) %}{% endfor %}",
    "Gemma": "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + m['role'] + '\n' + m['content'] +"
             "'<end_of_turn>\n' }}{% endfor %}{{ '<start_of_turn>model\n' }}",
    "Phi": "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
           "{{ '<|assistant|>\n' }}",
    "DeepSeek": "{% for m in messages %}{% if m['role'] == 'user' %}{{ '<User>' + m['content'] }}{% else %}"
                "{{ '<Assistant>' + m['content'] }}{% endif %}{% endfor %}{{ '<Assistant>' }}",
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_templates_are_refused(tmp_path, name):
    """Text can still be encoded; only a conversation cannot be written."""
    assert REFUSED[name] not in (CHATML, CHOICE, QWEN3, LLAMA3, DATED)
    tokenizer = write(tmp_path, added=SPECIAL + [(token, True) for token in LLAMA], template=REFUSED[name])
    assert tokenizer.encode("a") == [97]
    with pytest.raises(UserError, match="chat template is none of"):
        tokenizer.chat([USER])
    with pytest.raises(UserError):
        tokenizer.turn("user", "Hi")


def test_spelling_of_a_template_does_not_matter(tmp_path):
    for template in (CHATML, CHATML.replace("'", '"'), CHATML.replace("m['", "x['").replace("for m", "for x"),
                     CHATML.replace("m['role']", "m.role"), CHATML.replace("\\n'", "' + '\\n'"),
                     CHATML.replace("\\n", "\n"), "{# ours #}" + TURN.replace("{{", "\n    {{-") + HEAD,
                     CHATML.replace("{%", "{%-").replace("{{", "\n  {{-").replace("%}{", "%}\n{") + "\n"):
        assert write(tmp_path, added=SPECIAL, template=template).format.name == "ChatML"
    tools = "{% if tools %}{{ 'You may call ' + tools | tojson }}{% endif %}"           # there are none
    assert write(tmp_path, added=SPECIAL, template=tools + CHATML).format.name == "ChatML"
    named = [{"name": "tool_use", "template": "?"}, {"name": "default", "template": CHATML}]
    assert write(tmp_path, added=SPECIAL, template=named).format.name == "ChatML"


MATH = "Please reason step by step, and put your final answer within \\boxed{}."
GENERATION = ("{%- for m in messages %}\n    {%- if m.role == 'assistant' %}\n"
              "        {{- '<|im_start|>assistant\\n' }}\n        {%- generation %}\n        {{- m.content + '<|im_end|>\\n' }}\n        {%- endgeneration %}\n"
              "    {%- else %}\n        {{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}\n"
              "    {%- endif %}\n{%- endfor %}\n")
REFUSAL = "{% if m['role'] == 'system' and not loop.first %}{{ raise_exception('too late') }}{% endif %}"
FIRST = ("{% if messages[0]['role'] == 'system' %}{% set START = 1 %}{% else %}{% set START = 0 %}{% endif %}"
         "{% for m in messages[START:] %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
         "{{ raise_exception('take turns') }}{% endif %}{% endfor %}")
TRAINED3 = QWEN3.replace("{%- if loop.index0 > ns.last_query_index and (loop.last or (not loop.last and "
                         "reasoning_content)) %}", "{%- if true %}")
# name: (template, the conversations that it refuses or writes in a way of its own, of CONVERSATIONS)
TAKEN = {
    "generation": (GENERATION + HEAD, ""),
    "generation in the middle of a line": (
        CHATML.replace("m['content']", "'' }}{% generation %}{{ m['content'] }}{%- endgeneration -%}{{ ''"), ""),
    "a variable that generation keeps": (
        "{% set x = '' %}" + CHATML.replace("{{", "{% generation %}{% set x = '!' %}{% endgeneration %}{{ x +"), ""),
    "a default system message": (default("You are a pirate.") + TURN + HEAD, ""),
    "an empty one": (default("") + TURN + HEAD, ""),
    "one of known words": (default("You are helpful.") + TURN + HEAD, ""),
    "Qwen 2.5 for mathematics": (CHOICE.replace(QWEN25, MATH.replace("\\", "\\\\")), ""),
    "no late system message": (TURN.replace("{{", REFUSAL + "{{", 1) + HEAD, "late"),
    "no late system message, a default": (default(MATH.replace("\\", "\\\\"))
                                          + TURN.replace("{{", REFUSAL + "{{", 1) + HEAD, "late"),
    "a system message at the start only": (FIRST + TURN + HEAD, "alone twice"),
    "drops late system messages": (TURN.replace("{{", "{% if loop.first or m['role'] != 'system' %}{{", 1)
                                   .replace("}}", "}}{% endif %}") + HEAD, "late"),
    "breaks behind the last message": (TURN.replace("{% endfor %}", "{% if loop.last %}{% break %}{% endif %}"
                                                    "{% endfor %}") + HEAD, ""),
    "adds something without a system message": (
        "{% if messages[0]['role'] != 'system' %}{{ 'Hello! ' }}{% endif %}" + CHATML, "bare rounds alone"),
    "eos_token ends a turn": (CHATML.replace("'<|im_end|>\\n'", "eos_token + '\\n'"), ""),
    "Qwen 3, a thought for every answer": (TRAINED3, ""),
    "Qwen 3, generation": (QWEN3.replace("{%- else %}\n            {{- '<|im_start|>' + message.role + '\\n' + content",
                                         "{%- else %}\n            {%- generation %}{%- endgeneration %}\n            "
                                         "{{- '<|im_start|>' + message.role + '\\n' + content"), ""),
    "Llama 3, no late system message": (LLAMA3.replace(
        "{%- for m in messages %}",
        "{%- for m in messages %}" + REFUSAL.replace("{%", "{%-").replace("{{", "{{-")), "late"),
    "Llama 3.1, a system message of its own": (
        DATED.replace('set system_message = ""', 'set system_message = "Be kind."'), ""),
}
CONVERSATIONS = {
    "one": [SYSTEM, USER], "many": [SYSTEM, USER, BOT, AGAIN], "more": [SYSTEM, USER, BOT, AGAIN, BOT, USER],
    "thought": [SYSTEM, USER, {**BOT, "content": "<think>\nhm\n</think>\n\nHello."}, AGAIN],
    "blanks": [SYSTEM, {**USER, "content": " \n Hi\n"}, {**BOT, "content": "\nHello. "}, AGAIN],
    "bare": [USER], "rounds": [USER, BOT, AGAIN], "late": [USER, SYSTEM, AGAIN], "alone": [BOT],
    "answer": [SYSTEM, USER, BOT], "twice": [SYSTEM, USER, AGAIN]}


def render(template, messages):
    """As transformers renders it."""
    jinja2 = pytest.importorskip("jinja2")

    class Generation(jinja2.ext.Extension):
        tags = {"generation"}

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("say"), [], [], body).set_lineno(line)

        def say(self, caller):
            return caller()

    def raise_exception(message):
        raise jinja2.TemplateError(message)
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True,
                                     extensions=[Generation, "jinja2.ext.loopcontrols"])
    environment.globals["raise_exception"] = raise_exception
    return environment.from_string(template).render(
        messages=messages, add_generation_prompt=True, enable_thinking=False, bos_token=LLAMA[0],
        eos_token="<|im_end|>", tools=None)


@pytest.mark.parametrize("name", TAKEN)
def test_templates_that_are_exact_for_what_is_written_here_are_taken(tmp_path, name):
    """They differ elsewhere, or in how they are written; where they differ the conversation is refused."""
    template, elsewhere = TAKEN[name]
    llama = name.startswith("Llama")
    config = {"chat_template": template, "bos_token": LLAMA[0], "eos_token": "<|im_end|>"}
    tokenizer = write(tmp_path, ["Ċ Ċ"], pre_tokenizer=split(r"\s*[\r\n]+|\S+|\s"),
                      added=SPECIAL + [(token, True) for token in LLAMA], files={"tokenizer_config.json": config})
    for kind, messages in CONVERSATIONS.items():
        if kind in elsewhere.split():
            with pytest.raises(UserError, match="way of its own"):
                tokenizer.chat(messages)
        else:
            try:
                found = tokenizer.chat(messages)
            except UserError:                       # nobody writes these
                assert kind in ("alone", "answer", "twice", "late") and elsewhere
                continue
            assert show(tokenizer, found) == render(template, messages), kind
    end = tokenizer.special_id("<|eot_id|>" if llama else "<|im_end|>")
    sampled = [*b"Hello.", end]
    grown = tokenizer.chat([SYSTEM, USER]) + sampled + tokenizer.after(sampled)
    grown += tokenizer.turn("user", "Bye") + tokenizer.assistant
    if name != "Qwen 3, generation":                # the empty thought stays, see the test above
        assert show(tokenizer, grown) == render(template, [SYSTEM, USER, BOT, AGAIN])


def test_a_default_that_holds_special_tokens_is_refused(tmp_path):
    tokenizer = write(tmp_path, added=SPECIAL, template=default("a<|im_end|>b") + TURN + HEAD)
    with pytest.raises(UserError, match="way of its own"):
        tokenizer.chat([USER])
    text = written("ChatML", SYSTEM, USER) + "<|im_start|>assistant\n"
    assert show(tokenizer, tokenizer.chat([SYSTEM, USER])) == text


def test_conversations_that_cannot_be_written(tmp_path):
    tokenizer = write(tmp_path, added=SPECIAL)
    for messages in ([], [{"role": "tool", "content": "x"}]):
        with pytest.raises(UserError):
            tokenizer.chat(messages)
    with pytest.raises(UserError, match="no chat template"):
        write(tmp_path, added=SPECIAL, template=None).chat([USER])
    with pytest.raises(UserError, match="<|im_start|>"):
        write(tmp_path).chat([USER])                                # a template, but not its tokens


# ---------------------------------------------------------------------------------------------------------
# Real vocabularies

STRESS = ("naïve café e\u0301 \u1100\u1161\u11a8 ﬁ ½ x² Ⅳ ٣٤ 数学题:求 x+1=2。 हिन्दी ไทย עברית العربية \U0001f469"
          "\u200d\U0001f469\u200d\U0001f467\U0001f3f3\ufe0f\u200d\U0001f308 \U0001d518 I'LL don't 'ſ  12,345."
          "678  \n\n\t x = \\frac{1}{2}\r\n  \u00a0\u2003\u3000 \x04!\x04! <|im_end|><|eot_id|><|endoftext|>")
GOLDEN = {
    "llama3": {
        "12x + 345 = 6,789.  \\boxed{537}\n\n":
            [717, 87, 489, 220, 12901, 284, 220, 21, 11, 16474, 13, 220, 1144, 80175, 90, 19038, 633],
        "  don't  I'LL\r\n\t 2024 na\u00efve \u6570\u5b66":
            [220, 1541, 956, 220, 358, 6, 4178, 319, 197, 220, 2366, 19, 95980, 588, 48785, 48864],
        "<|im_end|><|eot_id|>":
            [27, 91, 318, 6345, 91, 1822, 91, 68, 354, 851, 91, 29],
    },
    "qwen2": {
        "12x + 345 = 6,789.  \\boxed{537}\n\n":
            [16, 17, 87, 488, 220, 18, 19, 20, 284, 220, 21, 11, 22, 23, 24, 13, 220, 1124, 79075, 90, 20,
             18, 22, 630],
        "  don't  I'LL\r\n\t 2024 na\u00efve \u6570\u5b66":
            [220, 1513, 944, 220, 358, 6, 4086, 319, 197, 220, 17, 15, 17, 19, 94880, 586, 47685, 47764],
        "<|im_end|><|eot_id|>":
            [27, 91, 318, 6213, 91, 1784, 91, 68, 354, 842, 91, 29],
    },
    "smollm2": {
        "12x + 345 = 6,789.  \\boxed{537}\n\n":
            [33, 34, 104, 1232, 216, 35, 36, 37, 446, 216, 38, 28, 39, 40, 41, 30, 216, 3814, 4810, 277,
             107, 37, 35, 39, 109, 1116],
        "  don't  I'LL\r\n\t 2024 na\u00efve \u6570\u5b66":
            [216, 1326, 982, 216, 339, 23, 16421, 15290, 216, 34, 32, 34, 36, 15486, 46494, 216, 18265,
             18753, 116],
        "<|im_end|><|eot_id|>":
            [44, 108, 306, 79, 486, 108, 21198, 108, 85, 320, 79, 311, 108, 46],
    },
}
STRESS_DIGEST = {"llama3": "3e07892c538a9633", "qwen2": "d7e1c648db505cdf", "smollm2": "d6328a15fde35a6b"}
STOP = {"llama3": {128001, 128009}, "qwen2": {151645, 151643}, "smollm2": {2}}
CHAT = {"llama3": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
                  "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "qwen2": FORMATS["Qwen 2"][1] + "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        "smollm2": FORMATS["SmolLM2"][1] + "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"}


def digest(ids):
    return hashlib.sha256(" ".join(map(str, ids)).encode()).hexdigest()[:16]


def samples(shared_data, count):
    texts = []
    for name in ("math500.jsonl", "gsm8k.jsonl", "olympiadbench.jsonl", "judgebench.jsonl"):
        for line in (shared_data / name).read_text(encoding="utf-8").splitlines()[:count]:
            texts += [value for value in json.loads(line).values() if isinstance(value, str)]
    return texts


@pytest.mark.parametrize("name", ["llama3", "qwen2", "smollm2"])
def test_golden_ids(request, name):
    """Made with `tokenizers` 0.23.3: encode(text, add_special_tokens=False), encode_special_tokens = True."""
    tokenizer = load(request.getfixturevalue(name))
    for text, expected in GOLDEN[name].items():
        assert tokenizer.encode(text) == expected
        assert tokenizer.decode(expected) == text
    assert digest(tokenizer.encode(STRESS)) == STRESS_DIGEST[name]
    assert show(tokenizer, tokenizer.chat([USER])) == CHAT[name]
    assert tokenizer.stop_ids == STOP[name] and tokenizer.decode(STOP[name]) == ""


@pytest.mark.parametrize("name", ["llama3", "qwen2", "smollm2"])
def test_ids_equal_those_of_tokenizers(request, shared_data, name):
    """On real problems and on mixtures of what is hard: blanks, newlines, digits, marks, missing bytes."""
    tokenizers = pytest.importorskip("tokenizers")
    directory = request.getfixturevalue(name)
    ours, theirs = load(directory), tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    theirs.encode_special_tokens = True
    draw = random.Random(0)
    alphabet = [*"  \n\n\r\t1'sStTrREedDlLmMvV.!-_\x04\x06\u0301\u0323é½²٣एि한ㅎ你。\u200d\ufe0f\u00a0\u3000",
                "\U0001f469", "\U0001d518", "\U00040000", "<|im_end|>"]
    mixed = ["".join(draw.choices(alphabet, k=draw.randrange(1, 30))) for _ in range(2000)]
    for text in [STRESS, *samples(shared_data, 40), *mixed]:
        ids = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text) == ids
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("name", ["llama3", "qwen2", "smollm2"])
def test_chat_equals_the_rendered_template_of_real_checkpoints(request, name):
    jinja2, tokenizers = pytest.importorskip("jinja2"), pytest.importorskip("tokenizers")
    directory = request.getfixturevalue(name)
    ours, theirs = load(directory), tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    template = json.loads((directory / "tokenizer_config.json").read_text())["chat_template"]
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(template)
    blank = {**USER, "content": "\n\n Hi 12 \n"}
    for messages in ([USER], [SYSTEM, USER], [USER, BOT, AGAIN], [SYSTEM, blank, BOT, AGAIN], [BOT, blank]):
        text = template.render(messages=messages, add_generation_prompt=True, bos_token=LLAMA[0])
        assert ours.chat(messages) == theirs.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("seed", range(3))
def test_random_tokenizers_equal_tokenizers(tmp_path, seed):
    """Merges that no training would give: repeated, in odd orders, past tokens that nothing makes."""
    tokenizers = pytest.importorskip("tokenizers")
    draw = random.Random(seed)
    for _ in range(25):
        words = [*"abc1", LETTER[32]]
        merges = []
        for _ in range(draw.randrange(12)):
            a, b = draw.choice(words), draw.choice(words)
            if len(a + b) < 7:
                merges.append(f"{a} {b}")
                words.append(a + b)
        extra = ["".join(draw.choices("abc", k=draw.randrange(2, 5))) for _ in range(3)]
        missing = draw.choice(["", "c"]) if not any("c" in merge for merge in merges) else ""
        ours = write(tmp_path, merges, extra, [] if missing else draw.sample(SPECIAL, 2), [*missing],
                     ignore_merges=draw.random() < 0.5,
                     pre_tokenizer=draw.choice([BYTE_LEVEL, DIGITS, split(r"[ab]+")]))
        theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
        theirs.encode_special_tokens = True
        for _ in range(30):
            text = "".join(draw.choices([*"abc1 ab", "<think>", "<|im_end|>"], k=draw.randrange(1, 14)))
            assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids, (text, merges)
