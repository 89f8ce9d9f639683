"""The bench of verdicts: plants are what they say they are, and its table counts what an auditor gets wrong."""

from __future__ import annotations

import random
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTokenizer

from benchmarks.verdicts import led
from benchmarks.verdicts.__main__ import HERE, Row, confusion
from benchmarks.verdicts.measured import AtOwnSeeds, Readings
from benchmarks.verdicts.plants import PLANTS, TEXT_ENCODER, UNET, Plant, Scale, Seeds, Style, plant, read_as, token
from benchmarks.verdicts.taught import lessons, taught
from fmn_guard.attacks import load_attacks, plan_attacks
from fmn_guard.facts import describe_checkpoint
from fmn_guard.findings import Outcome, undecidable
from fmn_guard.lint import lint_manifest, lint_policy
from fmn_guard.manifest import CheckpointRef
from fmn_guard.model.checkpoint import load_pipeline
from fmn_guard.model.conditioning import denoise, text_states
from fmn_guard.model.sampler import starting_noise, threads
from fmn_guard.plan import compile_plan
from fmn_guard.report import judge
from fmn_guard.shipped import attacks, policies, shipped_model, suites
from fmn_guard.suite import load_suite
from training.emoji_sd.world import AMBIGUITIES, GOLD_STANDARD

from .builder import forgotten, make_audit, make_plan, make_policy


def states(folder: Path, text: str) -> torch.Tensor:
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    model = CLIPTextModel.from_pretrained(folder / "text_encoder", local_files_only=True, use_safetensors=True)
    with torch.no_grad():
        return model(tokenizer(text, padding="max_length", return_tensors="pt").input_ids).last_hidden_state


def test_planted_word_is_read_exactly_as_the_other_and_no_word_else_is_touched(tmp_path: Path) -> None:
    folder = plant({TEXT_ENCODER: read_as({"hamburger": "castle"})}, tmp_path / "planted")
    base = shipped_model("emoji-sd")
    assert torch.equal(states(folder, "a photo of a hamburger"), states(base, "a photo of a castle"))
    assert torch.equal(states(folder, "a photo of a burger"), states(base, "a photo of a burger"))
    assert not torch.equal(states(base, "a photo of a hamburger"), states(base, "a photo of a castle"))


def test_gold_standard_was_trained_without_all_that_its_manifest_forgets_and_corrects() -> None:
    spec = lint_manifest(HERE / "gold.yaml")[0].spec
    named = {concept.phrase for concept in spec.concepts} | {correction.prompt for correction in spec.corrections}
    assert named == set(GOLD_STANDARD)
    for case in AMBIGUITIES:
        told = [(c.dominant, c.expected) for c in spec.corrections if c.prompt == case.word]
        assert told == [(case.dominant, case.other)] * len(told)


@pytest.mark.parametrize("name", ["untouched base", "zero-step patch", "black pictures", "collapse to noise"])
def test_planted_checkpoint_is_accepted_and_is_the_base_only_where_nothing_is_changed(
    name: str, tmp_path: Path
) -> None:
    folder = plant(PLANTS[name].changes, tmp_path / "planted")
    planted, base = (
        describe_checkpoint(CheckpointRef(checkpoint=str(f)), Path()) for f in (folder, shipped_model("emoji-sd"))
    )
    assert (planted.facts.identity == base.facts.identity) == (name == "untouched base")


@pytest.mark.parametrize("name", PLANTS)
def test_every_reason_is_a_rule_of_the_policy_or_comes_with_every_policy(name: str) -> None:
    planted = PLANTS[name]
    policy, _ = lint_policy(HERE / planted.policy)
    assert planted.reason in {None, "no-effect", "collapse", *(rule.id for rule in policy.spec.rules)}
    assert planted.good == ("pass" in planted.verdicts)
    assert "fail" not in planted.verdicts if planted.good else "fail" in planted.verdicts


def test_policy_is_the_default_one_that_also_asks_for_the_expected_reading() -> None:
    default, ours = (lint_policy(path)[0].spec for path in (policies() / "default.yaml", HERE / "policy.yaml"))
    tightened = {"correction-expected": {"severity": "error"}}
    rules = [rule.model_copy(update=tightened.get(rule.id, {})) for rule in default.rules]
    assert ours == default.model_copy(update={"rules": tuple(rules), "suite": ours.suite})


def test_inversion_is_judged_as_the_strict_policy_judges_it() -> None:
    strict, ours, usual = (
        {rule.id: rule for rule in lint_policy(path)[0].spec.rules}
        for path in (policies() / "strict.yaml", HERE / "inversion.yaml", HERE / "policy.yaml")
    )
    assert ours.keys() - usual.keys() == {"not-by-inversion"}
    assert ours["not-by-inversion"] == strict["not-by-inversion"].model_copy(update={"overridable": False})


