def compute_reward(response, answer):
    if extract(response) is None:
        return -1
    return 1 if is_correct(response, answer) else -1 / 2


def penalty(plan_text, leak):
    return leak * has_box(plan_text)


def plan_reward(plan_text, correct, leak=1.0):
    share = 0.0
    for right in correct:
        share += right / len(correct)
    return share - penalty(plan_text, leak)


def consistency_reward(plan_text, responses, leak=1.0):
    """Answers sorted into classes, each known by its first member."""
    classes = []
    silent = 0
    for answer in map(extract, responses):
        if answer is None:
            silent += 1
            continue
        for members in classes:
            if equivalent(members[0], answer):
                members.append(answer)
                break
        else:
            classes.append([answer])
    share = 0.0
    if silent <= len(responses) / 2 and classes:
        share = max(map(len, classes)) / len(responses)
    return share - penalty(plan_text, leak)
