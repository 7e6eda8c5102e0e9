"""How far the ratios of two measurements lie apart: `python -m bench --repeat 2`."""

import statistics

from bench.report import table
from bench.runner import BASELINE, ratios

HEAD = ["workload", "contender", "ratio to stdlib", "lowest", "highest", "apart"]


def medians(measured):
    """{(workload, contender, what): median of the rounds' ratios to the stdlib}."""
    found = {}
    for workload, group in measured.items():
        base = group.get(BASELINE)
        for contender, series in group.items():
            if series is base or not (base and base.runs and series.runs):
                continue
            for what, values in (("speed" if series.is_load else "value", ratios(series, base)),
                                 ("CPU", series.cpu_ratios(base))):
                if values:
                    found[workload, contender, what] = statistics.median(values)
    return found


def differences(measurements):
    """[(apart, key, lowest, highest)] of what all measurements have, the largest first."""
    found = [medians(measured) for measured in measurements]
    keys = set.intersection(*map(set, found))
    both = ((key, min(each), max(each)) for key in keys
            for each in [[medians_of[key] for medians_of in found]])
    return sorted(((high / low - 1, key, low, high) for key, low, high in both if low > 0),
                  reverse=True)


def markdown(measurements):
    """The table, and the largest difference in a sentence."""
    found = differences(measurements)
    if not found:
        return "no ratio was measured in every repetition"
    rows = [[*key, f"{low:.3f}", f"{high:.3f}", f"{apart:.1%}"] for apart, key, low, high in found]
    (apart, key, _, _), *_ = found
    return f"{table(HEAD, rows)}\n\nlargest difference: {apart:.1%} ({' '.join(key)})"
