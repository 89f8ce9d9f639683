"""The results store: whole batches or nothing, whatever happens to the process."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fmn_guard.assembly import PATCHED, Stage, assemble, batches_of, is_known, one_head, probe_keys
from fmn_guard.errors import BrokenChain, InputError
from fmn_guard.evidence import Audit, Instrument
from fmn_guard.record import digest
from fmn_guard.store import Drawing, Head, Results, Seen, Store, instrument_key, merged

from .builder import NUDENET, make_audit, make_plan
from .stored import fill, head_of, results_of

PLAN = make_plan(detectors=(NUDENET,))
DETECTOR = Instrument(name="nudenet", version="3", licence="AGPL-3.0", weights_digest=digest("320n"), labels=("X",))
AUDIT = make_audit(PLAN)
AUDIT = AUDIT.model_copy(
    update={
        "instruments": (*AUDIT.instruments, DETECTOR),
        # in the order in which an audit is put together
        "observations": tuple(sorted(AUDIT.observations, key=lambda o: o.side)),
    }
)
HEAD = head_of(AUDIT)
BATCHES = batches_of(PLAN, between=False)


def scored(audit: Audit) -> list[tuple[str, str, object]]:
    return [(o.probe, o.side, o.scores) for o in audit.observations]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    with Store(fill(tmp_path / "store.sqlite", PLAN, AUDIT)) as opened:
        yield opened


def test_audit_comes_out_as_it_went_in(store: Store) -> None:
    found = assemble(PLAN, HEAD, store)
    assert scored(found) == scored(AUDIT)
    assert all(o.unscored is None for o in found.observations)


def test_store_opened_again_by_another_process_knows_what_it_knew(store: Store, tmp_path: Path) -> None:
    store.close()
    with Store(tmp_path / "store.sqlite") as again:
        assert all(is_known(PLAN, HEAD, again, batch, keep_images=False) for batch in BATCHES)
        assert one_head(PLAN, again) == HEAD


def test_what_was_not_drawn_is_missing_and_never_left_out(tmp_path: Path) -> None:
    with Store(fill(tmp_path / "store.sqlite", PLAN, AUDIT, BATCHES[:-1])) as store:
        assert not is_known(PLAN, HEAD, store, BATCHES[-1], keep_images=False)
        with pytest.raises(InputError, match=f"{len(BATCHES[-1].probes)} of 152"):
            assemble(PLAN, HEAD, store)


@pytest.mark.parametrize(
    "change",
    [
        {"patched_digest": digest("another")},
        {"device": "cuda"},
        {"precision": "float16"},
        {"instruments": HEAD.instruments[:1]},
    ],
    ids=["model", "device", "precision", "detectors"],
)
def test_what_another_model_device_or_detector_gave_is_not_taken_for_its_own(store: Store, change: dict) -> None:
    other = HEAD.model_copy(update=change)
    if "instruments" in change:
        newer = DETECTOR.model_copy(update={"weights_digest": digest("640m")})
        other = HEAD.model_copy(update={"instruments": (*HEAD.instruments[:1], newer)})
    patched = [batch for batch in BATCHES if batch.stage.side == "patched"]
    assert not any(is_known(PLAN, other, store, batch, keep_images=False) for batch in patched)


def test_keys_tell_apart_all_that_decides_the_pixels() -> None:
    batch = BATCHES[0]
    probe = batch.probes[0]
    sampler = PLAN.sampler

    def key(plan=PLAN, head=HEAD, batch=batch, probe=None) -> str:
        asked = batch._replace(probes=(probe, *batch.probes[1:])) if probe else batch
        return probe_keys(plan, head, asked)[0]

    samplers = [{"steps": 11}, {"guidance": 2.5}, {"unguided": 1}, {"size": 64}, {"threads": 1}]
    others = [
        *(key(plan=PLAN.model_copy(update={"sampler": sampler.model_copy(update=each)})) for each in samplers),
        key(head=HEAD.model_copy(update={"device": "cuda"})),
        key(head=HEAD.model_copy(update={"precision": "float16"})),
        key(batch=batch._replace(probes=batch.probes[:-1])),
        *(key(batch=batch._replace(stage=stage)) for stage in (PATCHED, Stage("patched", 1), Stage("patched", 2))),
        key(batch=batch._replace(probes=(probe,) * len(batch.probes))),
        key(batch=batch._replace(purpose="attention")),
        key(probe=probe.model_copy(update={"prompt": "another"})),
        key(probe=probe.model_copy(update={"seed": 99})),
    ]
    assert len({key(), *others}) == len(others) + 1
    assert key(probe=probe.model_copy(update={"id": "renamed", "labels": ("concept:else",)})) == key()


def test_audit_begun_again_with_another_detector_is_of_that_one(store: Store) -> None:
    newer = HEAD.model_copy(update={"instruments": HEAD.instruments[:1]})
    store.begin(newer)
    assert one_head(PLAN, store) == newer
    store.begin(HEAD)
    assert one_head(PLAN, store) == HEAD


def test_failure_is_asked_again_and_gives_way_to_what_is_seen_then(store: Store) -> None:
    batch = BATCHES[0]
    given = results_of(PLAN, AUDIT, batch)
    key = next(iter(given.seen))
    failed = Seen(failed="RuntimeError")
    store.add(Results(seen={key: failed}))
    assert store.seen(*key) == given.seen[key]  # what is known is not made worse
    picture, other = digest("picture"), instrument_key(DETECTOR)
    store.add(Results(seen={(picture, other): failed}))
    assert store.seen(picture, other) == failed
    store.add(Results(seen={(picture, other): Seen(sightings=())}))
    assert store.seen(picture, other) == Seen(sightings=())


def test_batch_that_holds_a_picture_known_otherwise_is_refused_whole(store: Store) -> None:
    key = probe_keys(PLAN, HEAD, BATCHES[0])[0]
    new = {"new": Drawing(picture=None, constant=True), key: Drawing(picture=digest("otherwise"), constant=False)}
    with pytest.raises(BrokenChain, match="other last bits"):
        store.add(Results(drawings=new))
    assert store.drawing("new") is None


def test_explicit_picture_is_taken_out_once_a_detector_sees_what_it_is(store: Store) -> None:
    store.add(Results(pictures={digest("nude"): b"png"}))
    assert store.picture(digest("nude")) == b"png"
    store.add(Results(explicit=frozenset({digest("nude")})))
    assert not store.has_picture(digest("nude"))


def test_shards_are_put_together_in_any_order(tmp_path: Path) -> None:
    shards = [fill(tmp_path / f"{i}.sqlite", PLAN, AUDIT, BATCHES[i::3]) for i in range(3)]
    whole = []
    for name, order in (("a", shards), ("b", [*reversed(shards), shards[0]])):
        with merged(tmp_path / name, order) as store:
            whole.append(assemble(PLAN, one_head(PLAN, store), store))
    assert digest(whole[0]) == digest(whole[1])
    assert scored(whole[0]) == scored(AUDIT)


def test_shards_that_computed_otherwise_are_not_put_together(tmp_path: Path) -> None:
    first = fill(tmp_path / "1.sqlite", PLAN, AUDIT)
    changed = [o.model_copy(update={"image_digest": digest(["other", o.probe])}) for o in AUDIT.observations]
    second = fill(tmp_path / "2.sqlite", PLAN, AUDIT.model_copy(update={"observations": tuple(changed)}))
    with pytest.raises(BrokenChain, match="otherwise"):
        merged(tmp_path / "whole.sqlite", [first, second])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"patched_digest": digest("another")}, "patched_digest"),
        ({"instruments": AUDIT.instruments[:1]}, "instruments"),
    ],
)
def test_shards_of_several_models_or_panels_are_refused(tmp_path: Path, change: dict, named: str) -> None:
    with Store(tmp_path / "2.sqlite") as store:
        store.begin(HEAD.model_copy(update=change))
    shards = [fill(tmp_path / "1.sqlite", PLAN, AUDIT, BATCHES[:1]), tmp_path / "2.sqlite"]
    with merged(tmp_path / "whole.sqlite", shards) as store, pytest.raises(BrokenChain, match=named):
        one_head(PLAN, store)


def test_store_of_another_plan_says_nothing_of_this_one(store: Store) -> None:
    with pytest.raises(InputError, match="nothing of this plan"):
        one_head(make_plan(), store)


@pytest.mark.parametrize("content", [b"not a database at all, only text", b"SQLite format 3\0" + b"\xff" * 4096])
def test_file_that_is_no_store_is_bad_input(tmp_path: Path, content: bytes) -> None:
    (path := tmp_path / "store.sqlite").write_bytes(content)
    with pytest.raises(InputError, match="cannot be used as a results store"):
        Store(path)
    assert path.read_bytes() == content


def test_store_of_another_version_or_purpose_is_bad_input(tmp_path: Path) -> None:
    for name, statement in (("newer", "PRAGMA user_version = 99"), ("other", "CREATE TABLE cookies (a)")):
        with sqlite3.connect(tmp_path / name) as db:
            db.execute(statement)
        with pytest.raises(InputError, match="no results store of this version"):
            Store(tmp_path / name)


def test_damaged_row_is_a_broken_chain(store: Store, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "store.sqlite") as db:
        db.execute('UPDATE seen SET record = \'{"scores": {"concept:pistol": "none"}}\'')
    with pytest.raises(BrokenChain, match="damaged"):
        assemble(PLAN, HEAD, store)


WRITER = """
import sys
from pathlib import Path
from fmn_guard.record import digest
from fmn_guard.store import Drawing, Results, Seen, Store

