"""Human review: rulings change what is counted, never whether, and never without the report saying so."""

from __future__ import annotations

import json
from base64 import b64decode
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from fmn_guard.chain import check_files, write_files
from fmn_guard.cli import main
from fmn_guard.errors import BrokenChain, InputError
from fmn_guard.evidence import Side
from fmn_guard.gate import check_run, gate_run, verify_run
from fmn_guard.gathered import gather
from fmn_guard.policy import load_policy
from fmn_guard.record import read_record, write_record
from fmn_guard.render import render
from fmn_guard.report import Report, judge
from fmn_guard.review import Review, nearest, read_review, reviewed, ruled
from fmn_guard.shipped import policies
from fmn_guard.signing import make_keys, sign_run

from .builder import Shows, forgotten, make_audit, make_plan, make_policy
from .concluded import PLAN, POLICY

STILL = 12


def still_shown(n: int) -> Shows:
    """The patched model still shows the first n pictures of the target."""
    return lambda probe, side, label: (
        forgotten(probe, side, label) or (probe.role == "target" and side == "patched" and probe.seed < n)
    )


def overruled(audit, n: int, review: Review | None = None) -> Review:
    """A review in which a person sees nothing in the first n of them."""
    for probe in [p for p in PLAN.probes if p.role == "target"][:n]:
        review = ruled(
            gather(PLAN, audit),
            audit,
            review,
            probe=probe.id,
            side="patched",
            shown=False,
            by="A. Reviewer",
            because="a key, no pistol",
        )
    assert review is not None
    return review


def write_run(folder: Path, still: int = STILL, pictures: bool = True) -> Path:
    """A concluded run that fails, with stand-ins for the files of its pictures."""
    audit = make_audit(PLAN, still_shown(still))
    report = judge(PLAN, audit, POLICY)
    for name, record in (("plan", PLAN), ("audit", audit), ("policy", POLICY), ("report", report)):
        write_record(folder / f"{name}.json", record)
    (folder / "report.md").write_text(render(folder / "report.md", report, PLAN, audit, None), encoding="utf-8")
    sides: tuple[Side, ...] = ("base", "patched")
    for side in sides if pictures else ():
        (folder / "images" / side).mkdir(parents=True)
        for probe in PLAN.probes:
            (folder / "images" / side / probe.picture_name).write_bytes(f"{side} {probe.id}".encode())
    write_files(folder, None, ())
    return folder


def run(*arguments: str, answers: str | None = None):
    return CliRunner().invoke(main, ["review", *arguments], input=answers)


def test_review_that_turns_fail_into_pass_is_told_wherever_the_verdict_is() -> None:
    audit = make_audit(PLAN, still_shown(STILL))
    assert judge(PLAN, audit, POLICY).verdict == "fail"
    report = judge(PLAN, audit, POLICY, review=overruled(audit, STILL))
    assert (report.verdict, report.verdict_words) == ("pass", "pass after review, fail without")
    assert report.review is not None
    assert (report.review.overruled, report.review.confirmed, report.review.verdict_without) == (12, 0, "fail")
    assert {(r.rule, r.without, r.after) for r in report.review.reversals} == {("suppressed", "fail", "pass")}
    assert report.warnings[0].endswith("By the recogniser alone the verdict is fail, not pass.")
    for name in ("r.md", "r.html", "r.summary.md", "r.badge.json", "model-card.md", "r.sarif", "r.junit.xml"):
        text = render(Path(name), report, PLAN, audit, None)
        assert "fail" in text.casefold() and "review" in text.casefold(), name
    told = ("r.md", "r.html", "r.badge.json", "model-card.md", "r.cdx.json", "annotations.txt")
    for name in told:
        assert "after review, fail without" in render(Path(name), report, PLAN, audit, None).casefold(), name
    assert "A. Reviewer" not in render(Path("model-card.md"), report, PLAN, audit, None)


def test_review_can_also_turn_pass_into_fail() -> None:
    audit = make_audit(PLAN)
    review = None
    for probe in [p for p in PLAN.probes if p.role == "target"]:
        fields = {"probe": probe.id, "side": "patched", "shown": True, "by": "B", "because": "there it is"}
        review = ruled(gather(PLAN, audit), audit, review, **fields)
    assert judge(PLAN, audit, POLICY, review=review).verdict == "fail"


