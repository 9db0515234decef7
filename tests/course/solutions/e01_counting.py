def match_braces(text):
    """Place of each { -> place of its }, sign by sign."""
    partners, waiting = {}, []
    i = 0
    while i < len(text):
        if text[i] == "\\":
            i += 1
        elif text[i] == "{":
            waiting.append(i)
        elif text[i] == "}" and waiting:
            partners[waiting.pop()] = i
        i += 1
    return partners


def find_boxes(text):
    partners = match_braces(text)
    found = []
    i = 0
    while i < len(text) - 1:
        if text[i] != "\\":
            i += 1
            continue
        word = next((word for word in ("boxed", "fbox") if text[i + 1:].startswith(word)), "")
        brace = i + 1 + len(word)
        while word and brace < len(text) and text[brace].isspace():
            brace += 1
        if word and brace in partners:
            found.append((partners[brace], i, text[brace + 1:partners[brace]].strip()))
        i += 2
    return [box[1:] for box in sorted(found)]


def extract(response, lenient=False):
    seen = response if len(response) <= MAX_RESPONSE else response[len(response) - MAX_RESPONSE:]
    for _, content in reversed(find_boxes(seen)):
        return content
    return find_stated_answer(seen) if lenient else None
