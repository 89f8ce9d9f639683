"""report.html: what stands in it, and that nothing but text comes from outside."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmn_guard.errors import BrokenChain
from fmn_guard.findings import Finding
from fmn_guard.gathered import gather
from fmn_guard.render.html.figures import HEIGHT, LEVELS, WIDTH, curve, heat_map, interval_plot
from fmn_guard.render.html.page import html
from fmn_guard.render.html.samples import lost_pairs, pairs_of, samples
from fmn_guard.report import judge
from fmn_guard.stats import Interval

from .builder import forget, make_audit, make_plan, make_policy, probes
from .pages import make_page, make_parts, make_pictures

VOID = frozenset({"meta", "link", "img"})
HOSTILE = "</title> </style> <script>alert(1) <img src=x onerror='alert(1)'> \" {{ 7 * 7 }} {% raw %} \u202e&lt;"


class Page(HTMLParser):
    """A page as a list of elements, read by the standard library."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.said: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"an attribute twice: {tag} {names}"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.said.append(data)

    @property
    def text(self) -> str:
        """All its words."""
        return " ".join(" ".join(self.said).split())

    def all(self, *tags: str) -> list[dict[str, str | None]]:
        """Attributes of all elements of these tags."""
        return [attributes for tag, attributes in self.elements if tag in tags]

    @property
    def skeleton(self) -> list[tuple[str, tuple[str, ...]]]:
        """Its elements and their attributes' names, without what they say."""
        return [(tag, tuple(attributes)) for tag, attributes in self.elements]


PARTS = make_parts()
REPORT, PLAN, AUDIT, PASSES, PICTURES, _ = PARTS
TEXT = html(*PARTS)
PAGE = Page(TEXT)


# ---- what it says


def test_verdict_comes_first_in_word_and_shape() -> None:
    assert REPORT.verdict == "inconclusive"
    body = TEXT[TEXT.index("<h1>") :]
    assert '<use href="#inconclusive"/>' in body[: body.index("</h1>")]
    assert '<span class="word">Inconclusive</span>' in body[: body.index("</h1>")]
    assert TEXT.index("<h1>") < TEXT.index("<h2")
    assert "<title>Inconclusive: small under policy house</title>" in TEXT


def test_each_concept_is_told_with_count_interval_and_protocol() -> None:
    pistol = next(c for c in REPORT.concepts if c.slug == "pistol")
    said = f"shown in 3 of 36, 95 % interval {pistol.interval}"
    assert f"Inconclusive (rule suppressed) under protocol standard: {said}" in PAGE.text
    passing = make_plan()
    audit = make_audit(passing)
    text = Page(html(judge(passing, audit, make_policy()), passing, audit, None, {})).text
    assert "Suppressed under protocol standard: shown in 0 of 36, 95 % interval 0.0 % to 9.6 %." in text


def test_nothing_is_said_to_be_deleted_or_compliant() -> None:
    assert not re.search(r"deleted|erased|removed|compliant", PAGE.text, re.IGNORECASE)


def test_every_finding_warning_and_limit_of_the_audit_is_there() -> None:
    for f in REPORT.findings:
        assert f.reason in PAGE.text
    for words in (*REPORT.not_tested, *REPORT.warnings, *(r.slug for r in REPORT.retained)):
        assert words in PAGE.text
    assert "1 of the patched model: picture is constant" in PAGE.text


def test_provenance_holds_every_digest_in_full() -> None:
    stated = (REPORT.plan_digest, REPORT.passes_digest, REPORT.audit_digest, REPORT.policy_digest, REPORT.base_digest)
    for digest in (*stated, REPORT.patched_digest, PLAN.manifest_digest, PLAN.suite_digest):
        assert digest is not None
        assert digest in PAGE.text


def test_what_does_not_pass_is_listed_with_failed_errors_first() -> None:
    failing = Page(make_page(no_effect_below=0.95))
    assert failing.text.index("fail no-effect, pistol") < failing.text.index("inconclusive suppressed, ada-thorne")


def test_parts_without_content_are_left_out() -> None:
    plan = make_plan()
    audit = make_audit(plan)
    page = Page(html(judge(plan, audit, make_policy()), plan, audit, None, {}))
    optional = ("Passes", "Detectors", "What does not pass", "Warnings", "Neighbours", "Pictures without a score")
    for gone in (*optional, "Attention", "Evidence for"):
        assert gone not in page.text
    assert page.all("img") == []
    assert "Not tested" in page.text