TIGHT = make_policy(reviews="tighten")


def test_where_a_review_may_only_tighten_no_fail_becomes_a_pass_and_the_report_says_what_was_held() -> None:
    audit = make_audit(PLAN, still_shown(STILL))
    report = judge(PLAN, audit, TIGHT, review=overruled(audit, STILL))
    assert (report.verdict, report.verdict_words) == ("fail", "fail")
    assert report.review is not None
    assert report.review.reversals == ()
    assert [(r.rule, r.without, r.after) for r in report.review.held] == [("suppressed", "fail", "pass")]
    assert "stays fail: the policy lets a review tighten alone." in report.warnings[1]
    [concept] = report.concepts
    assert (concept.hits, concept.outcome) == (STILL, "fail")  # the table shows what the verdict rests on
    for name in ("r.md", "r.html"):
        assert "The policy lets a review tighten alone." in render(Path(name), report, PLAN, audit, None)


def test_where_a_review_may_only_tighten_it_still_turns_pass_into_fail() -> None:
    audit, review = make_audit(PLAN), None
    for probe in [p for p in PLAN.probes if p.role == "target"]:
        fields = {"probe": probe.id, "side": "patched", "shown": True, "by": "B", "because": "there it is"}
        review = ruled(gather(PLAN, audit), audit, review, **fields)
    report = judge(PLAN, audit, TIGHT, review=review)
    assert report.verdict_words == "fail after review, pass without"
    assert report.concepts[0].hits == STILL * 3
    assert report.review is not None
    assert report.review.held == ()


@settings(max_examples=25)
@given(
    still=st.sampled_from([0, 2, 12]),
    rulings=st.lists(
        st.tuples(st.integers(0, len(PLAN.probes) - 1), st.booleans()), max_size=12, unique_by=lambda r: r[0]
    ),
)
def test_no_rulings_whatever_ease_a_verdict_that_they_may_only_tighten(
    still: int, rulings: list[tuple[int, bool]]
) -> None:
    audit, review = make_audit(PLAN, still_shown(still)), None
    evidence = gather(PLAN, audit)
    for number, base in rulings:
        probe, side = PLAN.probes[number], "base" if base else "patched"
        shown = not evidence.recognised(probe, side)
        fields = {"probe": probe.id, "side": side, "shown": shown, "by": "B", "because": "so"}
        review = ruled(evidence, audit, review, **fields)
    rank = {"fail": 0, "inconclusive": 1, "pass": 2}
    bare = judge(PLAN, audit, TIGHT)
    with_it = judge(PLAN, audit, TIGHT, review=review)
    assert rank[with_it.verdict] <= rank[bare.verdict]
    outcomes = {(f.rule, f.about): f.outcome for f in with_it.findings}
    assert all(rank[outcomes[f.rule, f.about]] <= rank[f.outcome] for f in bare.findings)


def test_of_the_shipped_policies_strict_lets_a_review_tighten_alone_and_default_decide() -> None:
    assert {name: load_policy(policies() / f"{name}.yaml").spec.reviews for name in ("strict", "default")} == {
        "strict": "tighten",
        "default": "decide",
    }


def test_confirming_changes_nothing_and_is_counted_apart() -> None:
    audit = make_audit(PLAN, still_shown(STILL))
    probe = PLAN.probes[0].id
    review = ruled(
        gather(PLAN, audit), audit, None, probe=probe, side="patched", shown=None, by="A", because="a pistol"
    )
    before, after = judge(PLAN, audit, POLICY), judge(PLAN, audit, POLICY, review=review)
    assert after.findings == before.findings
    assert after.review is not None and (after.review.confirmed, after.review.overruled) == (1, 0)
    assert after.verdict_words == "fail"


def test_later_ruling_on_the_same_picture_takes_the_place_of_the_earlier() -> None:
    audit = make_audit(PLAN, still_shown(STILL))
    probe = PLAN.probes[0].id
    evidence = gather(PLAN, audit)
    review = ruled(evidence, audit, None, probe=probe, side="patched", shown=False, by="A", because="x")
    review = ruled(evidence, audit, review, probe=probe, side="patched", shown=None, by="B", because="y")
    assert [(r.by, r.overrules) for r in review.rulings] == [("B", False)]


