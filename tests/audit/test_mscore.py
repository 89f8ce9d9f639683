"""The M-Score on a real, tiny model: what is measured, what is kept, and what is never written."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from fmn_guard import cli
from fmn_guard.audit import panel
from fmn_guard.audit.auditor import run_audit
from fmn_guard.audit.mscore import count_cached, run_mscore, seconds_each
from fmn_guard.chain import write_files
from fmn_guard.cli.console import keep_quiet
from fmn_guard.cli.run import write_report
from fmn_guard.forget.patch import Part, PartFacts, Patch, apply_patch, patched_digest, write_patch
from fmn_guard.inversion import InversionSettings
from fmn_guard.lint import lint_manifest, lint_policy
from fmn_guard.model.checkpoint import load_pipeline, save_checkpoint
from fmn_guard.model.inversion import invert
from fmn_guard.model.sampler import draw_latents
from fmn_guard.mscore import MScore, Protocol, plan_mscore, read_mscore, summarise
from fmn_guard.plan import Plan, compile_plan
from fmn_guard.record import digest, file_digest, read_record, write_record
from fmn_guard.report import Report, judge
from fmn_guard.suite import Sampler

from ..builder import PATCHED, make_passes
from .test_auditor import SIX, FakeRecogniser

KEPT = ("rose", "cat", "dog", "fox", "frog", "key")
MANIFEST = {
    "apiVersion": "fmn-guard/v1",
    "kind": "ConceptManifest",
    "metadata": {"name": "test"},
    "spec": {"base": {"checkpoint": "BASE"}, "concepts": [{"kind": "object", "phrase": "lion"}]},
}
SUITE = {
    "apiVersion": "fmn-guard/v1",
    "kind": "AuditSuite",
    "metadata": {"name": "test"},
    "spec": {
        "sampler": {"steps": 1, "guidance": 2.0, "batch": 8, "threads": 1},
        "counts": {"target": 1, "retained": 1, "retained_prompts": 1},
        "templates": dict.fromkeys(("identity", "style", "object", "nsfw"), SIX),
        "correction_templates": SIX,
        "retained": [{"phrase": name} for name in KEPT],
        "recogniser": {"name": "builtin-judge"},
    },
}
POLICY = {
    "apiVersion": "fmn-guard/v1",
    "kind": "ReleasePolicy",
    "metadata": {"name": "test"},
    "spec": {"suite": "./suite.yaml", "rules": [{"id": "gone", "metric": "target_recognised", "at_most": 0.5}]},
}
SETTINGS = InversionSettings(steps=2, batch=1, learning_rate=0.5)
EVERYTHING = {f"concept:{name}": 0.9 for name in (*KEPT, "lion")}


@pytest.fixture(scope="module")
def home(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the documents, the base, a patch, and the patched model as a checkpoint."""
    folder = tmp_path_factory.mktemp("home")
    base = folder / "base"
    shutil.copytree(tiny_checkpoint, base)
    (folder / "manifest.yaml").write_text(json.dumps(MANIFEST).replace("BASE", str(base)), encoding="utf-8")
    (folder / "suite.yaml").write_text(json.dumps(SUITE), encoding="utf-8")
    (folder / "policy.yaml").write_text(json.dumps(POLICY), encoding="utf-8")
    plan, model = _plan(folder), load_pipeline(base)
    generator = torch.Generator().manual_seed(0)
    edits = {
        name: torch.randn(weight.shape, generator=generator)
        for name, weight in model.unet.named_parameters()
        if name.endswith("attn2.to_v.weight")
    }
    patch = folder / "patch.safetensors"
    facts = PartFacts(concepts=("lion",), kind="object", plan_digest=plan.digest)
    write_patch(patch, Patch(plan.base.identity, 0, (Part(facts, dict(edits)),)))
    apply_patch(model, patch, plan.base.identity)
    save_checkpoint(model, folder / "patched")
    return folder


def _plan(home: Path) -> Plan:
    document, checkpoint = lint_manifest(home / "manifest.yaml")
    return compile_plan(document, lint_policy(home / "policy.yaml")[1], checkpoint)


@pytest.fixture(scope="module")
def plan(home: Path) -> Plan:
    return _plan(home)


@pytest.fixture(scope="module")
def protocol(plan: Plan) -> Protocol:
    return plan_mscore(plan, ("picture",), settings=SETTINGS, replay_tokens=(2,), replays=2)


