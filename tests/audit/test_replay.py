"""Drawing again: the same pixels, or the probes that differ are named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from fmn_guard import cli
from fmn_guard.assembly import probe_batches
from fmn_guard.audit.auditor import run_audit
from fmn_guard.audit.drawing import draw_batch
from fmn_guard.audit.replay import replay, sample_of
from fmn_guard.cli.console import keep_quiet
from fmn_guard.cli.run import write_report
from fmn_guard.evidence import Audit, PassRecords
from fmn_guard.forget.patch import apply_patch, patched_digest, write_patch
from fmn_guard.model.checkpoint import load_pipeline
from fmn_guard.plan import Plan
from fmn_guard.record import bytes_digest, digest, read_record, write_record
from fmn_guard.report import judge

from ..builder import make_passes, make_policy
from ..patched import make_patch
from .test_auditor import plan_for


@pytest.fixture(scope="module")
def plan(tiny_checkpoint: Path) -> Plan:
    made = plan_for(tiny_checkpoint)
    return made.model_copy(update={"sampler": made.sampler.model_copy(update={"batch": 2})})


@pytest.fixture(scope="module")
def run(plan: Plan, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a patch that changes what is drawn."""
    folder = tmp_path_factory.mktemp("run")
    base, patched = load_pipeline(tiny_checkpoint), load_pipeline(tiny_checkpoint)
    identity = plan.base.identity
    patch = folder / "patch.safetensors"
    passes = make_passes(plan, write_patch(patch, make_patch(tiny_checkpoint)))
    apply_patch(patched, patch, identity)
    audit = run_audit(
        plan,
        base,
        patched,
        patched_digest=patched_digest(patch, identity),
        passes_digest=digest(passes),
        out=folder,
    )
    write_record(folder / "plan.json", plan)
    write_record(folder / "passes.json", passes)
    _judge(folder, plan, audit, passes)
    return folder


def _judge(folder: Path, plan: Plan, audit: Audit, passes: PassRecords | None) -> None:
    policy = make_policy()
    write_record(folder / "audit.json", audit)
    write_report(folder, policy, judge(plan, audit, policy, passes), plan, audit, passes, keep_quiet)


def _audit(run: Path) -> Audit:
    return Audit.model_validate_json((run / "audit.json").read_bytes())


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, ["replay", *map(str, arguments), "--quiet"])


def test_sample_is_of_whole_batches_and_holds_at_least_its_share(plan: Plan) -> None:
    batches = probe_batches(plan)
    assert len(batches) > 2
    assert sample_of(plan, 1.0) == batches
    for share in (0.05, 0.3, 0.7):
        sample = sample_of(plan, share)
        assert all(each in batches for each in sample)
        assert share * len(plan.probes) <= sum(map(len, sample)) < share * len(plan.probes) + plan.sampler.batch


def test_sample_is_the_same_for_a_seed_and_reaches_every_batch_with_others(plan: Plan) -> None:
    assert sample_of(plan, 0.05, 1) == sample_of(plan, 0.05, 1)
    reached = {sample_of(plan, 0.05, seed)[0] for seed in range(50)}
    assert reached == set(probe_batches(plan))


def test_patch_changes_the_pictures_so_that_replaying_can_tell(run: Path) -> None:
    seen = {(o.side, o.probe): o.image_digest for o in _audit(run).observations}
    assert all(seen["patched", probe] != found for (side, probe), found in seen.items() if side == "base")


def test_run_drawn_again_is_the_same(run: Path) -> None:
    result = _run(run, "--sample", "40%")
    assert result.exit_code == 0, result.stderr
    assert "all of them are the same" in result.stdout
    drawn = json.loads(_run(run, "--sample", "100%", "--json").stdout)
    assert drawn["drawn"] == drawn["planned"] == len(_audit(run).observations)


@pytest.mark.parametrize("side", ["base", "patched"])
def test_probe_whose_pixels_differ_is_named(run: Path, plan: Plan, tiny_checkpoint: Path, side: str) -> None:
    audit = _audit(run)
    spoiled = plan.probes[5].id
    observations = tuple(
        o.model_copy(update={"image_digest": digest("another picture")}) if (o.probe, o.side) == (spoiled, side) else o
        for o in audit.observations
    )
    patched = load_pipeline(tiny_checkpoint)
    apply_patch(patched, run / "patch.safetensors", plan.base.identity)
    forged = audit.model_copy(update={"observations": observations})
    found = replay(plan, forged, load_pipeline(tiny_checkpoint), patched, share=1.0)
    assert [(each.probe, each.side) for each in found.differing] == [(spoiled, side)]


def test_picture_that_the_audit_leaves_out_differs(run: Path, plan: Plan, tiny_checkpoint: Path) -> None:
    audit, pipeline = _audit(run), load_pipeline(tiny_checkpoint)
    base = [o for o in audit.observations if o.side == "base"]
    drawn_twice = [*base[1:], *(o.model_copy(update={"side": "patched"}) for o in base)]
    found = replay(plan, audit.model_copy(update={"observations": tuple(drawn_twice)}), pipeline, pipeline, share=1.0)
    assert [(each.probe, each.side) for each in found.differing] == [(base[0].probe, "base")]


@pytest.fixture
def nudged(tiny_checkpoint: Path) -> Any:
    """The base, computed a little otherwise, as on another machine."""
    pipeline = load_pipeline(tiny_checkpoint)
    with torch.no_grad():
        for weight in pipeline.vae.decoder.conv_out.parameters():
            weight.add_(0.002)
    return pipeline