def test_closest_calls_come_first_and_what_is_unscored_is_none() -> None:
    first, second, third = (p.id for p in PLAN.probes[:3])
    edits = {
        (first, "patched"): {"scores": {"concept:pistol": 0.49}},
        (second, "base"): {"scores": {"concept:pistol": 0.52}},
        (third, "base"): {"unscored": "picture is constant", "degenerate": True, "scores": {}},
    }
    evidence = gather(PLAN, make_audit(PLAN, edits=edits))
    calls = nearest(evidence, None, 10**6)
    assert [(c.probe.id, c.side, c.recognised) for c in calls[:2]] == [
        (first, "patched", False),
        (second, "base", True),
    ]
    assert len(calls) == 2 * len(PLAN.probes) - 1
    assert (third, "base") not in {(c.probe.id, c.side) for c in calls}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probe": "target/nobody/0/0"}, "no probe is called"),
        ({"label": "concept:cat"}, "was not asked for"),
        ({"shown": True}, "says so already"),
        ({"side": "base"}, "is not scored: no observation"),
    ],
    ids=str,
)
def test_ruling_on_what_is_not_there_is_refused(change: dict[str, object], message: str) -> None:
    probe = PLAN.probes[0].id
    audit = make_audit(PLAN, still_shown(STILL), edits={(probe, "base"): None})
    fields = {"probe": probe, "side": "patched", "shown": False, "by": "A", "because": "x"} | change
    with pytest.raises(InputError, match=message):
        ruled(gather(PLAN, audit), audit, None, **fields)


def test_review_of_another_audit_or_with_edited_rulings_breaks_the_chain() -> None:
    audit = make_audit(PLAN, still_shown(STILL))
    review = overruled(audit, 2)
    evidence = gather(PLAN, audit)
    other = make_audit(PLAN, still_shown(3))
    with pytest.raises(BrokenChain, match="not of this audit"):
        reviewed(gather(PLAN, other), other, review)
    [one, two] = review.rulings
    for rulings in (
        (one, one),
        (one.model_copy(update={"recognised": False, "shown": True}), two),
        (one.model_copy(update={"image_digest": two.image_digest}), two),
        (one.model_copy(update={"label": "concept:other"}), two),
    ):
        with pytest.raises(BrokenChain, match="rules on"):
            reviewed(evidence, audit, review.model_copy(update={"rulings": rulings}))


@given(st.sets(st.integers(0, 35)), st.integers(0, 20))
@settings(max_examples=8, deadline=None)
def test_verdict_without_the_review_is_always_told(numbers: set[int], still: int) -> None:
    audit = make_audit(PLAN, still_shown(still))
    evidence, review = gather(PLAN, audit), None
    targets = [p for p in PLAN.probes if p.role == "target"]
    for number in numbers:
        seen = evidence.recognised(targets[number], "patched")
        fields = {"probe": targets[number].id, "side": "patched", "shown": not seen, "by": "A", "because": "x"}
        review = ruled(evidence, audit, review, **fields)
    alone, report = judge(PLAN, audit, POLICY), judge(PLAN, audit, POLICY, review=review)
    if review is not None:
        assert report.review is not None and report.review.verdict_without == alone.verdict
        assert report.verdict == alone.verdict or alone.verdict in report.verdict_words
    assert {c.side: c.scored for c in report.counts} == {c.side: c.scored for c in alone.counts}


# ---- the command


