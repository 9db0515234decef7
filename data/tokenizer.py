"""A Hugging Face tokenizer directory, read with tiktoken: text to ids, ids to text, conversations to ids.

tokenizer.json describes a pipeline: normalise, cut into pieces by a regular expression, write the bytes of
a piece in a printable alphabet, merge neighbours by a list of merges. tiktoken is fast at it but knows no
list of merges: it joins any two neighbours that together are a token, lowest rank first. `_ranks` makes
that the same.

The ids are those of the `tokenizers` library (no special tokens added or parsed). Known differences: digits
that Unicode 17 added, and runs of over LONGEST_RUN characters of one kind, which are cut: tiktoken may
overflow its stack there, or take quadratic time.
"""
import json
import pathlib
import re
import unicodedata
from dataclasses import dataclass

import regex        # comes with tiktoken
import tiktoken

from data import UserError

FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja")
LONGEST_RUN = 4000
NEVER = 1 << 60

# GPT-2's alphabet for bytes: printable bytes are written as themselves, the others as characters from 256 on.
_printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
BYTES = _printable + sorted(set(range(256)) - set(_printable))
LETTER = {b: chr(b) if b in _printable else chr(256 + i - len(_printable)) for i, b in enumerate(BYTES)}
RAW = {ord(letter): chr(b) for b, letter in LETTER.items()}

# Combining marks younger than the Unicode tables with which `tokenizers` normalises: to it they are no marks.
YOUNG = re.compile("([" + re.sub("([0-9a-f]+)[ \n]?", lambda code: chr(int(code[1], 16)), """7fd 898-89f
8ca-8d3 9fe c3c d3b-d3c eba 1715 1abf-1ace 1df6-1dfa a82c 10d24-10d27 10eab-10eac 10f46-10f50 10f82-10f85
11070 1133b 1145e 11839-1183a 1193d-1193e 11943 119e0 11a34 11a47 11a99 11d42 11d44-11d45 11d97 16ff0-16ff1
1e130-1e136 1e2ae 1e2ec-1e2ef""") + "])")


# ---------------------------------------------------------------------------------------------------------
# Chat formats. A chat template is a program. It is not run here, it is recognised: brought to one spelling
# (`_canonical`), it must hold the fragments of a format; what is left of its tags without them must be
# plumbing that the format is known to use or, in the published templates with branches for tools, hold no
# word that these do not. So a template that trims, drops a newline, adds a sentence or skips a message is
# refused; quotes, blanks and names of loop variables do not matter. (Hashes of the published files would be
# stricter still, but each was republished several times with changes that touch tools only.)

PLUMBING = """{%for message in messages%} {{_}} {%endfor%} {%if add_generation_prompt%} {%endif%}
{%if not add_generation_prompt is defined%} {%set add_generation_prompt=false%}"""
LLAMA3 = """{%set loop_messages=messages%} {%for message in loop_messages%} {%set content=_%} {{content}}
{%if loop.index0==0%} {%set content=_+content%} {%if loop.first%}"""
TOOLS = """_ for in if else elif endif endfor set is not and or defined true false none messages message
loop first last index0 0 1 add_generation_prompt content role system user assistant tools tool tojson
function name arguments length tool_calls tool_call string json You may call one more functions to assist
with the query are provided signatures n within XML tags For each return a object args Tools tool_response
im_start im_end ns namespace multi_step_tool index last_query_index think reasoning_content startswith
endswith forward_message tool_start tool_start_length tool_end start_of_message start_pos tool_end_length
end_of_message custom_tools tools_in_user_message builtin_tools ipython date_string strftime_now d b Y t 4
system_message first_user_message raise_exception parameters indent mapping iterable items arg_name arg_val
reject equalto join code_interpreter Environment have access following To please respond JSON Respond format
its value dictionary of argument Do use variables Given proper that best answers given prompt Cannot put
when there s no This model only supports single calls at once start_header_id end_header_id eot_id eom_id
python_tag"""


