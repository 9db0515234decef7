"""Episodes as a page for a browser: the problem, who said what, the verdict; no scripts, no other files.

What models and data sets say may be hostile: all of it is escaped, the page's policy forbids to load or run
anything, and signs that change the direction of writing do so in their own box only.
"""
import codecs
import html
import math

from data.formats.files import atomic_write

LABELS = {"high": "high-level agent: plan", "low": "low-level agent: answer", "solo": "agent"}
HEAD = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<style>
body {{ font: 16px/1.5 sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #222 }}
pre, code {{ font: 14px monospace; white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate }}
pre {{ margin: 0.3em 0 1em; padding: 0.5em 1em; border-left: 5px solid #999; background: #f7f7f7 }}
.high {{ border-color: #c44e52; margin-right: 5em }} .low {{ border-color: #4c72b0; margin-left: 5em }}
.right {{ color: #18733c }} .wrong {{ color: #b3262b }} h2 {{ border-top: 2px solid #bbb; padding-top: 1em }}
</style><h1>{title}</h1>
"""
SHADES = "<p>The redder a token, the less likely it was (point at it: its log-prob). ▪ ends a turn.</p>\n"


SHOWN = 100             # episodes of a page


def html_page(episodes: list, path, title: str = "Episodes", tokenizer=None, which: str = "all") -> None:
    """Write rema.Episodes, scored, as one page: the first 100 of all of them, of the "right" or the "wrong".

    With a tokenizer, tokens are shaded by their log-probs.
    """
    chosen = [episode for episode in episodes if which in ("all", name_verdict(episode))]
    shown = chosen[:SHOWN]
    parts = [HEAD.format(title=html.escape(title)),
             f"<p>{len(shown)} of {len(chosen)} episodes ({which}), of {len(episodes)} in all</p>\n"]
    if tokenizer:
        parts.append(SHADES)
    for episode in shown:
        parts.append(write_episode(episode, tokenizer))
    page = "".join(parts)
    atomic_write(path, page.encode("utf-8", "replace"))      # a lone surrogate from a data set becomes a ?


def write_episode(episode, tokenizer=None) -> str:
    """One episode as HTML."""
    row = episode.row
    parts = [f"<h2>{escape(row.get('id', 'problem'))}, {name_sample(episode.place)}</h2>\n",
             f"<pre>{escape(row['problem'])}</pre>\n"]
    for turn in episode.turns:
        parts.append(write_turn(turn, tokenizer))
    verdict = name_verdict(episode)
    answer = episode.answer or "(none)"
    parts.append(f'<p><b class="{verdict}">{verdict}</b>: boxed answer <code>{escape(answer)}</code>, '
                 f"gold answer <code>{escape(row['answer'])}</code></p>\n")
    return "".join(parts)


def write_turn(turn, tokenizer=None) -> str:
    """Who speaks, and what: shaded where there is a tokenizer."""
    label = LABELS.get(turn.agent, turn.agent)
    if not turn.stopped:
        label += " (cut off)"
    text = escape(turn.text.strip())
    if turn.thought:
        text = f"<i>{escape(turn.thought)}</i>\n{text}"
    if tokenizer:
        text = shade_tokens(turn, tokenizer)
    if not text:
        text = "(nothing)"
    return f'{label}\n<pre class="{turn.agent}">{text}</pre>\n'


def shade_tokens(turn, tokenizer) -> str:
    """The tokens of a turn as spans; a sign that several tokens spell stands in the last of them."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    spans = []
    for token, logprob in zip(turn.tokens, turn.logprobs):
        raw = tokenizer.token_bytes(token)
        text = "▪"
        if raw:
            text = escape(decoder.decode(raw))
        red = 0.7 * max(0.0, 1 - math.exp(logprob))
        spans.append(f'<span style="background:rgb(196 78 82/{red:.2f})" title="{logprob:.2f}">{text}</span>')
    return "".join(spans) + decoder.decode(b"", final=True)


def name_sample(place: tuple) -> str:
    """(question, 0, 1) -> "plan 1, answer 2"; where not two speak, "sample 1"."""
    numbers = [str(number + 1) for number in place[1:]]
    if len(numbers) == 2:
        return f"plan {numbers[0]}, answer {numbers[1]}"
    return f"sample {', '.join(numbers)}"


def name_verdict(episode) -> str:
    if episode.correct:
        return "right"
    return "wrong"


def escape(text) -> str:
    return html.escape(str(text))
