import torch


def center(values, index, unbiased):
    count = torch.bincount(index)
    sums = torch.zeros(len(count), dtype=torch.float64).index_add(0, index, values)
    if unbiased:
        others = (sums[index] - values) / (count[index] - 1)
        return values - torch.where(count[index] > 1, others, values)
    return values - (sums / count)[index]


def compute_advantages(values, groups, kind="grpo"):
    if not values:
        return []
    numbers = {}
    index = []
    for group in groups:
        index.append(numbers.setdefault("all" if kind == "reinforce++" else group, len(numbers)))
    index = torch.tensor(index)
    values = torch.tensor(values, dtype=torch.float64)
    same = torch.ones(len(numbers), dtype=torch.bool)
    for number in range(len(numbers)):
        own = values[index == number]
        same[number] = bool((own == own[0]).all())
    if kind == "rloo":
        result = center(values, index, True)
    else:
        result = center(values, index, False)
        if kind != "dr_grpo":
            for number in range(len(numbers)):
                if not same[number]:
                    result[index == number] /= values[index == number].std() + 1e-6
    result[same[index]] = 0.0
    return result.tolist()
