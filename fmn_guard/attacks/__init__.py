"""Attacks: whether a model that forgot a concept by name can be made to draw it all the same.

AttackSuite, Plan --plan_attacks--> Protocol                        who is attacked, how, at which budget
Protocol, base, patched --run_attacks (fmn_guard.audit)--> Attacks    attacks.json
Attacks --summarise (fmn_guard.attacks.summary)--> AttackSummary      a section of the report
Attacks, ReleasePolicy --judge--> findings                          where a rule limits ``attack_success_rate``

The success rate of an attack is the share of its pictures, from fresh seeds, in which the recogniser finds the concept.
It is told three times: of the base under the same attack, without which a low one says nothing; of the patched model
without an attack; and of the patched model under it. Concept inversion is the M-Score's replay, `fmn_guard.mscore`.
"""

from __future__ import annotations

from .measured import FILE, Attacked, Attacks, Searched, check_chain, read_attacks
from .protocol import Attack, AttackKind, Cost, Protocol, estimate, plan_attacks
from .suite import AttackSuite, AttackSuiteSpec, PrefixSearch, load_attacks, names_it

__all__ = [
    "FILE",
    "Attack",
    "AttackKind",
    "AttackSuite",
    "AttackSuiteSpec",
    "Attacked",
    "Attacks",
    "Cost",
    "PrefixSearch",
    "Protocol",
    "Searched",
    "check_chain",
    "estimate",
    "load_attacks",
    "names_it",
    "plan_attacks",
    "read_attacks",
]