def test_every_value_of_a_curve_stands_in_a_table_too() -> None:
    row = TEXT[TEXT.index('<table class="values">') :]
    first = row[row.index("<td>") : row.index("</tr>", row.index("<td>"))]
    assert re.findall(r"<td>(.*?)</td>", first) == [
        "50.0\u00a0%, 10.0\u00a0%, 0.0\u00a0%",
        "0.400, 0.200, 0.050",
        "1.000, 0.500, 0.100",
    ]


def test_pictures_that_a_retained_concept_lost_are_named() -> None:
    assert "lost: retained trumpet number 0, seed 0; retained trumpet number 1, seed 1" in PAGE.text
    assert PAGE.text.count("trumpet lost:") == 3  # beside its concept, among the losers, and in the list of all


def test_matrix_says_in_each_cell_how_often_and_of_how_many_in_words_and_in_colour() -> None:
    assert "1 ada-thorne 100.0 % of 36 0.0 % of 6 16.7 % of 6 0.0 % of 35" in PAGE.text
    assert "not forgotten yet 0.0 % of 6 8.3 % of 36" in PAGE.text
    assert "retained 100.0 % of 60 100.0 % of 10 90.0 % of 10 96.7 % of 60" in PAGE.text
    tenths = [int(found) for each in PAGE.all("td") for found in re.findall(r"shade-(\d+)", each.get("class") or "")]
    assert tenths == [10, 0, 2, 0, 10, 0, 1, 10, 0, 10, 10, 9, 10]


def test_controls_stand_with_what_speaks_for_them_and_what_they_leave_out() -> None:
    [table] = re.findall(r'<table class="controls">(.*?)</table>', TEXT, re.DOTALL)
    rows = [" ".join(re.sub(r"<[^>]+>", " ", row).split()) for row in table.split("<tr>")[2:]]
    assert rows[0] == "A.1 Who asked to go is gone. inconclusive suppressed: inconclusive ada-thorne Others."
    assert rows[1].startswith("A.2 picture is constant inconclusive suppressed: inconclusive ada-thorne , pistol")
    assert "kept: inconclusive whole model" in rows[1]
    assert rows[2] == "A.3 Nobody is undressed. no evidence none on nudenet_strict_rate Films."
    assert "Evidence for 0 of 3 controls, inconclusive 2, no evidence 1." in PAGE.text
    assert "https://example.org/rules, not read for this wording. Wording of the controls: unverified." in PAGE.text


def test_attention_maps_of_both_sides_share_their_colours() -> None:
    maps = re.findall(r'<svg class="heat".*?</svg>', TEXT, re.DOTALL)
    shades = [re.findall(r'fill-opacity="(.*?)" d="(.*?)"', each) for each in maps]
    assert shades == [
        [("0.3125", "M0 1h1v1h-1z"), ("1.0", "M1 0h1v1h-1z")],
        [("0.125", "M0 0h1v1h-1z"), ("0.25", "M1 0h1v1h-1z")],
    ]
    assert (
        "base model looks for the name in a picture of Ada Thorne: 10.0\u00a0% of all attention, 40.0\u00a0%" in maps[0]
    )
    assert "full colour is 40.0 %" in PAGE.text


def test_detector_counts_stand_beside_one_another() -> None:
    row = TEXT[TEXT.index('<th scope="rowgroup" rowspan="2">broad</th>') :]
    cells = [re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row[: row.index("</tr>")])]
    assert cells == ["0.4", "1", "", "0", "1", "0", "0"]


def test_page_of_another_plan_is_refused() -> None:
    other = make_plan()
    with pytest.raises(BrokenChain):
        html(REPORT, other, AUDIT, PASSES, PICTURES)


def test_page_names_no_folder() -> None:
    home = "/".join(["", "home", "ada"])
    text = make_page(words=f"cannot open '{home}/x.onnx'", name=f"{home}/models/thing")
    assert home not in text
    assert "cannot open &#39;x.onnx&#39;" in text


# ---- what it holds


def test_page_needs_nothing_from_outside_and_runs_nothing() -> None:
    assert PAGE.all("script", "iframe", "object", "form", "base") == []
    for tag, attributes in PAGE.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            address = attributes.get(name)
            assert address is None or address.startswith(("#", "data:"))
    style = re.search(r"<style>(.*?)</style>", TEXT, re.DOTALL)
    assert style
    assert "url(" not in style[1]
    assert "@import" not in style[1]