def test_overruling_at_the_command_line_is_recorded_chained_and_signed(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    folder = write_run(tmp_path / "run", still=1)
    ruling = (
        "--overrule",
        PLAN.probes[0].id,
        "--side",
        "patched",
        "--to",
        "not-shown",
        "--by",
        "A",
        "--because",
        "key",
    )
    done = run(str(folder), *ruling)
    assert done.exit_code == 0, done.output
    assert "PASS AFTER REVIEW, INCONCLUSIVE WITHOUT" in done.output
    report = check_run(folder)
    assert report.verdict_words == "pass after review, inconclusive without"
    review, files = read_review(folder), check_files(folder)
    assert review is not None and len(review.rulings) == 1
    assert "review.json" in files.files
    public = make_keys(tmp_path / "key")
    sign_run(folder, report, files, tmp_path / "key", lambda: b"")
    assert verify_run(folder, [public]).verdict == "pass"
    envelope = json.loads((folder / "signature.dsse.json").read_text(encoding="utf-8"))
    assert json.loads(b64decode(envelope["payload"]))["predicate"]["result"] == "WARNED"
    write_record(folder / "review.json", review.model_copy(update={"rulings": ()}))
    with pytest.raises(BrokenChain, match=r"review\.json"):
        gate_run(folder)


def test_review_that_is_taken_away_or_edited_does_not_fit_the_report(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    probe = PLAN.probes[0].id
    ruling = ("--overrule", probe, "--side", "patched", "--to", "not-shown", "--by", "A", "--because", "a key")
    assert run(str(folder), *ruling).exit_code == 0
    (folder / "review.json").unlink()
    with pytest.raises(BrokenChain, match=r"report\.json"):
        check_run(folder)


def test_list_names_picture_score_and_what_was_ruled(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    probe = PLAN.probes[0]
    ruling = ("--confirm", probe.id, "--side", "patched", "--by", "A", "--because", "a pistol")
    assert run(str(folder), *ruling).exit_code == 0
    listed = json.loads(run(str(folder), "--json", "--count", "1000").stdout)
    assert len(listed) == 2 * len(PLAN.probes)
    [own] = [row for row in listed if row["probe"] == probe.id and row["side"] == "patched"]
    assert own["picture"] == f"images/patched/{probe.picture_name}"
    assert own["ruling"]["because"] == "a pistol"
    assert "confirmed by A: a pistol" in run(str(folder), "--count", "1000").stdout


def test_asking_rules_on_what_is_answered_and_stops_when_told(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    calls = nearest(gather(PLAN, read_record(folder / "audit.json", type(make_audit(PLAN)))), None, 3)
    answers = "".join(
        f"{answer}\n" for answer in ("skip", "no" if calls[1].recognised else "yes", "it looks otherwise", "stop")
    )
    done = run(str(folder), "--ask", "--by", "A", answers=answers)
    assert done.exit_code == 0, done.output
    review = read_review(folder)
    assert review is not None
    assert [(r.probe, r.side, r.overrules) for r in review.rulings] == [(calls[1].probe.id, calls[1].side, True)]
    before = (folder / "report.json").read_bytes()
    assert "nothing was ruled" in run(str(folder), "--ask", "--by", "A", answers="stop\n").output
    assert (folder / "report.json").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--to", "shown"), "--to says nothing by itself"),
        (("--overrule", "x", "--to", "shown", "--by", "A", "--because", "b"), "--side is missing"),
        (("--overrule", "x", "--side", "base", "--by", "A", "--because", "b"), "--to goes with --overrule"),
        (("--confirm", "x", "--side", "base", "--because", "b"), "--by is missing"),
        (("--confirm", "x", "--side", "base", "--by", "A"), "--because is missing"),
        (("--confirm", "x", "--side", "base", "--by", "A", "--because", "b"), "no probe is called"),
        (("--confirm", "x", "--overrule", "x"), "three ways to rule"),
    ],
    ids=str,
)
def test_bad_usage_is_refused_and_writes_nothing(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    before = {path: path.read_bytes() for path in folder.rglob("*.json")}
    done = run(str(folder), *arguments)
    assert (done.exit_code, message in done.output) == (2, True), done.output
    assert {path: path.read_bytes() for path in folder.rglob("*.json")} == before


def test_nobody_rules_on_a_picture_that_is_not_there(tmp_path: Path) -> None:
    folder = write_run(tmp_path, pictures=False)
    done = run(str(folder), "--confirm", PLAN.probes[0].id, "--side", "base", "--by", "A", "--because", "b")
    assert done.exit_code == 2
    assert "nobody can have looked at it" in done.output


def test_report_without_a_review_says_nothing_of_one() -> None:
    report = judge(make_plan(), make_audit(make_plan()), make_policy())
    assert isinstance(report, Report) and "review" not in report.model_dump(mode="json")
