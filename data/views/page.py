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
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>
body {{ font: 16px/1.5 sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #222 }}
pre, code {{ font: 14px monospace; white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate }}
pre {{ margin: 0.3em 0 1em; padding: 0.5em 1em; border-left: 5px solid #999; background: #f7f7f7 }}
.high {{ border-color: #c44e52; margin-right: 5em }} .low {{ border-color: #4c72b0; margin-left: 5em }}
.right {{ color: #18733c }} .wrong {{ color: #b3262b }} h2 {{ border-top: 2px solid #bbb; padding-top: 1em }}
</style><h1>{title}</h1>
"""
SHADES = "<p>The redder a token, the less likely it was (point at it: its log-prob). ▪ ends a turn.</p>\n"


def shaded(turn, tokenizer):
    """The tokens of a turn as spans; a sign that several tokens spell stands in the last of them."""
    decoder, spans = codecs.getincrementaldecoder("utf-8")("replace"), []
    for id, logprob in zip(turn.tokens, turn.logprobs):
        raw, red = tokenizer.token_bytes(id), 0.7 * max(0.0, 1 - math.exp(logprob))
        text = html.escape(decoder.decode(raw)) if raw else "▪"
        spans.append(f'<span style="background:rgb(196 78 82/{red:.2f})" title="{logprob:.2f}">{text}</span>')
    return "".join(spans) + decoder.decode(b"", final=True)


def section(episode, tokenizer=None):
    """One episode as HTML."""
    row, said = episode.row, episode.answer or "(none)"
    name, problem, gold, given = [html.escape(str(value)) for value in (
        row.get("id", "problem"), row["problem"], row["answer"], said)]
    numbers = " ".join(str(number + 1) for number in episode.place[1:])
    parts = [f"<h2>{name}, sample {numbers}</h2>\n<pre>{problem}</pre>\n"]
    for turn in episode.turns:
        text = shaded(turn, tokenizer) if tokenizer else html.escape(turn.text.strip())
        parts.append(f"{LABELS.get(turn.agent, turn.agent)}{'' if turn.stopped else ' (cut off)'}\n"
                     f'<pre class="{turn.agent}">{text or "(nothing)"}</pre>\n')
    verdict = "right" if episode.correct else "wrong"
    return "".join(parts) + (f'<p><b class="{verdict}">{verdict}</b>: boxed answer <code>{given}</code>, '
                             f"gold answer <code>{gold}</code></p>\n")


def html_page(episodes, path, title="Episodes", tokenizer=None, which="all"):
    """Write rema.Episodes, scored, as one page: the first 100 of all of them, of the "right" or the "wrong".

    With a tokenizer, tokens are shaded by their log-probs.
    """
    chosen = [e for e in episodes if which in ("all", "right" if e.correct else "wrong")]
    head = HEAD.format(title=html.escape(title))
    head += f"<p>{min(100, len(chosen))} of {len(chosen)} episodes ({which}), of {len(episodes)} in all</p>\n"
    sections = "".join(section(episode, tokenizer) for episode in chosen[:100])
    page = head + SHADES * bool(tokenizer) + sections
    atomic_write(path, page.encode("utf-8", "replace"))      # a lone surrogate from a data set becomes a ?