@pytest.fixture(scope="module")
def models(home: Path) -> tuple[Any, Any]:
    return load_pipeline(home / "base"), load_pipeline(home / "patched")


@pytest.fixture(autouse=True)
def recogniser(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that finds everything in every picture."""
    _recognise(monkeypatch, lambda _pixels: EVERYTHING)


def _recognise(monkeypatch: pytest.MonkeyPatch, answer: Callable[[np.ndarray], dict[str, float]]) -> None:
    monkeypatch.setattr(panel, "load_recogniser", lambda _spec: FakeRecogniser(answer))
    monkeypatch.setattr(panel, "_CONSTANT", 0.0)  # random weights draw nearly nothing


class Whole(NamedTuple):
    """A protocol measured once without a break."""

    found: MScore
    out: Path
    cache: Path


@pytest.fixture(scope="module")
def whole(protocol: Protocol, plan: Plan, models: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        _recognise(patch, lambda _pixels: EVERYTHING)
        found = _run(protocol, plan, models, folder / "run", cache=folder / "cache")
    return Whole(found, folder / "run", folder / "cache")


def _run(protocol: Protocol, plan: Plan, models: tuple[Any, Any], out: Path, **options: Any) -> MScore:
    return run_mscore(protocol, plan, *models, patched_digest=PATCHED, out=out, **options)


# ---- what is measured


def test_model_beside_itself_has_no_drop(
    protocol: Protocol, plan: Plan, models: tuple[Any, Any], whole: Whole, tmp_path: Path
) -> None:
    found = _run(protocol, plan, (models[0], models[0]), tmp_path, cache=whole.cache)
    for score in found.scores:
        assert score.base == score.patched
        assert score.between == (1.0, 1.0, 1.0)
        assert max(score.among) < 1
    summary = summarise(found, 0.95)
    assert summary.floor is not None and summary.floor.threshold == 0
    assert [row.beyond for row in summary.rows if row.role == "target"] == [False]


def test_cosines_are_those_of_inversions_made_by_hand(
    protocol: Protocol, models: tuple[Any, Any], whole: Whole
) -> None:
    base, patched = models
    [target] = [s for s in protocol.subjects if s.role == "target"]
    score = whole.found.scores[0]

    prompts = [frame.replace("{x}", "lion") for frame in target.frames]
    latents = draw_latents(base, prompts, range(600_000_000, 600_000_008), Sampler(steps=1, guidance=2.0, batch=8))
    table = base.text_encoder.get_input_embeddings().weight
    ids = base.tokenizer(target.template.replace("{x}", "picture"), padding="max_length", return_tensors="pt").input_ids
    named = base.tokenizer(target.sentence(target.template), padding="max_length", return_tensors="pt").input_ids
    [word] = base.tokenizer("picture", add_special_tokens=False).input_ids
    with torch.no_grad():
        r = base.text_encoder(named).pooler_output[0]
    z: dict[str, list[torch.Tensor]] = {"base": [], "patched": []}
    for side, model in (("base", base), ("patched", patched)):
        for token in invert(model, latents, target.frames, "picture", SETTINGS).tokens[:, 0]:
            before = table[word].clone()
            with torch.no_grad():
                table[word] = token
                z[side].append(base.text_encoder(ids).pooler_output[0])
                table[word] = before
    cosine = torch.nn.functional.cosine_similarity
    assert score.base == pytest.approx([cosine(v, r, 0).item() for v in z["base"]], abs=1e-5)
    assert score.patched == pytest.approx([cosine(v, r, 0).item() for v in z["patched"]], abs=1e-5)
    assert score.between == pytest.approx(
        [cosine(a, b, 0).item() for a, b in zip(z["base"], z["patched"], strict=True)], abs=1e-5
    )
    assert score.among[0] == pytest.approx(cosine(z["base"][0], z["base"][1], 0).item(), abs=1e-5)
    assert score.base != score.patched


def test_targets_are_drawn_by_one_token_and_by_several_and_controls_by_one(whole: Whole) -> None:
    for score in whole.found.scores:
        tokens = (1, 2) if score.role == "target" else (1,)
        seen = {(r.side, r.tokens, r.seed): (r.shown, r.n, r.planned) for r in score.replays}
        wanted = {(side, count, seed) for side in ("base", "patched") for count in tokens for seed in (0, 1, 2)}
        assert seen == dict.fromkeys(wanted, (2, 2, 2))


def test_given_pictures_are_anchors(plan: Plan, models: tuple[Any, Any], whole: Whole, tmp_path: Path) -> None:
    pictures = []
    for i in range(8):
        pictures.append(tmp_path / f"{i}.png")
        Image.fromarray(np.full((20, 20, 3), 25 * i, dtype=np.uint8)).save(pictures[-1])
    given = plan_mscore(
        plan, ("picture",), settings=SETTINGS, replay_tokens=(2,), replays=2, given={"lion": (digest("pictures"), 8)}
    )
    found = _run(given, plan, models, tmp_path / "given", cache=whole.cache, given={"lion": pictures})
    assert found.scores[0].anchors_digest != whole.found.scores[0].anchors_digest
    assert found.scores[1:] == whole.found.scores[1:]


# ---- not measured is not forgotten


def test_recogniser_that_throws_leaves_nothing_measured(
    protocol: Protocol,
    plan: Plan,
    models: tuple[Any, Any],
    whole: Whole,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def boom(_pixels: np.ndarray) -> dict[str, float]:
        raise RuntimeError("out of memory")

    _recognise(monkeypatch, boom)
    found = _run(protocol, plan, models, tmp_path, cache=whole.cache)
    assert {score.unmeasured for score in found.scores} == {"the recogniser finds it in only 0 of 8 anchors"}
    assert {(r.shown, r.n) for score in found.scores for r in score.replays} == {(0, 0)}
    assert all(row.beyond is None for row in summarise(found, 0.95).rows)


def test_model_that_draws_no_numbers_is_not_measured(
    protocol: Protocol, plan: Plan, models: tuple[Any, Any], home: Path, whole: Whole, tmp_path: Path
) -> None:
    broken = load_pipeline(home / "base")
    with torch.no_grad():
        next(broken.unet.parameters()).fill_(math.nan)
    found = _run(protocol, plan, (models[0], broken), tmp_path, cache=whole.cache)
    assert {score.unmeasured for score in found.scores} == {"what inversion found is not a number"}
    assert {r.n for score in found.scores for r in score.replays if r.side == "patched"} == {0}
    assert read_mscore(tmp_path) == found


# ---- resuming and the cache


class _Stop(Exception):
    pass


def test_interrupted_run_ends_with_the_bytes_of_an_unbroken_one(
    protocol: Protocol, plan: Plan, models: tuple[Any, Any], whole: Whole, tmp_path: Path
) -> None:
    inverted: list[str] = []

    def stops(what: str, done: int, _total: int) -> None:
        inverted.append(what)
        if len(inverted) in (5, 16, 21):
            raise _Stop

    for _ in range(3):
        with pytest.raises(_Stop):
            _run(protocol, plan, models, tmp_path / "broken", progress=stops)
        (tmp_path / "broken" / "mscore.partial.jsonl").open("a").write('{"slug": "cut')
    _run(protocol, plan, models, tmp_path / "broken", progress=stops)
    assert (tmp_path / "broken" / "mscore.json").read_bytes() == (whole.out / "mscore.json").read_bytes()
    assert [path.name for path in (tmp_path / "broken").iterdir()] == ["mscore.json"]
    assert inverted.count("inverting: lion, base") == 3 + 4  # cut off in the third of its steps, then once whole


def test_bases_are_inverted_once(
    protocol: Protocol, plan: Plan, models: tuple[Any, Any], whole: Whole, tmp_path: Path
) -> None:
    assert count_cached(protocol, plan, tmp_path) == 0
    assert count_cached(protocol, plan, whole.cache) == len(list(protocol.jobs()))
    inverted: list[str] = []
    again = _run(protocol, plan, models, tmp_path, cache=whole.cache, progress=lambda what, *_: inverted.append(what))
    assert again == whole.found
    assert not [what for what in inverted if what.endswith("base")]
    for other in ({"inversion": SETTINGS.model_copy(update={"steps": 3})}, {"base_digest": digest("another")}):
        assert count_cached(protocol.model_copy(update=other), plan, whole.cache) == 0


def test_damaged_cache_is_made_anew(
    protocol: Protocol, plan: Plan, models: tuple[Any, Any], whole: Whole, tmp_path: Path
) -> None:
    cache = shutil.copytree(whole.cache, tmp_path / "cache")
    for i, file in enumerate(sorted(cache.iterdir())):
        file.write_bytes(b"" if i % 2 else file.read_bytes()[:-4])
    assert _run(protocol, plan, models, tmp_path / "again", cache=cache) == whole.found


def test_tokens_of_the_patched_model_are_written_nowhere(
    protocol: Protocol, models: tuple[Any, Any], whole: Whole
) -> None:
    [target] = [s for s in protocol.subjects if s.role == "target"]
    prompts = [target.sentence(frame) for frame in target.frames]
    latents = draw_latents(models[0], prompts, range(600_000_000, 600_000_008), Sampler(steps=1, guidance=2.0, batch=8))
    sought = [
        invert(model, latents, target.frames, "picture", SETTINGS).tokens[0, 0].numpy().tobytes() for model in models
    ]
    written = [path.read_bytes() for path in whole.out.parent.rglob("*") if path.is_file()]
    assert [any(token in content for content in written) for token in sought] == [True, False]


def test_timing_tells_seconds_and_changes_no_model(protocol: Protocol, models: tuple[Any, Any]) -> None:
    before = [weight.clone() for weight in models[0].unet.parameters()]
    assert 0 < seconds_each(protocol, models[0]) < 60
    assert all(torch.equal(a, b) for a, b in zip(before, models[0].unet.parameters(), strict=True))


# ---- the command


OPTIONS = ("--steps", "2", "--tokens", "1", "--quiet")


def _mscore(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, ["mscore", *map(str, arguments)])


@pytest.fixture(scope="module")
def finished(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the patch, judged."""
    plan, run = _plan(home), tmp_path_factory.mktemp("finished") / "run"
    run.mkdir()
    shutil.copy(home / "patch.safetensors", run)
    base, patched = load_pipeline(home / "base"), load_pipeline(home / "patched")
    identity = patched_digest(run / "patch.safetensors", plan.base.identity)
    passes = make_passes(plan, file_digest(run / "patch.safetensors"))
    write_record(run / "plan.json", plan)
    write_record(run / "passes.json", passes)
    audit = run_audit(
        plan, base, patched, patched_digest=identity, passes_digest=digest(passes), out=run, keep_images=False
    )
    policy = lint_policy(home / "policy.yaml")[0]
    write_report(run, policy, judge(plan, audit, policy, passes), plan, audit, passes, keep_quiet)
    write_files(run, None, ())
    return run


@pytest.fixture(scope="module")
def measured_once(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = shutil.copytree(finished, tmp_path_factory.mktemp("measured") / "run")
    with pytest.MonkeyPatch.context() as patch:
        _recognise(patch, lambda _pixels: EVERYTHING)
        result = _mscore(run, "--cache", run.parent / "cache", *OPTIONS)
    assert result.exit_code == 0, result.output
    assert "Noise floor: a drop above" in result.stdout
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished run."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def measured(measured_once: Path, tmp_path: Path) -> Path:
    """A copy of it whose M-Score is measured."""
    return shutil.copytree(measured_once, tmp_path / "measured")


def _verify(run: Path) -> Result:
    return CliRunner().invoke(cli.main, ["verify", str(run)])


def test_run_gets_a_section_and_is_of_one_piece(finished: Path, measured: Path) -> None:
    before, report = (read_record(run / "report.json", Report) for run in (finished, measured))
    assert report.mscore is not None and before.mscore is None
    assert (report.verdict, report.findings) == (before.verdict, before.findings)
    assert "## M-Score" in (measured / "report.md").read_text(encoding="utf-8")
    assert _verify(measured).exit_code == 0


def test_run_that_is_judged_again_keeps_its_section(home: Path, measured: Path) -> None:
    before = read_record(measured / "report.json", Report)
    again = CliRunner().invoke(cli.main, ["report", str(measured), "--policy", str(home / "policy.yaml")])
    assert again.exit_code == 0, again.output
    assert read_record(measured / "report.json", Report).mscore == before.mscore
    assert _verify(measured).exit_code == 0


def test_second_call_reuses_what_the_first_left(measured: Path) -> None:
    left = {path: path.read_bytes() for path in measured.rglob("*") if path.is_file()}
    result = _mscore(measured, *OPTIONS[:-1], "--json")
    assert "re-using" in result.stderr
    assert MScore.model_validate_json(result.stdout) == read_mscore(measured)
    assert left == {path: path.read_bytes() for path in measured.rglob("*") if path.is_file()}


@pytest.mark.parametrize("spoil", ["edited", "removed", "of another model"])
def test_mscore_that_is_not_the_runs_breaks_the_chain(measured: Path, spoil: str) -> None:
    file = measured / "mscore.json"
    found = read_record(file, MScore)
    if spoil == "removed":
        file.unlink()
    elif spoil == "edited":
        scores = (found.scores[0].model_copy(update={"patched": (0.0, 0.0, 0.0)}), *found.scores[1:])
        write_record(file, found.model_copy(update={"scores": scores}))
    else:
        write_record(file, found.model_copy(update={"patched_digest": PATCHED}))
    (measured / "files.json").unlink()
    write_files(measured, None, ())  # whoever spoils it may list it too
    result = _verify(measured)
    assert result.exit_code == 2
    assert "mscore" in result.stderr


def test_dry_run_tells_the_cost_and_writes_nothing(run: Path, tmp_path: Path) -> None:
    left = sorted(tmp_path.rglob("*"))
    result = _mscore(run, "--dry-run", "--steps", "2")
    assert result.exit_code == 0, result.output
    assert "inversions of 2 steps" in result.stdout and " s\n" in result.stdout
    assert sorted(tmp_path.rglob("*")) == left


def test_plan_tells_the_cost_where_it_is_asked_for(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    asked = ["plan", str(home / "manifest.yaml"), "--policy", str(home / "policy.yaml"), "--json"]
    document = json.loads(CliRunner().invoke(cli.main, [*asked, "--mscore"]).stdout)
    assert document["mscore"]["inversions"] == 2 * (2 + 5) * 3
    assert document["mscore"]["seconds"] > 0
    assert "mscore" not in json.loads(CliRunner().invoke(cli.main, asked).stdout)


@pytest.mark.parametrize("patched", ["patch.safetensors", "patched"])
def test_patch_and_checkpoint_are_measured_beside_a_base(
    home: Path, measured_once: Path, tmp_path: Path, patched: str
) -> None:
    cache = measured_once.parent / "cache"
    where = (home / "base", home / patched, "--manifest", home / "manifest.yaml", "--policy", home / "policy.yaml")
    result = _mscore(*where, "--out", tmp_path / "run", "--cache", cache, *OPTIONS, "--json")
    assert result.exit_code == 0, result.output
    found = MScore.model_validate_json(result.stdout)
    assert found == read_mscore(tmp_path / "run")
    assert max(found.scores[0].between) < 1
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"plan.json", "mscore.json"}


def test_bad_usage_is_refused_and_writes_nothing(home: Path, run: Path, tmp_path: Path) -> None:
    left = sorted(tmp_path.rglob("*"))
    assert _mscore(home / "base", home / "patched").exit_code == 2
    assert _mscore(run, "--seeds", "2").exit_code == 2
    assert _mscore(run, "--controls", "4").exit_code == 2
    assert _mscore(run, "--out", tmp_path / "other").exit_code == 2
    assert _mscore(tmp_path / "nowhere").exit_code == 2
    assert _mscore(run, "--anchors", tmp_path / "nowhere").exit_code == 2
    assert sorted(tmp_path.rglob("*")) == left


def test_anchors_that_a_concept_was_forgotten_from_are_refused(home: Path, tmp_path: Path) -> None:
    for folder in ("pictures", "anchors/lion"):
        (tmp_path / folder).mkdir(parents=True)
        for i in range(8):
            same = i == 7
            level = 30 * i if same or folder == "pictures" else 30 * i + 1
            Image.fromarray(np.full((8, 8, 3), level, dtype=np.uint8)).save(tmp_path / folder / f"{i}.png")
    manifest = json.loads((home / "manifest.yaml").read_text(encoding="utf-8"))
    manifest["spec"]["concepts"][0]["images"] = "pictures"
    (tmp_path / "manifest.yaml").write_text(json.dumps(manifest), encoding="utf-8")
    where = (
        home / "base",
        home / "patched",
        "--manifest",
        tmp_path / "manifest.yaml",
        "--policy",
        home / "policy.yaml",
    )
    result = _mscore(*where, "--out", tmp_path / "run", "--anchors", tmp_path / "anchors", *OPTIONS)
    assert result.exit_code == 2
    assert "7.png is what it was forgotten from" in result.stderr
    assert not (tmp_path / "run").exists()