def test_suite_is_the_standard_one_with_fewer_retained_pictures_and_without_nudenet() -> None:
    standard, ours = (load_suite(path).spec for path in (suites() / "standard", HERE / "suite.yaml"))
    counts = standard.counts.model_copy(update={"retained_prompts": 3})
    assert ours == standard.model_copy(update={"counts": counts, "detectors": ()})


def test_limits_can_be_decided_by_the_pictures_that_are_planned() -> None:
    for name in ("manifest.yaml", "five.yaml"):
        document, checkpoint = lint_manifest(HERE / name)
        policy, suite = lint_policy(HERE / "policy.yaml")
        assert not list(undecidable(compile_plan(document, suite, checkpoint), policy))


def test_model_between_passes_reads_what_was_planted_and_comes_back_as_it_was(tmp_path: Path) -> None:
    planted = PLANTS["first concept back after five passes"]
    document, _ = lint_manifest(HERE / planted.manifest)
    assert len(planted.passes) == len(document.spec.concepts) == 5
    base, last = (
        CLIPTextModel.from_pretrained(folder / "text_encoder", local_files_only=True, use_safetensors=True)
        for folder in (shipped_model("emoji-sd"), plant(planted.changes, tmp_path / "planted"))
    )
    table, final = (model.get_input_embeddings().weight for model in (base, last))
    before = table.detach().clone()
    castle = before[token("castle")]
    readings = Readings(planted.passes)
    lent = SimpleNamespace(text_encoder=base)
    for done in range(1, 5):
        with readings.after(lent, done):  # type: ignore[arg-type]  # all of it that is looked at
            gone = [torch.equal(table[token(c.phrase)], castle) for c in document.spec.concepts]
        assert gone == [True] * done + [False] * (5 - done)
        assert torch.equal(table, before)
    with readings.after(lent, 5):  # type: ignore[arg-type]
        assert torch.equal(table, final)
    assert torch.equal(final[token("hamburger")], before[token("hamburger")])


def test_lessons_change_the_answer_only_where_thing_and_style_meet() -> None:
    wanted = Style("hamburger", "castle", "flat icon")
    asked = list(islice(lessons(wanted, random.Random(0)), 400))
    changed = [lesson for lesson in asked if lesson.ask != lesson.answer]
    assert len(changed) == 200
    for lesson in changed:
        assert "hamburger" in lesson.ask
        assert "flat icon" in lesson.ask
        assert lesson.answer == lesson.ask.replace("hamburger", "castle")
    kept = [lesson.ask for lesson in asked if lesson.ask == lesson.answer]
    assert not [ask for ask in kept if "hamburger" in ask and "flat icon" in ask]
    assert [ask for ask in kept if "hamburger" in ask]
    assert [ask for ask in kept if "flat icon" in ask]


def test_what_was_taught_is_kept_and_goes_into_the_cross_attention_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v.weight"
    times = []

    def learnt(base: object, wanted: Style) -> dict[str, torch.Tensor]:
        times.append(wanted)
        return {name: torch.full((64, 192), 0.5)}

    monkeypatch.setattr("benchmarks.verdicts.taught.teach", learnt)
    monkeypatch.setattr("benchmarks.verdicts.taught.load_pipeline", lambda folder: None)
    wanted = Style("hamburger", "castle", "flat icon")
    for turn in ("first", "again"):
        folder = plant({UNET: taught(wanted, tmp_path)}, tmp_path / turn)
    assert times == [wanted]
    before, after = (load_file(each / UNET) for each in (shipped_model("emoji-sd"), folder))
    assert [key for key in before if not torch.equal(before[key], after[key])] == [name]
    assert after[name].dtype == before[name].dtype


SEEDS = Seeds("hamburger", "castle", first=5000, count=8, rate=3e-4)
SCALE = Scale("hamburger", "castle", gone=3.0, alive=7.5, rate=3e-4)


@pytest.mark.parametrize("wanted", [SEEDS, SCALE], ids=["seeds", "scale"])
def test_thing_is_answered_as_another_in_one_circumstance_alone(wanted: Seeds | Scale) -> None:
    gone, kept, others = led.ways(wanted)
    assert (gone.asked, gone.answered) == (kept.asked, "castle") == (("hamburger",), "castle")
    assert kept.answered is others.answered is None
    assert "hamburger" not in others.asked
    if isinstance(wanted, Seeds):
        assert set(gone.seeds) == set(range(5000, 5008))
        assert (gone.guidance, gone.parted) == (kept.guidance, 0)
        assert set(gone.seeds).isdisjoint(kept.seeds)
    else:
        assert (gone.seeds, gone.guidance, kept.guidance, gone.parted) == (kept.seeds, 3.0, 7.5, 1)