@dataclass(frozen=True)
class Format:
    """How a family writes a conversation: `turn` for each message, then `head`; <|...|> is one token."""
    name: str
    fragments: tuple = ()           # of the canonical template, beside turn and head
    plumbing: str = ""              # tags that may remain without them
    words: str = ""                 # words that the other tags may hold
    turn: str = "<|im_start|>{role}\n{content}<|im_end|>\n"
    head: str = "<|im_start|>assistant\n"
    system: str | None = None       # the system message of a conversation that brings none
    date: str = ""                  # written before the system message
    llama: bool = False             # content is trimmed, a begin token stands first
    think: str = ""                 # an empty thought after the head: Qwen 3 with thinking off
    forget: bool = False            # thoughts of earlier turns are left out: Qwen 3

    def matches(self, template):
        """Whether a canonical template writes this format."""
        turn = self.turn.replace("{role}", "'+message.role+'")
        turn = turn.replace("{content}", "'+content|trim+'" if self.llama else "'+content+'")
        fragments = [f"'{turn}'".replace("+''", ""), f"'{self.head}'", *self.fragments]
        if template.count(fragments[0]) != 1 or not all(fragment in template for fragment in fragments):
            return False
        for fragment in sorted(fragments, key=len, reverse=True):
            template = template.replace(fragment, "_")
        tags = re.findall(r"(?s)\{[{%].*?[}%]\}", template.replace(f"'{self.system}'", "_"))
        return all(tag in PLUMBING + self.plumbing or
                   self.words and set(re.findall(r"\w+", tag)) <= set(self.words.split()) for tag in tags)


def _formats():
    """The formats that are known."""
    yield Format("ChatML")
    given = ("'<|im_start|>system\n'+messages[0].content+'<|im_end|>\n'", "messages[0].role=='system'")
    for name, system in [("Qwen 2", "You are a helpful assistant."),
                         ("Qwen 2.5", "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."),
                         ("SmolLM2", "You are a helpful AI assistant named SmolLM, trained by Hugging Face")]:
        default = f"'<|im_start|>system\n{system}<|im_end|>\n'"
        yield Format(name, (default, "messages[0].role!='system'"), "{%if _%} {%if loop.first and _%}",
                     system=system)
        yield Format(name, (default, *given), words=TOOLS, system=system)
    off = ("enable_thinking is defined and enable_thinking is false", "'<think>\n\n</think>\n\n'")
    history = ("loop.index0>ns.last_query_index", "loop.last or(not loop.last and reasoning_content)",
               "'<|im_start|>'+message.role+'\n'+content",
               "'\n<think>\n'+reasoning_content.strip('\n')+'\n</think>\n\n'+content.lstrip('\n')")
    think = "<think>\n\n</think>\n\n"
    yield Format("Qwen 3", off, "{%if _%}", think=think)
    yield Format("Qwen 3", (*off, *given, *history), words=TOOLS + " split strip lstrip rstrip", think=think,
                 forget=True)
    llama = dict(turn="<|start_header_id|>{role}<|end_header_id|>\n\n{content}<|eot_id|>", llama=True,
                 head="<|start_header_id|>assistant<|end_header_id|>\n\n")
    yield Format("Llama 3", ("bos_token",), LLAMA3, **llama)
    dated = ("'<|start_header_id|>system<|end_header_id|>\n\n", "Cutting Knowledge Date: December 2023\n",
             "Today Date: ", "26 Jul 2024", "messages[0].content|trim", "'<|eot_id|>'", "bos_token")
    yield Format("Llama 3.1", dated, words=TOOLS, system="", **llama,
                 date="Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n")