@pytest.fixture
def patched(run: Path, plan: Plan, tiny_checkpoint: Path) -> Any:
    pipeline = load_pipeline(tiny_checkpoint)
    apply_patch(pipeline, run / "patch.safetensors", plan.base.identity)
    return pipeline


def test_tolerance_lets_pass_what_is_close_to_the_picture_that_was_judged(
    run: Path, plan: Plan, nudged: Any, patched: Any
) -> None:
    audit = _audit(run)
    exact = replay(plan, audit, nudged, patched, share=1.0, run=run)
    assert {each.side for each in exact.differing} == {"base"}
    assert exact.within == ()
    differences = sorted(each.difference for each in exact.differing if each.difference is not None)
    assert len(differences) == len(exact.differing) > 1
    assert all(0 < difference < 5 for difference in differences)
    wide = replay(plan, audit, nudged, patched, share=1.0, run=run, tolerance=differences[-1])
    assert (wide.within, wide.differing) == (exact.differing, ())
    narrow = replay(plan, audit, nudged, patched, share=1.0, run=run, tolerance=differences[0])
    assert {*narrow.within, *narrow.differing} == set(exact.differing)
    assert all(each.difference == differences[0] for each in narrow.within)


def test_difference_is_the_mean_of_grey_levels(
    run: Path, plan: Plan, tiny_checkpoint: Path, nudged: Any, patched: Any
) -> None:
    probes = probe_batches(plan)[0]
    as_judged, _ = draw_batch(plan, load_pipeline(tiny_checkpoint), probes)
    otherwise, _ = draw_batch(plan, nudged, probes)
    pairs = zip(as_judged[0].ravel().tolist(), otherwise[0].ravel().tolist(), strict=True)
    total = sum(abs(one - other) for one, other in pairs)
    found = replay(plan, _audit(run), nudged, patched, share=1.0, run=run)
    first = next(each for each in found.differing if each.probe == probes[0].id)
    assert first.difference == pytest.approx(total / otherwise[0].size)


def test_nothing_is_close_to_a_picture_that_is_gone_or_is_not_the_one_that_was_judged(
    run: Path, plan: Plan, nudged: Any, patched: Any, tmp_path: Path
) -> None:
    shutil.copytree(run / "images", tmp_path / "images")
    folder, audit = tmp_path / "images" / "base", _audit(run)
    gone, changed, cut, *_ = (folder / probe.picture_name for probe in plan.probes)
    gone.unlink()
    pixels = np.asarray(Image.open(changed)).copy()
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(changed)
    cut.write_bytes(cut.read_bytes()[:60])
    found = replay(plan, audit, nudged, patched, share=1.0, run=tmp_path, tolerance=255.0)
    assert [(each.probe, each.difference) for each in found.differing] == [(p.id, None) for p in plan.probes[:3]]
    assert len(found.within) == len(plan.probes) - 3


def test_command_with_a_tolerance_says_how_many_it_let_pass(
    run: Path, plan: Plan, tiny_checkpoint: Path, nudged: Any, tmp_path: Path
) -> None:
    shutil.copytree(run, tmp_path / "run")
    audit = _audit(run)
    first = plan.probes[0]
    picture = tmp_path / "run" / "images" / "base" / first.picture_name
    pixels = np.asarray(Image.open(picture)).copy()
    pixels[0, 0, 0] ^= 1  # as drawn on a machine whose last bit is another
    Image.fromarray(pixels).save(picture)
    seen = tuple(
        o.model_copy(update={"image_digest": bytes_digest(pixels.tobytes())})
        if (o.side, o.probe) == ("base", first.id)
        else o
        for o in audit.observations
    )
    passes = read_record(run / "passes.json", PassRecords)
    _judge(tmp_path / "run", plan, audit.model_copy(update={"observations": seen}), passes)
    exact = _run(tmp_path / "run", "--sample", "100%")
    assert exact.exit_code == 2
    assert f"{first.id} (base, by " in exact.stderr
    close = _run(tmp_path / "run", "--sample", "100%", "--tolerance", "0.5")
    assert close.exit_code == 0, close.stderr
    assert f"{2 * len(plan.probes) - 1} are the same, the others within 0.5 grey levels" in close.stdout


def test_audit_of_another_model_ends_with_2_and_names_its_probes(
    run: Path, plan: Plan, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    audit = _audit(run).model_copy(update={"passes_digest": None, "patched_digest": plan.base.identity})
    write_record(tmp_path / "plan.json", plan)
    _judge(tmp_path, plan, audit, None)
    result = _run(tmp_path, "--checkpoint", tiny_checkpoint, "--sample", "100%")
    assert result.exit_code == 2
    assert f"{plan.probes[0].id} (patched)" in result.stderr
    assert "(base)" not in result.stderr
    assert f"{len(plan.probes)} of {2 * len(plan.probes)} pictures" in result.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--sample", "0%"], "no share"),
        (["--sample", "101%"], "no share"),
        (["--sample", "5"], "no share"),
        (["--base", "builtin:emoji-sd"], "--base"),
        (["--checkpoint", "builtin:emoji-sd"], "a patch of its own"),
    ],
)
def test_what_cannot_be_replayed_is_bad_input(run: Path, options: list[str], said: str) -> None:
    result: Any = _run(run, *options)
    assert result.exit_code == 2
    assert said in result.stderr
