"""Whoever draws what, and whatever is killed meanwhile, the audit is the same."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fmn_guard.assembly import Shard, batches_of, finish, one_head, partial_store, remove_partial_stores
from fmn_guard.audit.auditor import measure
from fmn_guard.audit.distances import distances_of
from fmn_guard.audit.drawing import draw_batch
from fmn_guard.audit.executors import inline
from fmn_guard.audit.stages import Models
from fmn_guard.evidence import Audit
from fmn_guard.instruments import DistancesSpec, EmbedderSpec
from fmn_guard.model.checkpoint import load_pipeline
from fmn_guard.plan import Plan
from fmn_guard.probes import Probe
from fmn_guard.record import digest, write_record
from fmn_guard.store import merged

from .test_auditor import plan_for

PATCHED = digest("patched")
DISTANCES = DistancesSpec(clip=EmbedderSpec(called="clip", folder="builtin:emoji-clip"))


@pytest.fixture(scope="module")
def plan(tiny_checkpoint: Path) -> Plan:
    """Twelve pictures a side in batches of two, seen by the real judge, a real CLIP and NudeNet if it is there."""
    made = plan_for(tiny_checkpoint)
    sampler = made.sampler.model_copy(update={"batch": 2, "threads": 1})
    return made.model_copy(update={"sampler": sampler, "distances": DISTANCES})


@pytest.fixture(scope="module")
def unbroken(plan: Plan, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an audit that nothing disturbed."""
    folder = tmp_path_factory.mktemp("unbroken")
    assert measured(plan, tiny_checkpoint, folder) is not None
    return folder


def measured(plan: Plan, checkpoint: Path, out: Path, **how: object) -> Audit | None:
    load = partial(load_pipeline, checkpoint)
    return measure(plan, Models(load, load), patched_digest=PATCHED, passes_digest=None, out=out, **how)  # type: ignore[arg-type]


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a run folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_pictures_do_not_depend_on_who_else_is_in_their_batch(plan: Plan, tiny_checkpoint: Path) -> None:
    model = load_pipeline(tiny_checkpoint)
    probes = plan.probes[:6]
    pixels, digests = draw_batch(plan, model, probes)
    others = tuple(probe.model_copy(update={"prompt": "a portrait", "seed": 7}) for probe in probes)
    mixed = (probes[5], others[1], probes[3], others[3], probes[1], others[5])
    assert draw_batch(plan, model, mixed)[1][::2] == [digests[5], digests[3], digests[1]]
    assert len(pixels) == 6


def test_shards_of_several_folders_make_the_unbroken_audit(
    plan: Plan, tiny_checkpoint: Path, unbroken: Path, tmp_path: Path
) -> None:
    of = 3
    folders = [tmp_path / str(number) for number in range(1, of + 1)]
    for number, folder in enumerate(folders, 1):
        shard = Shard(number, of)
        assert measured(plan, tiny_checkpoint, folder, shard=shard) is None
        assert not (folder / "audit.json").exists()
    stores = [partial_store(folder, Shard(n, of)) for n, folder in enumerate(folders, 1)]
    whole = tmp_path / "whole"
    whole.mkdir()
    with merged(partial_store(whole), stores) as store:
        finish(plan, one_head(plan, store), store, whole, keep_images=True, distances=distances_of)
    remove_partial_stores(whole)
    assert content(whole) == content(unbroken)


