"""Word problems, for models that read English: one to three steps, about right for SmolLM2-135M-Instruct.

words.json has the templates. In a text {A} and {B} are names, {s} and {t} things, {x}, {y} and {z} numbers, for
each of which the template says the lowest and the highest (one that does not occur is 0); "answer" is what to
compute, with * before + and -.
"""
import pathlib

from data.formats.files import read_json
from data.problems.arithmetic import right_plan, values

NAMES = "Anna Ben David Emma Felix Grace Henry Jack Kate Leo Maria Noah Olivia Paul Rosa Sam".split()
THINGS = "apples books pencils marbles stickers coins cards cookies shells balloons flowers stamps".split()
TEMPLATES = read_json(pathlib.Path(__file__).with_name("words.json"))["templates"]


def draw_story(rng, level: int):
    """(text, answer) of a word problem that takes `level` steps."""
    fitting = [template for template in TEMPLATES if template["steps"] == level]
    template = rng.choice(fitting)
    numbers = {}
    for name in "xyz":
        lowest, highest = template[name]
        numbers[name] = rng.randint(lowest, highest)
    person, other_person = rng.sample(NAMES, 2)
    thing, other_thing = rng.sample(THINGS, 2)
    text = template["text"].format(A=person, B=other_person, s=thing, t=other_thing, **numbers)
    formula = template["answer"].format(**numbers)
    return text, values(right_plan(formula))[-1]
