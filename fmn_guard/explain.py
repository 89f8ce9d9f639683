"""A rule of a policy in words: what is counted, what passes, how many pictures it takes, where its limit is written."""

from __future__ import annotations

import inspect

from . import metrics
from .errors import InputError
from .findings import BASE_MUST_SHOW, pictures_needed
from .policy import DISTANCES, DROPS, PER_CONCEPT, RESERVED, PolicySpec, Resolved, Rule, in_words
from .stats import newcombe_paired, percent, wilson


def explain(resolved: Resolved, rule_id: str) -> dict[str, str]:
    """Explains a rule, or a finding that comes with every policy, title by title.

    Raises:
        InputError: the policy has no such rule.
    """
    spec = resolved.policy.spec
    for i, rule in enumerate(spec.rules):
        if rule.id == rule_id:
            return _rule(rule, spec, resolved, i)
    if rule_id in RESERVED:
        return {rule_id: "comes with every policy", **_reserved(rule_id, spec)}
    known = ", ".join(rule.id for rule in spec.rules)
    raise InputError(
        f"policy {resolved.policy.metadata.name} has no rule {rule_id!r}",
        hint=f"its rules are: {known}; with every policy come: {', '.join(RESERVED)}",
    )


def _rule(rule: Rule, spec: PolicySpec, resolved: Resolved, i: int) -> dict[str, str]:
    field = "at_most" if rule.at_least is None else "at_least"
    said = {
        rule.id: f"{rule.words}, in policy {resolved.policy.metadata.name}",
        "Limit from": str(resolved.place("spec", "rules", i, field)),
        "Metric": _meaning(rule),
        "Applies to": _scope(rule),
        "Passes if": _passes(rule, spec),
        "Fails if": _fails(rule, spec),
        "Inconclusive if": _open(rule, spec),
        "Pictures": _pictures(rule, spec),
    }
    if rule.severity == "warning":
        said["Severity"] = "a warning: reported, and no part of the verdict"
    waivers = [w for w in spec.waivers if w.rule == rule.id]
    if waivers:
        said["Waived"] = "; ".join(f"{w.about} by {w.owner} until {w.expires}: {w.reason}" for w in waivers)
    return said


def _meaning(rule: Rule) -> str:
    """The first paragraph of what `fmn_guard.metrics` says of it."""
    text = inspect.getdoc(getattr(metrics, rule.metric)) or rule.metric
    return " ".join(text.split("\n\n")[0].split())


def _scope(rule: Rule) -> str:
    if rule.metric not in PER_CONCEPT:
        return "the whole model, once"
    return f"each concept and correction it is asked of{f', {rule.scope}' if rule.scope else ''}"


def _end(spec: PolicySpec, which: str) -> str:
    return f"the {which} end of the {100 * spec.confidence:g} % interval"


def _passes(rule: Rule, spec: PolicySpec) -> str:
    least_or_most = "at most" if rule.at_least is None else "at least"
    if rule.statistic == "point":
        return f"the bare value is {least_or_most} {in_words(rule.metric, rule.limit)}, chance not accounted for"
    bound = _end(spec, "upper" if rule.at_least is None else "lower")
    return f"{bound} is {least_or_most} {in_words(rule.metric, rule.limit)}"


def _fails(rule: Rule, spec: PolicySpec) -> str:
    beyond = "above" if rule.at_least is None else "below"
    if rule.statistic == "point":
        said = f"the bare value is {beyond} {in_words(rule.metric, rule.limit)}"
    else:
        bound = _end(spec, "lower" if rule.at_least is None else "upper")
        said = f"even {bound} is {beyond} {in_words(rule.metric, rule.limit)}"
    return f"{said}, or it is inconclusive" if rule.on_inconclusive == "fail" else said


def _open(rule: Rule, spec: PolicySpec) -> str:
    budget = spec.error_budget if rule.metric not in DISTANCES else 0.0  # nobody assumes a distance
    unscored = f"more than {percent(budget)} of the planned pictures have" if budget else None
    doubts = [f"{unscored or 'a planned picture has'} no score", f"fewer than {rule.min_samples} are scored"]
    if rule.metric in BASE_MUST_SHOW:
        doubts.insert(0, f"the base shows it in less than {percent(spec.base_shows_at_least)} of its pictures")
    if rule.metric == "nudenet_strict_rate":
        doubts.insert(0, "the base gives NudeNet nothing to see")
    if rule.statistic == "bound":
        doubts.insert(0, "the interval holds the limit")
    ends = "; here that is a fail" if rule.on_inconclusive == "fail" else ""
    return f"it does not fail, and {', or '.join(doubts)}{ends}"


def _pictures(rule: Rule, spec: PolicySpec) -> str:
    if rule.metric in DISTANCES:
        return f"at least {max(2, rule.min_samples)}; how many more depends on how much the pairs differ"
    n = pictures_needed(rule, spec)
    if n is None:
        return "no number of pictures proves this limit"
    missed = "lose it" if rule.metric in DROPS else "show it" if rule.at_least is None else "not show it"
    return f"at least {n}; of so few, {_most_missed(rule, spec, n) or 'none'} may {missed}"


def _most_missed(rule: Rule, spec: PolicySpec, n: int) -> int:
    """How many of n pictures may be on the wrong side, by the score interval alone."""
    margin = rule.limit if rule.at_least is None else 1 - rule.limit
    for k in range(n + 1):
        if rule.statistic == "point":
            bound = k / n
        elif rule.metric in DROPS:
            bound = newcombe_paired(n - k, k, 0, 0, spec.confidence).high
        else:
            bound = wilson(k, n, spec.confidence).high
        if bound > margin:
            return max(0, k - 1)
    return n


def _reserved(rule_id: str, spec: PolicySpec) -> dict[str, str]:
    match rule_id:
        case "no-effect":
            drop = percent(spec.no_effect_below)
            return {
                "Fails if": f"a concept that the base shows drops by at most {drop}, or all weights are the base's own"
            }
        case "collapse":
            kept, broken = percent(spec.collapse_below), percent(spec.collapse_degenerate)
            said = (
                f"retained recognition is below {kept} of the base's, or more than {broken} of the pictures are broken"
            )
            return {"Fails if": said}
        case "not-judged":
            return {"Inconclusive if": "no error rule limits how often a concept or correction is shown"}
        case "pinned-base":
            return {
                "Asked for": str(spec.evidence.pinned_base).lower(),
                "Inconclusive if": "the policy says true, and the manifest states no digest of its base",
                "Fails if": "the policy states a digest, and the base has another",
            }
        case "prompt-set":
            return {
                "Asked for": "every picture of a published prompt set that the suite asks",
                "Inconclusive if": "one of them is not scored on either side; what the set comes to is not judged",
            }
        case "tool-version":
            return {
                "Asked for": spec.evidence.tool_version or "no version",
                "Inconclusive if": "an older fmn-guard judges",
            }
        case _:
            return {"Fails if": "a waiver has expired, by the day of judging, and what it covers does not pass"}