def test_audit_without_a_shard_draws_what_the_shards_in_its_folder_left_out(
    plan: Plan, tiny_checkpoint: Path, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(plan, tiny_checkpoint, tmp_path, shard=Shard(2, 3))
    drawn = 0
    real = inline.draw_batch

    def counted(*arguments: Any) -> Any:
        nonlocal drawn
        drawn += 1
        return real(*arguments)

    monkeypatch.setattr(inline, "draw_batch", counted)
    measured(plan, tiny_checkpoint, tmp_path)
    batches = batches_of(plan, between=False)
    left = [batch for batch in batches if batch not in Shard(2, 3).share(batches)]
    assert drawn == sum(batch.purpose == "pictures" for batch in left)
    assert content(tmp_path) == content(unbroken)


def test_shards_share_out_every_batch_once(plan: Plan) -> None:
    batches = batches_of(plan, between=False)
    for of in (1, 2, 5, 100):
        shares = [each for number in range(1, of + 1) for each in Shard(number, of).share(batches)]
        assert sorted(map(repr, shares)) == sorted(map(repr, batches))


def test_kept_store_draws_nothing_twice(plan: Plan, tiny_checkpoint: Path, unbroken: Path, tmp_path: Path) -> None:
    store = tmp_path / "store.sqlite"
    first = measured(plan, tiny_checkpoint, tmp_path / "first", kept_store=store)

    def refuse() -> None:
        raise AssertionError("nothing has to be drawn")

    models = Models(refuse, refuse)  # type: ignore[arg-type]
    out = tmp_path / "second"
    again = measure(plan, models, patched_digest=PATCHED, passes_digest=None, out=out, kept_store=store)
    assert again == first
    assert content(out) == content(unbroken)


def test_widened_audit_draws_only_what_is_new(
    plan: Plan, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store.sqlite"
    narrow = plan.model_copy(update={"probes": plan.probes[:6]})  # three whole batches
    measured(narrow, tiny_checkpoint, tmp_path / "narrow", kept_store=store)
    more = [p.model_copy(update={"id": f"{p.id}0", "seed": p.seed + 500, "positions": ()}) for p in narrow.probes[:4]]
    # what is known stands at other places of the plan, and beside others
    wide = plan.model_copy(update={"probes": (*more, *reversed(narrow.probes))})
    drawn: list[str] = []
    real = inline.draw_batch

    def noted(plan: Plan, model: Any, probes: tuple[Probe, ...]) -> Any:
        drawn.extend(probe.id for probe in probes)
        return real(plan, model, probes)

    monkeypatch.setattr(inline, "draw_batch", noted)
    audit = measured(wide, tiny_checkpoint, tmp_path / "wide", kept_store=store)
    assert sorted(drawn) == sorted(2 * [probe.id for probe in more])
    assert audit == measured(wide, tiny_checkpoint, tmp_path / "afresh")


SCRIPT = """
import sys
from functools import partial
from pathlib import Path
from typing import Any
import fmn_guard.store as store
from fmn_guard.audit.auditor import measure
from fmn_guard.audit.drawing import draw_batch
from fmn_guard.audit.executors import inline
from fmn_guard.audit.stages import Models
from fmn_guard.model.checkpoint import load_pipeline
from fmn_guard.plan import Plan
from fmn_guard.record import read_record

plan, checkpoint, out, patched = sys.argv[1:5]
load = partial(load_pipeline, Path(checkpoint))
real = store.Store.add
def told(self, results):
    real(self, results)
    print("added", flush=True)
store.Store.add = told
measure(read_record(Path(plan), Plan), Models(load, load), patched_digest=patched, passes_digest=None,
        out=Path(out))
"""


def killed_after(batches: int, plan: Path, checkpoint: Path, out: Path, seconds: float) -> bool:
    """Audits in a process of its own, which is killed some time after so many batches; whether it came that far."""
    command = [sys.executable, "-c", SCRIPT, str(plan), str(checkpoint), str(out), PATCHED]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    seen = sum(1 for _, line in zip(range(batches), process.stdout, strict=False) if line)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    return seen == batches


def interrupted_run(plan: Plan, checkpoint: Path, folder: Path, kills: list[tuple[int, float]]) -> Path:
    """An audit that was killed at each of some moments, and then finished."""
    out = folder / "run"
    write_record(folder / "plan.json", plan)
    for batches, seconds in kills:
        assert killed_after(batches, folder / "plan.json", checkpoint, out, seconds)
        assert not (out / "audit.json").exists()
    measured(plan, checkpoint, out)
    return out


def test_audit_that_is_killed_ends_as_an_unbroken_one(
    plan: Plan, tiny_checkpoint: Path, unbroken: Path, tmp_path: Path
) -> None:
    out = interrupted_run(plan, tiny_checkpoint, tmp_path, [(2, 0.03)])
    assert content(out) == content(unbroken)


@pytest.mark.slow
def test_audit_of_a_thousand_pictures_killed_five_times_ends_as_an_unbroken_one(
    plan: Plan, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    probes = tuple(
        plan.probes[i % len(plan.probes)].model_copy(
            update={"id": f"{plan.probes[i % len(plan.probes)].id}-{i}", "seed": 5000 + i, "positions": ()}
        )
        for i in range(500)
    )
    sampler = plan.sampler.model_copy(update={"batch": 16})
    large = plan.model_copy(update={"probes": probes, "sampler": sampler, "detectors": ()})
    unbroken = measured(large, tiny_checkpoint, tmp_path / "unbroken")
    assert unbroken is not None and len(unbroken.observations) == 1000
    out = interrupted_run(large, tiny_checkpoint, tmp_path, [(3, 0.0), (5, 0.05), (8, 0.11), (13, 0.17), (4, 0.23)])
    assert content(out) == content(tmp_path / "unbroken")


@pytest.fixture(scope="module")
def cluster() -> Iterator[object]:
    ray = pytest.importorskip("ray")
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=128 * 2**20, log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.mark.slow
def test_ray_makes_the_audit_that_this_process_makes(
    cluster: object, plan: Plan, tiny_checkpoint: Path, unbroken: Path, tmp_path: Path
) -> None:
    measured(plan, tiny_checkpoint, tmp_path, on_ray=True)
    assert content(tmp_path) == content(unbroken)


@pytest.mark.slow
def test_worker_that_is_killed_meanwhile_loses_nothing(
    cluster: object, plan: Plan, tiny_checkpoint: Path, unbroken: Path, tmp_path: Path
) -> None:
    killed: list[int] = []

    def kill(what: str, done: int, total: int) -> None:
        if done < total and len(killed) < 2:
            for pid in _actors() - set(killed):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    measured(plan, tiny_checkpoint, tmp_path, on_ray=True, progress=kill)
    assert len(killed) >= 2
    assert content(tmp_path) == content(unbroken)


def _actors() -> set[int]:
    """Processes of the actors below this one, read from /proc: Ray's own list needs its dashboard."""
    parents: dict[int, int] = {}
    titles: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            titles[int(folder.name)] = (folder / "cmdline").read_text()

    def is_below(pid: int) -> bool:
        return pid == os.getpid() or (pid in parents and is_below(parents[pid]))

    return {
        pid
        for pid, title in titles.items()
        if title.startswith(("ray::_Generator", "ray::_Detector")) and is_below(pid)
    }
