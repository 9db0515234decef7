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

import torch

ACTIONS = ("DECOMPOSE", "REWRITE", "EMPTY")


def plain(raw):
    """Whether bytes may stand in a JSON string as they are: whole UTF-8, no control sign, quote or \\."""
    try:
        return all(sign >= " " and sign not in '"\\' for sign in raw.decode())
    except UnicodeDecodeError:
        return False


class Guide:
    """A tokenizer's automaton for plans.

    size      tokens that the model's head knows: the vocabulary and what pads it
    allowed   (S, V) bool: which tokens may be drawn in a state
    next      (S, V) int16: the state that each leads to
    forced    (S,) bool: whether a state allows one token only, so that there is nothing to learn
    least     so many tokens suffice for a plan with any action, its end token among them
    """
    START, STRING, CLOSING, BRACE, END, FREE = 0, 1, 2, 3, 4, -1         # FREE: all is allowed, for ever

    def __init__(self, tokenizer, size, device="cpu"):
        arcs = [{} for _ in range(5)]                        # of each state: token -> next state

        def lay(ids, goal):
            """Let ids lead from START to a goal, along paths that are there as far as they go."""
            state = self.START
            for id in ids[:-1]:
                if id not in arcs[state]:
                    arcs[state][id] = len(arcs)
                    arcs.append({})
                state = arcs[state][id]
            arcs[state].setdefault(ids[-1], goal)
            return len(ids)

        close, brace, end = tokenizer.encode('"}'), tokenizer.encode("}"), tokenizer.after([])
        arcs[self.CLOSING][close[0]] = self.BRACE if close[1:] else self.END
        arcs[self.BRACE][brace[0]] = self.END
        arcs[self.END][end[0]] = self.FREE
        self.ending, self.least = len(close) + 1, 0          # tokens from CLOSING on
        for output, goal, more in (("", self.STRING, self.ending), ('"}', self.END, 1)):
            for action in ACTIONS:                           # ""} may be other tokens than " and "}
                ids = tokenizer.encode(f'{{"action": "{action}", "output": "{output}')
                self.least = max(self.least, lay(ids, goal) + more)
        # A string may end inside a token: a model that knows ." as one token never writes " behind a dot.
        for id in range(size):
            raw = tokenizer.token_bytes(id)
            for tail, goal in ((b"", self.STRING), (b'"', self.BRACE), (b'"}', self.END)):
                if raw and raw.endswith(tail) and plain(raw.removesuffix(tail)):
                    arcs[self.STRING][id] = goal

        self.allowed = torch.zeros(len(arcs) + 1, size, dtype=torch.bool, device=device)
        self.next = torch.full((len(arcs) + 1, size), self.FREE, dtype=torch.int16, device=device)
        for state, leads in enumerate(arcs):
            ids = torch.tensor(list(leads), device=device)
            self.allowed[state, ids] = True
            self.next[state, ids] = torch.tensor(list(leads.values()), dtype=torch.int16, device=device)
        self.allowed[self.FREE] = True                       # -1: the last row
        self.forced = self.allowed.sum(-1) == 1

    def hurry(self, state, left):
        """state (B,), tokens that it may still draw (B,) -> state: where the string must end now, it does."""
        return state.masked_fill((state == self.STRING) & (left <= self.ending), self.CLOSING)


def describe_actions(episodes: list) -> dict:
    """Of guided plans: the share of each action, and the mean level of the problems that it was used on.

    Level is the data's own measure of difficulty, where it has one (figure 4 of the paper).
    """
    plans = {}
    for episode in episodes:
        turn = episode.turns[0]
        if hasattr(turn, "states") and turn.text:
            plans[turn.place] = (json.loads(turn.text)["action"], episode.row.get("level"))
    if not plans:
        return {}
    result = {}
    for name in ACTIONS:
        levels = [level for action, level in plans.values() if action == name]
        numbers = [level for level in levels if isinstance(level, (int, float))]
        result[f"share_{name}"] = len(levels) / len(plans)
        result[f"level_{name}"] = None
        if numbers:
            result[f"level_{name}"] = sum(numbers) / len(numbers)
    return result