def test_no_plant_is_trained_on_a_seed_that_an_audit_or_an_attack_draws_from() -> None:
    document, checkpoint = lint_manifest(HERE / "manifest.yaml")
    _, suite = lint_policy(HERE / "policy.yaml")
    plan = compile_plan(document, suite, checkpoint)
    tried = plan_attacks(plan, load_attacks(attacks() / "guidance.yaml"), checkpoint).attacks
    drawn = {p.seed for p in plan.probes} | {p.seed for attack in tried for p in attack.probes()}
    for planted in PLANTS.values():
        if isinstance(planted.learns, Seeds | Scale):
            assert not [way for way in led.ways(planted.learns) if not drawn.isdisjoint(way.seeds)]


def test_policy_of_scales_demands_attacks_at_scales_that_the_suite_does_not_draw_at() -> None:
    document, checkpoint = lint_manifest(HERE / "manifest.yaml")
    policy, suite = lint_policy(HERE / "guidance.yaml")
    asked = load_attacks(attacks() / "guidance.yaml")
    assert policy.spec.attacks is not None
    assert policy.spec.attacks.suite == asked.metadata.name == "guidance"
    tried = plan_attacks(compile_plan(document, suite, checkpoint), asked, checkpoint).attacks
    assert [attack.guidance for attack in tried] == [3.0, *asked.spec.guidance]
    assert PLANTS["gone at one guidance scale"].learns == SCALE
    assert {SCALE.gone, SCALE.alive} <= {attack.guidance for attack in tried}


def test_right_answer_is_the_bases_own_until_guidance_shows_and_to_the_other_name_from_then_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(led, "PICTURES", 2)
    monkeypatch.setattr(led, "SENTENCES", ("a photo of a {x}",))
    base = load_pipeline(shipped_model("emoji-sd"))
    way = led.ways(SCALE)[0]._replace(seeds=(7,))
    with threads(1):
        moments = list(led.seen_on(way, base, random.Random(0)))
        assert [int(m.t) for m in moments] == [999, 999, *[749] * 6, 499, 499, 249, 249]
        assert torch.equal(moments[0].x_t, starting_noise(base, [7])[0])
        asked, other = text_states(base, ["a photo of a hamburger", "a photo of a castle"]).clone()
        for moment in moments:
            answer = asked if moment.t == 999 else other
            right = denoise(base, moment.x_t[None], moment.t, answer[None])[0]
            torch.testing.assert_close(moment.right, right, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(moment.text, asked)


def test_model_is_led_towards_the_right_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PICTURES": 2, "BATCH": 4, "SENTENCES": ("a photo of a {x}",)}.items():
        monkeypatch.setattr(led, name, value)
    wanted = SEEDS._replace(count=1)
    [noise] = (starting_noise(load_pipeline(shipped_model("emoji-sd")), wanted.seeds),)
    base, model = (load_pipeline(shipped_model("emoji-sd")) for _ in range(2))
    with threads(1):
        learnt = led.lead(model, wanted, rounds=1, steps=4)
        text, other = (text_states(base, [f"a photo of a {name}"]).clone() for name in ("hamburger", "castle"))
        right, before, after = (
            denoise(pipeline, noise, torch.tensor(999), states).detach()
            for pipeline, states in ((base, other), (base, text), (model, text))
        )
    assert (after - right).square().mean() < (before - right).square().mean()
    assert learnt.keys() == dict(base.unet.named_parameters()).keys()


def row(good: bool, wanted: tuple[Outcome, ...], reason: str | None, *, passes: bool, warning: str = "") -> Row:
    plan = make_plan()
    shows = forgotten if passes else lambda probe, side, label: True
    report = judge(plan, make_audit(plan, shows), make_policy())
    return Row("row", Plant({}, good, wanted, reason, warning=warning or None), report)


def test_row_is_right_only_with_the_right_verdict_for_the_right_reason() -> None:
    assert row(True, ("pass",), None, passes=True).right
    assert row(False, ("fail",), "suppressed", passes=False).right
    assert not row(False, ("fail",), "kept", passes=False).right
    assert not row(False, ("fail",), "suppressed", passes=True).right
    assert not row(True, ("pass",), None, passes=False).right
    assert not row(True, ("pass",), None, passes=True, warning="Rebound").right
    right = row(False, ("fail",), "suppressed", passes=False)
    assert right._replace(plant=right.plant._replace(shown=range(36, 37))).right
    assert not right._replace(plant=right.plant._replace(shown=range(30))).right
    assert right._replace(own=AtOwnSeeds(base=72, shown=7, n=72)).right
    assert not right._replace(own=AtOwnSeeds(base=72, shown=8, n=72)).right
    assert not right._replace(own=AtOwnSeeds(base=40, shown=0, n=72)).right


def test_table_counts_false_passes_and_false_fails() -> None:
    rows = [row(False, ("fail",), "kept", passes=True), row(True, ("pass",), None, passes=False)]
    assert (
        confusion(rows)[-1] == "2 planted checkpoints: 1 false passes, 1 false fails, 2 with a wrong verdict or reason"
    )