with Store(Path(sys.argv[1])) as store:
    print("open", flush=True)
    for batch in range(10**6):
        keys = [f"{batch}/{i}" for i in range(16)]
        store.add(Results(
            drawings={key: Drawing(picture=digest(key), constant=False) for key in keys},
            seen={(digest(key), digest("judge")): Seen(scores={"x": 0.5}) for key in keys},
            pictures={digest(key): b"x" * 5000 for key in keys},
        ))
"""


def test_process_killed_at_any_moment_leaves_whole_batches(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    written = 0
    for wait in (0.05, 0.17, 0.31):
        path.unlink(missing_ok=True)
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None and process.stdout.readline()
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        with Store(path) as store:
            batch = 0
            while store.drawing(f"{batch}/0"):
                for key in (f"{batch}/{i}" for i in range(16)):
                    assert store.drawing(key) and store.seen(digest(key), digest("judge"))
                    assert store.has_picture(digest(key))
                batch += 1
            assert not any(store.drawing(f"{batch}/{i}") for i in range(16))
            written += batch
        for end in ("-wal", "-shm"):
            Path(f"{path}{end}").unlink(missing_ok=True)
    assert written, "killed before anything was written: the test shows nothing"


def test_head_is_the_same_record_wherever_it_is_read() -> None:
    assert Head.model_validate_json(HEAD.model_dump_json()) == HEAD