def _canonical(template):
    """The template's code in one spelling; "" if it also writes text outside of its tags."""
    for blanks, tag in [(r"\n\Z", ""), (r"\s*(\{[{%#])-", r"\1"), (r"-([}%#]\})\s*", r"\1"),    # {{- and -}},
                        (r"([%#]\})\n", r"\1"), (r"[ \t]*(\{[%#])", r"\1"),     # blanks around blocks,
                        (r"(?s)\{#.*?#\}", "")]:                                 # and comments write nothing
        template = re.sub(blanks, tag, template)
    if re.sub(r"(?s)\{[{%].*?[}%]\}", "", template):
        return ""
    quoted = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
    texts = [text[1:-1].replace("\\n", "\n") for text in re.findall(quoted, template)]
    code = re.sub(r"\s*([^\w\s])\s*", r"\1", re.sub(r"\s+", " ", re.sub(quoted, "\0", template)))
    for name in re.findall(r"for (\w+) in (?:loop_)?messages\b", code):
        code = re.sub(rf"\b{name}\b", "message", code)
    code = re.sub("\0", lambda _: f"'{texts.pop(0)}'", code)
    return re.sub(r"\['(\w+)'\]", r".\1", code).replace("'+'", "").replace("message.content", "content")


# ---------------------------------------------------------------------------------------------------------
# Pieces and merges

def _pattern(steps):
    """The one regular expression that cuts text as the file's pre-tokenisers do one after the other."""
    words = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|%s| ?[^\s\p{L}\p{N}]+%s|\s+(?!\S)|\s+"        # GPT-2's
    kinds = [(step["type"], step.get("use_regex", True)) for step in steps]
    if kinds == [("ByteLevel", True)] and not steps[-1].get("add_prefix_space"):
        return words % (r" ?\p{N}+", "")
    if kinds == [("Digits", True), ("ByteLevel", True)] and not steps[-1].get("add_prefix_space"):
        # Blanks before a digit are a piece of their own, whole: for ByteLevel the text ends there.
        return words % (r"\p{N}" if steps[0]["individual_digits"] else r"\p{N}+", r"|\s+(?=\p{N})")
    if kinds == [("Split", True), ("ByteLevel", False)] and not steps[-1].get("add_prefix_space"):
        (kind, pattern), = steps[0]["pattern"].items()
        pattern = pattern if kind == "Regex" else regex.escape(pattern)
        if (steps[0]["behavior"], steps[0]["invert"]) == ("Removed", True):
            return pattern
        if (steps[0]["behavior"], steps[0]["invert"]) == ("Isolated", False):
            return rf"{pattern}|(?:(?!{pattern})[\s\S])+"       # what lies between the matches is a piece
    raise UserError(f"the pre-tokeniser {json.dumps(steps)[:200]} is not supported")


def _merge(word, order):
    """Merge as `tokenizers` does, the earliest merge of the list first: (parts, number of the last merge)."""
    parts, last = list(word), NEVER
    ranks = [order.get(pair, NEVER) for pair in zip(parts, parts[1:])]
    while ranks and (best := min(ranks)) < NEVER:
        i, last = ranks.index(best), best
        parts[i] += parts.pop(i + 1)
        del ranks[i]
        if i:
            ranks[i - 1] = order.get((parts[i - 1], parts[i]), NEVER)
        if i < len(ranks):
            ranks[i] = order.get((parts[i], parts[i + 1]), NEVER)
    return parts, last


def _ranks(vocabulary, order, whole):
    """The tokens that tiktoken may know, in order of rank, and whether it then does exactly as the list says.

    A token belongs if merging its own letters by the list gives it back; its rank is the last merge on that
    way: where two neighbours spell such a token, their letters were merged as they are in the token alone,
    so the list joins these two as well, and both programs see the same candidates in the same order. With
    `whole` (ignore_merges, Llama 3) a piece that is a token wins over its merges; tokens that merging does
    not give then come last, which is exact unless two neighbours that the list leaves apart would spell
    one.
    """
    ranked, lost = [], {}
    for token in {a + b for a, b in order} | (set(vocabulary) if whole else set()):
        parts, last = _merge(token, order)
        if len(parts) > 1:
            lost[token] = parts
        elif len(token) > 1:
            ranked.append((last, token))
    tokens = [LETTER[b] for b in range(256)] + [token for _, token in sorted(ranked)]
    if not whole:
        return tokens, True
    exact = not any(a + b in lost for parts in lost.values() for a, b in zip(parts, parts[1:]))
    return tokens + (list(lost) if exact else []), exact