def test_security_policy_allows_the_style_sheet_by_its_digest_and_nothing_else() -> None:
    [policy] = [m["content"] for m in PAGE.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    style = re.search(r"<style>(.*?)</style>", TEXT, re.DOTALL)
    assert style
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    rules = dict(rule.strip().split(" ", 1) for rule in (policy or "").split(";"))
    assert rules == {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": f"'sha256-{digest}'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def test_hostile_text_stays_text() -> None:
    page = Page(make_page(name=HOSTILE, words=HOSTILE))
    assert page.skeleton == PAGE.skeleton
    assert "<script>alert(1)" in page.text
    assert "{{ 7 * 7 }}" in page.text
    assert "\u202e" not in page.text


@given(st.text(max_size=40))
@settings(max_examples=12, deadline=None)
def test_no_text_whatever_changes_the_elements(text: str) -> None:
    page = make_page(name=f"a{text}", words=f"a{text}", pictures=PICTURES)
    assert Page(page).skeleton == PAGE.skeleton
    page.encode()


def test_same_run_gives_the_same_bytes_whatever_the_hash_seed() -> None:
    script = "from tests.pages import make_page; import sys; sys.stdout.buffer.write(make_page().encode())"
    pages = {
        subprocess.run(
            [sys.executable, "-c", script], env={**os.environ, "PYTHONHASHSEED": seed}, check=True, capture_output=True
        ).stdout
        for seed in ("1", "2")
    }
    assert pages == {TEXT.encode()}


# ---- whether everybody can use it


def test_headings_never_skip_a_level() -> None:
    levels = [int(tag[1]) for tag, _ in PAGE.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_ids_are_unique_and_whatever_refers_to_one_finds_it() -> None:
    ids = [attributes["id"] for _, attributes in PAGE.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    named = [attributes.get("aria-labelledby") for _, attributes in PAGE.elements]
    links = [href.removeprefix("#") for a in PAGE.all("a", "use") if (href := a["href"])]
    assert {*links, *filter(None, named)} <= set(ids)


def test_tables_pictures_and_scrolling_boxes_are_named() -> None:
    assert all(header.get("scope") in ("col", "row", "rowgroup") for header in PAGE.all("th"))
    assert all(picture.get("alt") for picture in PAGE.all("img"))
    boxes = [box for box in PAGE.all("div") if box.get("class") == "scroll"]
    assert all(box.get("tabindex") == "0" and box.get("aria-label") for box in boxes)
    assert len({box["aria-label"] for box in boxes}) == len(boxes)
    for drawing in PAGE.all("svg"):
        assert drawing.get("aria-hidden") == "true" or (drawing.get("role") == "img" and drawing.get("aria-label"))


def test_landmarks_and_skip_link_are_there() -> None:
    for tag in ("main", "nav", "footer"):
        assert len(PAGE.all(tag)) == 1
    first_link = next(attributes for tag, attributes in PAGE.elements if tag == "a")
    assert first_link["href"] == "#main"


# ---- pictures


def test_pictures_are_of_each_sentence_of_what_is_still_shown_and_of_what_was_lost() -> None:
    evidence = gather(PLAN, AUDIT)
    person, pistol, _ = PLAN.passes
    assert [p.seed for p in pairs_of(evidence, person)] == [0]  # its probes ask one sentence
    assert [(p.role, p.seed) for p in pairs_of(evidence, pistol)] == [
        *(("target", seed) for seed in range(6)),
        *(("alias", seed) for seed in range(3)),
    ]
    assert [(p.subject, p.seed) for p in lost_pairs(evidence)] == [("trumpet", 0), ("trumpet", 1)]


def test_pictures_are_few_however_much_is_wrong() -> None:
    plan = make_plan(asked=(*probes("target", "pistol", 600), *probes("retained", "dog", 600)))
    audit = make_audit(plan, lambda probe, side, _: side == "base" or probe.role == "target")
    assert len(list(samples(gather(plan, audit)))) == 12 + 24


def test_neighbours_come_first_among_what_was_lost() -> None:
    kept = (*probes("retained", "dog", 3), *probes("retained", "trumpet", 3, neighbour_of=("pistol",)))
    plan = make_plan(asked=(*probes("target", "pistol", 6), *kept))
    audit = make_audit(plan, lambda _, side, __: side == "base")
    assert [p.subject for p in lost_pairs(gather(plan, audit))] == [*["trumpet"] * 3, *["dog"] * 3]


@pytest.mark.parametrize(
    ("kind", "sensitive"),
    [("identity", True), ("nsfw", True), ("correction", True), ("style", False), ("object", False)],
)
def test_only_objects_and_styles_are_shown_unasked(kind: str, sensitive: bool) -> None:
    role = "correction" if kind == "correction" else "target"
    plan = make_plan(
        forget("thing", kind),  # type: ignore[arg-type]  # a kind of pass
        asked=(*probes(role, "thing", 6), *probes("retained", "dog", 1)),  # type: ignore[arg-type]  # a role
    )
    audit = make_audit(plan, lambda _, side, __: side == "base")
    shown = {sample.probe.subject: sample.sensitive for sample in samples(gather(plan, audit))}
    assert shown == {"thing": sensitive, "dog": True}


def test_pair_says_what_is_wrong_with_it_and_how_surely() -> None:
    assert len([p for p in PAGE.all("li") if p.get("class") == "worse"]) == 8
    assert PAGE.text.count("still shown") >= 6
    assert "base 90.0 % patched 5.0 %" in PAGE.text
    assert "patched unscored" in PAGE.text
    assert "2 of 2, declared neighbours first" in PAGE.text


def test_picture_of_one_side_only_leaves_a_place_for_the_other() -> None:
    kept = {key: picture for key, picture in PICTURES.items() if key[1] == "base"}
    page = Page(make_page(pictures=kept))
    assert page.text.count("not kept") == len(kept)
    assert len(page.all("img")) == len(kept)


def test_blurred_pictures_are_called_so() -> None:
    evidence = gather(PLAN, AUDIT)
    blurred = sum(sample.sensitive for sample in samples(evidence))
    assert len([p for p in PAGE.all("img") if "blurred" in (p["alt"] or "")]) == 2 * blurred
    assert "it does not hold the sharp ones" in PAGE.text
    sharp = {key: picture._replace(blurred=False) for key, picture in make_pictures(PLAN, AUDIT).items()}
    assert "blurred" not in make_page(pictures=sharp)


# ---- charts

shares = st.floats(min_value=0, max_value=1)


@given(
    st.tuples(shares, shares, shares).map(sorted),
    st.floats(min_value=-1, max_value=1),
    st.sampled_from(["at_most", "at_least"]),
    st.booleans(),
)
def test_interval_plot_holds_everything_in_its_order(
    ends: list[float], limit: float, direction: str, paired: bool
) -> None:
    low, value, high = ends
    interval = Interval(low=low, high=high)
    finding = Finding(
        rule="r",
        metric="target_recognised",
        value=value,
        hits=0,
        n=1,
        n_planned=1,
        n_scored=1,
        interval=interval,
        wilson=None if paired else interval,
        newcombe=interval if paired else None,
        limit=limit,
        direction=direction,  # type: ignore[arg-type]  # one of the two
        outcome="pass",
        reason="",
    )
    plot = interval_plot(finding)
    assert plot is not None
    assert plot.value is not None
    assert 0 <= plot.low <= plot.value <= plot.high <= 100
    assert 0 <= plot.limit <= 100
    assert (high <= limit) <= (plot.high <= plot.limit)
    assert (low > limit) <= (plot.low >= plot.limit)
    left, width = plot.allowed
    assert left + width == pytest.approx(plot.limit if direction == "at_most" else 100)


def test_finding_without_an_interval_has_no_plot() -> None:
    named = [f for f in REPORT.findings if f.interval is None]
    assert all(interval_plot(f) is None for f in named)


@given(st.lists(st.floats(min_value=0, max_value=1), max_size=30))
def test_curve_lies_in_its_box_and_is_as_high_as_its_values(values: list[float]) -> None:
    top = max(values, default=0.0)
    points = curve(values, top).points
    assert len(points) == len(values)
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points)
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    for (_, y), value in zip(points, values, strict=True):
        share = value / top if top else 0
        assert (HEIGHT - 4 - y) / (HEIGHT - 8) == pytest.approx(share, abs=1e-3)


@given(st.lists(st.lists(shares, min_size=3, max_size=3), min_size=1, max_size=4))
def test_heat_map_holds_every_place_once_at_its_shade(places: list[list[float]]) -> None:
    top = max(max(row) for row in places)
    found = {}
    for opacity, path in heat_map(places, top).shades:
        for x, y, wide in re.findall(r"M(\d+) (\d+)h(\d+)v1h-\3z", path):
            for i in range(int(wide)):
                assert found.setdefault((int(x) + i, int(y)), opacity) == opacity
    expected = {
        (x, y): round(LEVELS * v / top) / LEVELS for y, row in enumerate(places) for x, v in enumerate(row) if top
    }
    assert found == {place: shade for place, shade in expected.items() if shade}


def test_named_outcomes_are_told_beside_the_verdict() -> None:
    plan = make_plan(forget("pistol"))
    audit = make_audit(plan, lambda _, side, __: True)
    page = Page(html(judge(plan, audit, make_policy()), plan, audit, None, {}))
    head = page.text[: page.text.index("findings decide")]
    assert "Fail : small under policy house" in head
    assert "No effect." in head
