"""Word problems, for models that read English: one to three steps, about right for SmolLM2-135M-Instruct.

words.json has names, things and, by their number of steps, templates. In a text {A} and {B} are names, {s} and
{t} things, {x}, {y} and {z} numbers, for each of which the template says the lowest and the highest (0 for one
that does not occur); "answer" is what to compute, with * before + and -.
"""
import pathlib

from data.formats.files import read_json
from data.problems.arithmetic import right_plan, values

WORDS = read_json(pathlib.Path(__file__).with_name("words.json"))


def draw_story(rng, level: int):
    """(text, answer) of a word problem that takes `level` steps."""
    template = rng.choice(WORDS["templates"][str(level)])
    numbers = {}
    for name in "xyz":
        lowest, highest = template[name]
        numbers[name] = rng.randint(lowest, highest)
    person, other_person = rng.sample(WORDS["names"], 2)
    thing, other_thing = rng.sample(WORDS["things"], 2)
    text = template["text"].format(A=person, B=other_person, s=thing, t=other_thing, **numbers)
    formula = template["answer"].format(**numbers)
    return text, values(right_plan(formula))[-1]