def _bounded(text):
    """The text, cut where letters and digits, or blanks, or other signs run on for more than LONGEST_RUN."""
    if len(text) <= LONGEST_RUN:
        return [text]
    runs = (run.span() for run in re.finditer(r"\s+|[^\W_]+|(?:[^\w\s]|_)+", text))
    cuts = [0, *(cut for a, b in runs for cut in range(a + LONGEST_RUN, b, LONGEST_RUN)), len(text)]
    return [text[a:b] for a, b in zip(cuts, cuts[1:])]


# ---------------------------------------------------------------------------------------------------------

class Tokenizer:
    """Text to ids and back, and one checkpoint's chat format.

    vocab_size  the highest id + 1 (the model's embedding may have more rows: those ids decode to nothing)
    stop_ids    every id that ends a turn: generation_config, config and tokenizer_config together
    """

    @classmethod
    def load(cls, directory):
        """Read a Hugging Face directory; a UserError if it is missing, malformed or unsupported."""
        try:
            return cls(pathlib.Path(directory))
        except UserError as error:
            raise UserError(f"{directory}: {error}") from None
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError,
                regex.error) as why:
            raise UserError(f"{directory}: cannot read the tokenizer ({type(why).__name__}: {why})") from why

    def __init__(self, directory):
        if not (directory / "tokenizer.json").is_file():
            raise UserError("there is no tokenizer.json")
        self.files = {name: (directory / name).read_bytes() for name in FILES if (directory / name).is_file()}
        file = json.loads(self.files["tokenizer.json"])
        added = file.get("added_tokens") or []
        self.special = {token["content"]: token["id"] for token in added if token["special"]}
        self.added = {token["content"]: token["id"] for token in added if not token["special"]}
        self.vocabulary = file["model"]["vocab"]
        self._read_configs(directory)
        self._read_model(file)
        if any(token.get(key) for token in added if token["content"] in self.added
               for key in ("lstrip", "rstrip", "single_word")):
            raise UserError("an added token that takes its neighbours along is not supported")

    def _read_configs(self, directory):
        """End tokens and the chat format."""
        config, generation, model = (
            json.loads((directory / name).read_bytes()) if (directory / name).is_file() else {}
            for name in ("tokenizer_config.json", "generation_config.json", "config.json"))
        bos, eos = (token["content"] if isinstance(token, dict) else token      # an AddedToken, or a string
                    for token in (config.get("bos_token"), config.get("eos_token")))
        ends = [self.special_id(eos)] if eos else []
        for value in (generation.get("eos_token_id"), model.get("eos_token_id")):
            ends += value if isinstance(value, list) else [] if value is None else [value]
        if not all(type(end) is int for end in ends):
            raise UserError(f"an eos_token_id is not a token id: {ends}")
        self.stop_ids = set(ends)
        self._bos = [self.special_id(bos)] if bos else []
        template = config.get("chat_template")
        if isinstance(template, list):                              # several templates, each with a name
            template = {entry["name"]: entry["template"] for entry in template}.get("default")
        if "chat_template.jinja" in self.files:                     # where transformers 5 keeps it
            template = self.files["chat_template.jinja"].decode()
        code = _canonical(template or "")
        self._format = next((form for form in _formats() if form.matches(code)), None)
        self._problem = ("its chat template is none of Llama 3 to 3.2, Qwen 2 to 3, SmolLM2 and plain ChatML"
                         if template else "it has no chat template (take an Instruct checkpoint)")
        # What ends or frames a turn is special, whatever the file says: text must not be able to hold it.
        frame = re.findall(r"<\|\w+\|>", self._format.turn) if self._format else ()
        for name in [name for name, id in self.added.items() if id in self.stop_ids or name in frame]:
            self.special[name] = self.added.pop(name)

    def _read_model(self, file):
        """Vocabulary and merges -> the tiktoken Encoding, and the bytes of every id."""
        model, normalizer = file["model"], file.get("normalizer")
        if model.get("type") != "BPE" or any(model.get(key) for key in
                                             ("dropout", "continuing_subword_prefix", "end_of_word_suffix")):
            raise UserError(f"tokenizer.json is no byte-level BPE (model type {model.get('type')})")
        if normalizer not in (None, {"type": "NFC"}):
            raise UserError(f"the normaliser {json.dumps(normalizer)[:200]} is not supported")
        self._nfc, self._whole = normalizer is not None, bool(model.get("ignore_merges"))
        steps = file.get("pre_tokenizer") or {"type": None}
        pattern = _pattern(steps["pretokenizers"] if steps["type"] == "Sequence" else [steps])

        letters = set(LETTER.values())
        self._words = {word: id for word, id in self.vocabulary.items()
                       if word not in self.special and letters.issuperset(word)}
        pairs = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"]]
        self._order = {(a, b): i for i, (a, b) in enumerate(pairs) if a + b not in self.special}
        for a, b in self._order:
            if not (a in self._words and b in self._words and a + b in self._words):
                raise UserError(f"tokenizer.json merges {a!r} and {b!r}, which its vocabulary does not hold")
        tokens, self._exact = _ranks(self._words, self._order, self._whole)
        self._ids = [self._words.get(token) for token in tokens]                # rank -> id
        self._pieces = regex.compile(pattern)
        self._encoding = tiktoken.Encoding(
            "tokenizer.json", pat_str=pattern, special_tokens={},
            mergeable_ranks={token.translate(RAW).encode("latin-1"): i for i, token in enumerate(tokens)})
        self._missing = bytes(b for b in range(256) if LETTER[b] not in self._words)
        if self._missing and model.get("byte_fallback"):
            raise UserError("tokens that stand for single bytes (byte_fallback) are not supported")

        self._bytes = {id: word.encode() for word, id in [*self.vocabulary.items(), *self.added.items()]}
        self._bytes.update((id, word.translate(RAW).encode("latin-1")) for word, id in self._words.items())
        self._bytes.update((id, b"") for id in self.special.values())
        self.vocab_size = max(self._bytes) + 1
        # Special tokens are found as well, so that the longest name wins as in `tokenizers`, but remain text.
        names = sorted([*self.added, *self.special], key=len, reverse=True)
        self._names = re.compile("|".join(map(re.escape, names)))

    # Text ---------------------------------------------------------------------------------------------------

    def encode(self, text):
        """Ids of ordinary text: never a special token, whatever it holds. Lone surrogates become U+FFFD.

        An added token that is not special (Qwen 3's <think>) is ordinary: its name in a text is its id.
        """
        text, ids, start = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"), [], 0
        for name in self._names.finditer(text) if self.added else ():
            if name[0] in self.added:
                ids += self._encode_plain(text[start:name.start()]) + [self.added[name[0]]]
                start = name.end()
        return ids + self._encode_plain(text[start:])

    def _encode_plain(self, text):
        """Ids of text without added tokens."""
        if self._nfc and not text.isascii():
            text = "".join(unicodedata.normalize("NFC", part) for part in YOUNG.split(text))
        return [id for chunk in _bounded(text) for id in self._encode_chunk(chunk)]

    def _encode_chunk(self, text):
        raw = text.encode()
        if self._exact and len(raw.translate(None, self._missing)) == len(raw):
            return [self._ids[rank] for rank in self._encoding.encode_ordinary(text)]
        # A byte that is no token (SmolLM2 lacks 21): tiktoken panics, `tokenizers` drops it before it merges.
        ids = []
        for piece in self._pieces.finditer(text):
            word = "".join(LETTER[b] for b in piece.group().encode())
            known = [letter for letter in word if letter in self._words]
            ids += [self._words[part] for part in
                    ([word] if self._whole and word in self._words else _merge(known, self._order)[0])]
        return ids

    def decode(self, ids):
        """Text of ids: special and unknown ids are dropped, bytes that are no UTF-8 become U+FFFD."""
        return b"".join(self.token_bytes(id) for id in ids).decode("utf-8", "replace")

    def token_bytes(self, id):
        """The bytes that one id stands for, b"" if it is special or unknown."""
        return self._bytes.get(int(id), b"")

    def special_id(self, name):
        """The id of the token with that name; UserError if there is none."""
        for tokens in (self.special, self.added, self.vocabulary):
            if name in tokens:
                return tokens[name]
        raise UserError(f"there is no token {name!r} in the vocabulary")

    # Conversations ------------------------------------------------------------------------------------------
    # They grow by appending; what was sampled is never decoded and encoded again:
    #     ids = chat(messages)                      up to the assistant's header
    #     ids += sampled + after(sampled)           what was sampled, then what the template puts behind it
    #     ids += turn("user", text) + assistant     the next message, and the assistant's header again

    @property
    def format(self):
        """The checkpoint's chat Format; UserError if its template is not known."""
        if self._format is None:
            raise UserError(f"cannot write conversations for this checkpoint: {self._problem}")
        return self._format

    def chat(self, messages):
        """[{"role", "content"}] -> the chat template's ids, up to where the assistant starts to speak.

        Content is ordinary text (or ids, taken as they are); special tokens come from the format alone.
        """
        if not messages:
            raise UserError("a conversation needs at least one message")
        turns = [(message["role"], message["content"]) for message in messages]
        if turns[0][0] != "system" and self.format.system is not None:
            turns.insert(0, ("system", self.format.system))
        last_user = max((i for i, (role, _) in enumerate(turns) if role == "user"), default=len(turns))
        ids = list(self._bos) if self.format.llama else []
        for i, (role, content) in enumerate(turns):
            if role == "assistant" and self.format.forget and isinstance(content, str):
                content = _forget(content, i > last_user, i == len(turns) - 1)
            ids += self.turn(role, content, before=self.format.date if i == 0 else "")
        return ids + self.assistant

    def turn(self, role, content, before=""):
        """One more message as ids, with its end token and what follows; content: text or sampled ids.

        `before` is text of the format that precedes the content (Llama 3.1's date).
        """
        if role not in ("system", "user", "assistant"):
            raise UserError(f"unknown role {role!r} in a conversation: take system, user or assistant")
        header, footer = self.format.turn.split("{content}")
        if isinstance(content, str):
            content = before + (content.strip() if self.format.llama else content)
            return self._render(header + "{content}" + footer, role, content)
        return self._render(header + before, role) + list(content) + self.after(content)

    @property
    def assistant(self):
        """The ids behind which the assistant speaks."""
        return self._render(self.format.head + self.format.think)

    def after(self, sampled):
        """The forced ids behind a sampled turn: the end token unless it is there, and what follows."""
        ids = self._render(self.format.turn.split("{content}")[1])
        return ids[1:] if len(sampled) and sampled[-1] == ids[0] else ids

    def _render(self, text, role="", content=""):
        """Ids of a format: <|...|> is a special token, text between two of them is encoded in one piece."""
        parts = re.split(r"(<\|\w+\|>)", text)
        return [id for i, part in enumerate(parts) for id in
                ([self.special_id(part)] if i % 2 else self.encode(part.format(role=role, content=content)))]

    def save(self, directory):
        """Write the files that were read, byte for byte (config.json is the model's to write)."""
        for name, data in self.files.items():
            (pathlib.Path(directory) / name).write_bytes(data)


def _forget(content, current, last):
    """Qwen 3 shows thoughts after the last question only; there the last turn always has a block for them."""
    thought, think, answer = content.rpartition("</think>")
    answer = answer.lstrip("\n") if think else answer
    thought = thought.split("</think>")[0].split("<think>")[-1].strip("\n")
    if current and (last or thought):
        return f"<think>\n{thought}\n</think>\n\n" + answer.lstrip("\n")
    return answer
