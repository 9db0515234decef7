"""Guided plans: a finite automaton over tokens that can only write {"action": "...", "output": "..."}.

In each state some tokens are allowed; the sampler draws from the model's distribution renormalised over them,
and the token drawn leads to the next state. Literal parts are the tokens that the tokenizer makes of them, so
that the model meets what it knows; they are joined into a trie:

    {"  action  ":  "  DECOMPOSE  ",  "  output  ":  "  -> STRING: text, as often as it likes, then "}  end
                       REWRITE
                       EMPTY  ...                    ""}  end

Where a state allows one token there is nothing to choose: its log-prob is 0, whatever the weights are, so it
carries no gradient. What the model chooses is the action and the string.

Shapes: B rows, S states, V vocabulary.
"""
import json
import re

import torch

ACTIONS = ("DECOMPOSE", "REWRITE", "EMPTY")
NOT_PLAIN = re.compile(r'[\x00-\x1f"\\]')     # what JSON wants escaped in a string


def is_plain(raw: bytes) -> bool:
    """Whether bytes may stand in a JSON string as they are: whole UTF-8, no control sign, quote or \\."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return False
    return NOT_PLAIN.search(text) is None


class Guide:
    """A tokenizer's automaton for plans.

    allowed   (S, V) bool: which tokens may be drawn in a state
    next      (S, V) int16: the state that each leads to
    forced    (S,) bool: whether a state allows one token only, so that there is nothing to learn
    ending    so many tokens end a string and the plan, from CLOSING on
    least     so many suffice for a plan with any action, its end token among them
    """
    START, STRING, CLOSING, BRACE, END, FREE = 0, 1, 2, 3, 4, -1         # FREE: all is allowed, for ever

    def __init__(self, tokenizer, size: int, device="cpu"):
        """size: tokens that the model's head knows, the vocabulary and what pads it."""
        self.arcs = [{}, {}, {}, {}, {}]                     # of each state: token -> next state
        self.ending = self.least = 0
        self.add_endings(tokenizer)
        self.add_openings(tokenizer)
        self.add_strings(tokenizer, size)
        self.make_tables(size, device)

    def add_endings(self, tokenizer) -> None:
        """From CLOSING the quote, the brace and the end token; where "} is one token, that and the end token."""
        close = tokenizer.encode('"}')
        brace = tokenizer.encode("}")
        end = tokenizer.after([])
        behind_quote = self.END
        if len(close) > 1:
            behind_quote = self.BRACE
        self.arcs[self.CLOSING][close[0]] = behind_quote
        self.arcs[self.BRACE][brace[0]] = self.END
        self.arcs[self.END][end[0]] = self.FREE
        self.ending = len(close) + 1

    def add_openings(self, tokenizer) -> None:
        """From START to a string, or past an empty one: ""} may be other tokens than " and "}."""
        for action in ACTIONS:
            opening = tokenizer.encode(f'{{"action": "{action}", "output": "')
            self.add_path(opening, self.STRING)
            self.least = max(self.least, len(opening) + self.ending)
        for action in ACTIONS:
            whole = tokenizer.encode(f'{{"action": "{action}", "output": ""}}')
            self.add_path(whole, self.END)
            self.least = max(self.least, len(whole) + 1)

    def add_path(self, ids: list[int], goal: int) -> None:
        """Let ids lead from START to a goal, along paths that are there as far as they go."""
        state = self.START
        for id in ids[:-1]:
            arcs = self.arcs[state]
            if id not in arcs:
                arcs[id] = len(self.arcs)
                self.arcs.append({})
            state = arcs[id]
        self.arcs[state].setdefault(ids[-1], goal)

    def add_strings(self, tokenizer, size: int) -> None:
        """Tokens that go on with a string, or end it: a model that knows ." as one token never writes " behind a dot."""
        tails = {b"": self.STRING, b'"': self.BRACE, b'"}': self.END}
        for id in range(size):
            raw = tokenizer.token_bytes(id)
            for tail, goal in tails.items():
                if raw and raw.endswith(tail) and is_plain(raw.removesuffix(tail)):
                    self.arcs[self.STRING][id] = goal

    def make_tables(self, size: int, device) -> None:
        """The arcs as tensors. The last row is FREE's: index -1."""
        states = len(self.arcs) + 1
        self.allowed = torch.zeros(states, size, dtype=torch.bool, device=device)
        self.next = torch.full((states, size), self.FREE, dtype=torch.int16, device=device)
        for state, arcs in enumerate(self.arcs):
            ids = torch.tensor(list(arcs), device=device)
            goals = torch.tensor(list(arcs.values()), dtype=torch.int16, device=device)
            self.allowed[state, ids] = True
            self.next[state, ids] = goals
        self.allowed[self.FREE] = True
        self.forced = self.allowed.sum(-1) == 1

    def hurry(self, state: torch.Tensor, left: torch.Tensor) -> torch.Tensor:
        """state (B,), tokens that it may still draw (B,) -> state: where the string must end now, it does."""
        too_late = left <= self.ending
        return state.masked_fill((state == self.STRING) & too_late, self.CLOSING)


def describe_actions(episodes: list) -> dict:
    """Of guided plans: the share of each action, and the mean level of the problems that it was used on.

    Level is the data's own measure of difficulty, where it has one (figure 4 of the paper).
    """
    levels = {action: {} for action in ACTIONS}              # of each action: place of a plan -> level
    for episode in episodes:
        turn = episode.turns[0]
        if hasattr(turn, "states") and turn.text:            # a plan counts once, whatever its answers
            action = json.loads(turn.text)["action"]
            levels[action][turn.place] = episode.row.get("level")
    plans = sum(len(found) for found in levels.values())
    if plans == 0:
        return {}
    result = {}
    for action, found in levels.items():
        numbers = [level for level in found.values() if isinstance(level, (int, float))]
        result[f"share_{action}"] = len(found) / plans
        result[f"level_{action}"] = None
        if numbers:
            result[f"level_{action}"] = sum(numbers) / len(numbers)
    return result
