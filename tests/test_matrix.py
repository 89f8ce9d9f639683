"""The concept x pass matrix: counts of single pictures, what came back, and what must not be believed."""

from __future__ import annotations

from typing import Any

import pytest

from fmn_guard.errors import BrokenChain
from fmn_guard.evidence import Audit, MatrixCell, PassMatrix
from fmn_guard.gathered import gather
from fmn_guard.matrix import in_brief, pass_matrix, rebounds
from fmn_guard.plan import Plan
from fmn_guard.probes import Probe
from fmn_guard.report import judge

from .builder import between, forget, forgotten, looked_between, make_audit, make_plan, make_policy, probes

PLAN = between(
    make_plan(
        forget("ada-thorne", "identity"),
        forget("pistol", "object", "gun"),
        forget("the-captain", "correction"),
        asked=(
            *probes("target", "ada-thorne", 36),
            *probes("target", "pistol", 36),
            *probes("alias", "pistol", 12, name="gun"),
            *probes("correction", "the-captain", 36, "concept:bruno", "concept:cleo"),
            *probes("retained", "dog", 20),
            *probes("retained", "panda", 20, held_out=True),
        ),
    )
)


def held(probe: Probe, done: int) -> bool:
    """Between passes all is as it should be."""
    return probe.role == "retained"


def back(probe: Probe, done: int) -> bool:
    """After the second pass two of six pictures show the person again, and one dog is lost."""
    if done == 2 and probe.subject == "ada-thorne":
        return probe.seed < 12
    return held(probe, done) and not (done == 2 and probe.subject == "dog" and probe.seed == 0)


def audited(then: Any = held) -> Audit:
    return looked_between(PLAN, make_audit(PLAN, forgotten), then)


def matrix_of(audit: Audit) -> PassMatrix:
    assert audit.matrix is not None
    return audit.matrix


def cells(matrix: PassMatrix) -> dict[str, list[tuple[int, int] | None]]:
    rows = (*matrix.concepts, matrix.retained)
    return {row.name: [cell and (cell.shown, cell.n) for cell in (row.base, *row.after)] for row in rows}


def test_each_cell_counts_the_pictures_of_its_concept_after_its_pass() -> None:
    assert cells(matrix_of(audited(back))) == {
        "ada-thorne": [(36, 36), (0, 6), (2, 6), (0, 36)],
        "pistol": [(36, 36), None, (0, 6), (0, 36)],
        "the-captain": [(36, 36), None, None, (0, 36)],
        "retained": [(40, 40), (10, 10), (9, 10), (40, 40)],
    }


def test_picture_without_a_score_is_in_no_cell() -> None:
    looks = audited().between
    first = looks[0].observations[0].model_copy(update={"unscored": "picture is constant", "scores": {}})
    spoiled = (looks[0].model_copy(update={"observations": (first, *looks[0].observations[1:])}), looks[1])
    counted = pass_matrix(gather(PLAN, audited()), spoiled)
    assert counted is not None
    assert counted.concepts[0].after[0] == MatrixCell(shown=0, n=5)


def test_share_of_nothing_scored_is_no_share() -> None:
    assert MatrixCell(shown=0, n=0).share is None
    assert MatrixCell(shown=1, n=4).share == 0.25


def test_concept_that_comes_back_is_named_with_its_pictures_and_the_pass_after_which_it_did() -> None:
    (found,) = rebounds(matrix_of(audited(back)))
    assert found.words == (
        "Rebound: ada-thorne was shown in 0 of 6 pictures after its own pass, in 2 of 6 after pistol."
    )
    report = judge(PLAN, audited(back), make_policy())
    assert found.words in report.warnings


def test_rebound_in_the_full_audit_is_one_too() -> None:
    drawn = make_audit(PLAN, lambda p, side, label: forgotten(p, side, label) or (p.subject == "pistol" and p.seed < 3))
    (found,) = rebounds(matrix_of(looked_between(PLAN, drawn, held)))
    assert found.words.endswith("0 of 6 pictures after its own pass, in 3 of 36 after the-captain.")


def test_what_stays_forgotten_or_fades_is_no_rebound() -> None:
    def fades(probe: Probe, done: int) -> bool:
        return held(probe, done) or (done == 1 and probe.subject == "ada-thorne")

    assert list(rebounds(matrix_of(audited()))) == list(rebounds(matrix_of(audited(fades)))) == []


def test_matrix_changes_no_finding_and_no_verdict() -> None:
    with_it, without = (judge(PLAN, audit, make_policy()) for audit in (audited(back), make_audit(PLAN, forgotten)))
    assert (with_it.verdict, with_it.findings) == (without.verdict, without.findings)
    assert without.matrix is None


def test_brief_names_what_came_back_and_the_least_of_the_retained() -> None:
    assert in_brief(matrix_of(audited(back))) == (
        "Over the passes: rebound of ada-thorne; of the retained at least 90.0 % of 10."
    )
    assert in_brief(matrix_of(audited())).startswith("Over the passes: no rebound; of the retained at least 100.0 %")


@pytest.mark.parametrize(
    "change",
    [
        lambda audit: {"matrix": None},
        lambda audit: {"matrix": matrix_of(audited(back))},
        lambda audit: {"between": audit.between[:1]},
        lambda audit: {"between": audit.between[::-1]},
        lambda audit: {"between": ()},
    ],
)
def test_matrix_that_is_not_what_the_pictures_come_to_is_refused(change: Any) -> None:
    audit = audited()
    with pytest.raises(BrokenChain):
        judge(PLAN, audit.model_copy(update=change(audit)), make_policy())


def test_audit_without_looks_has_the_digest_it_had_before_there_was_a_matrix() -> None:
    dumped = make_audit(PLAN, forgotten).model_dump(mode="json")
    assert "between" not in dumped
    assert "matrix" not in dumped
    assert "between" not in make_plan().model_dump(mode="json")


def test_plan_with_looks_has_another_digest() -> None:
    plain: Plan = PLAN.model_copy(update={"between": ()})
    assert plain.digest != PLAN.digest
