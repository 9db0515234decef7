TOKEN = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.S)


def read_group(text, place, opening, boxes):
    """Reads from `place` to the brace that closes this group -> the place behind it; None at the end of the text."""
    while True:
        token = TOKEN.search(text, place)
        if token is None:
            return None
        place = token.end()
        if token[0] == "}":
            if opening is None:
                continue
            if opening[0] != "{":
                boxes.append((opening.start(), text[opening.end():token.start()].strip()))
            return place
        if token[0][-1] == "{" and token[0] != r"\{":
            place = read_group(text, place, token, boxes)
            if place is None:
                return None


def find_boxes(text: str) -> list:
    boxes = []
    read_group(text, 0, None, boxes)
    return boxes


def extract(response: str, lenient: bool = False):
    text = response[-MAX_RESPONSE:]
    contents = [content for _, content in find_boxes(text)]
    if contents:
        return contents.pop()
    if lenient:
        return find_stated_answer(text)
