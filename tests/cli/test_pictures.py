"""The pictures inside report.html: which are there, which are blurred, and that they are the ones that were judged."""

from __future__ import annotations

import base64
import io
import random
import re
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fmn_guard import cli
from fmn_guard.cli.pictures import BLURRED, SHARP, read_pictures
from fmn_guard.errors import BrokenChain
from fmn_guard.evidence import Audit, Instrument, Observation, Side
from fmn_guard.facts import describe_checkpoint
from fmn_guard.gathered import gather
from fmn_guard.manifest import load_manifest
from fmn_guard.plan import Plan, compile_plan
from fmn_guard.policy import load_policy
from fmn_guard.record import bytes_digest, digest, read_record, write_record
from fmn_guard.render.html.page import html
from fmn_guard.render.html.samples import samples
from fmn_guard.report import judge
from fmn_guard.shipped import manifests, policies, suites
from fmn_guard.suite import load_suite

from .finished import Run, finished_run

SIDES: tuple[Side, ...] = ("base", "patched")


def draw(folder: Path, plan: Plan, audit: Audit, size: int) -> Audit:
    """Writes a picture of noise for every probe and side; gives the audit that has seen them."""
    noise = random.Random(0)
    seen: list[Observation] = []
    for side in SIDES:
        (folder / "images" / side).mkdir(parents=True)
    for observation in audit.observations:
        probe = next(p for p in plan.probes if p.id == observation.probe)
        pixels = noise.randbytes(size * size * 3)
        Image.frombytes("RGB", (size, size), pixels).save(folder / "images" / observation.side / probe.picture_name)
        seen.append(observation.model_copy(update={"image_digest": bytes_digest(pixels)}))
    return audit.model_copy(update={"observations": tuple(seen)})


def pictured_run(home: Path, size: int = 32) -> Run:
    """A finished run with its pictures: an object and an nsfw concept that are gone, and nothing lost."""
    run = finished_run(home)
    audit = draw(run.folder, run.plan, read_record(run.folder / "audit.json", Audit), size)
    write_record(run.folder / "audit.json", audit)
    judged = _report(run, "--policy", str(run.policy))
    assert judged.exit_code == 0, judged.stderr
    return run


def _report(run: Run, *options: str) -> Result:
    return CliRunner().invoke(cli.main, ["report", str(run.folder), *options], prog_name="fmn-guard")


def held(page: Path) -> dict[str, bytes]:
    """The pictures in a page, by their alternative text."""
    found = re.findall(r'<img src="data:image/\w+;base64,([^"]+)"[^>]* alt="([^"]+)"', page.read_text(encoding="utf-8"))
    return {alt: base64.b64decode(data, validate=True) for data, alt in found}


def size_of(data: bytes) -> tuple[int, int]:
    return Image.open(io.BytesIO(data)).size


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return pictured_run(tmp_path_factory.mktemp("home"))


def test_by_default_an_object_is_sharp_and_what_is_restricted_is_blurred(run: Run, tmp_path: Path) -> None:
    page = tmp_path / "a.html"
    assert _report(run, "-o", str(page)).exit_code == 0
    pictures = held(page)
    assert {("hamburger" in alt, "blurred" in alt, size_of(data)) for alt, data in pictures.items()} == {
        (True, False, (32, 32)),
        (False, True, (BLURRED, BLURRED)),
    }
    assert len(pictures) % 2 == 0


def test_blurred_page_holds_no_byte_of_the_sharp_file(run: Run, tmp_path: Path) -> None:
    page = tmp_path / "a.html"
    _report(run, "-o", str(page))
    text = page.read_text(encoding="utf-8")
    restricted = [p for p in run.plan.probes if p.subject == "pistol" and p.role == "target"]
    for probe in restricted:
        for side in SIDES:
            sharp = (run.folder / "images" / side / probe.picture_name).read_bytes()
            assert base64.b64encode(sharp).decode() not in text


def test_blur_is_the_mean_of_each_block(run: Run, tmp_path: Path) -> None:
    page = tmp_path / "a.html"
    _report(run, "-o", str(page))
    alt, data = next((alt, data) for alt, data in held(page).items() if "blurred" in alt)
    seed, side = re.findall(r"seed (\d+)", alt)[0], alt.split()[0]
    probe = next(p for p in run.plan.probes if p.subject == "pistol" and p.seed == int(seed) and p.role == "target")
    sharp = Image.open(run.folder / "images" / side / probe.picture_name)
    block = 32 // BLURRED
    pixels = [sharp.getpixel((x, y)) for x in range(block) for y in range(block)]
    mean = [sum(pixel[i] for pixel in pixels) / len(pixels) for i in range(3)]  # type: ignore[index]
    assert Image.open(io.BytesIO(data)).getpixel((0, 0)) == pytest.approx(mean, abs=1)


def test_full_shows_every_picture_sharp_and_none_shows_none(run: Run, tmp_path: Path) -> None:
    full, none = tmp_path / "full.html", tmp_path / "none.html"
    assert _report(run, "-o", str(full), "--embed-samples", "full").exit_code == 0
    assert _report(run, "-o", str(none), "--embed-samples", "none").exit_code == 0
    files = {path.read_bytes() for path in (run.folder / "images").rglob("*.png")}
    assert set(held(full).values()) <= files
    assert any("pistol" in alt for alt in held(full))
    assert held(none) == {}


def test_page_holds_the_pixels_of_a_file_and_nothing_else_of_it(tmp_path: Path) -> None:
    run = pictured_run(tmp_path)
    secret = PngInfo()
    secret.add_text("Comment", "drawn for somebody")
    for file in (run.folder / "images").rglob("*.png"):
        with Image.open(file) as picture:
            picture.save(file, pnginfo=secret)
    page = tmp_path / "a.html"
    assert _report(run, "-o", str(page), "--embed-samples", "full").exit_code == 0
    assert held(page)
    assert not [data for data in held(page).values() if b"drawn for somebody" in data]


def test_large_pictures_are_reduced(tmp_path: Path) -> None:
    run = pictured_run(tmp_path, size=160)
    page = tmp_path / "a.html"
    assert _report(run, "-o", str(page)).exit_code == 0
    sharp = [data for alt, data in held(page).items() if "blurred" not in alt]
    assert sharp
    assert {size_of(data) for data in sharp} == {(SHARP, SHARP)}
    assert all(data.startswith(b"\xff\xd8") for data in sharp)


def test_run_without_pictures_gives_a_page_without(tmp_path: Path) -> None:
    run = finished_run(tmp_path)
    assert _report(run, "-o", str(tmp_path / "a.html")).exit_code == 0
    assert held(tmp_path / "a.html") == {}


@pytest.mark.parametrize("damage", ["swapped", "cut off", "one pixel", "not a picture"])
def test_picture_that_was_not_judged_is_refused_and_nothing_written(damage: str, tmp_path: Path) -> None:
    run = pictured_run(tmp_path)
    probes = [p for p in run.plan.probes if p.role == "target"]
    file, other = (run.folder / "images" / "patched" / probe.picture_name for probe in probes[:2])
    match damage:
        case "swapped":
            file.write_bytes(other.read_bytes())
        case "cut off":
            file.write_bytes(file.read_bytes()[:200])
        case "one pixel":
            picture = Image.open(file).convert("RGB")
            picture.putpixel((3, 3), (0, 0, 0))
            picture.save(file)
        case "not a picture":
            file.write_bytes(b"<svg onload=alert(1)>")
    result = _report(run, "-o", str(tmp_path / "a.md"), "-o", str(tmp_path / "a.html"))
    assert result.exit_code == 2
    assert f"{file.name}: not the picture that was judged" in result.stderr
    assert "--embed-samples none" in result.stderr
    assert not list(tmp_path.glob("a.*"))


def test_picture_of_something_unseen_is_refused(run: Run, tmp_path: Path) -> None:
    audit = read_record(run.folder / "audit.json", Audit)
    first = next(samples(gather(run.plan, audit))).probe.id
    unseen = [o for o in audit.observations if (o.probe, o.side) != (first, "patched")]
    with pytest.raises(BrokenChain):
        read_pictures(run.folder, run.plan, audit.model_copy(update={"observations": tuple(unseen)}), "blurred")


def test_without_pillow_the_way_out_is_named(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)  # as if it were not installed
    result = _report(run, "-o", str(tmp_path / "a.html"))
    assert result.exit_code == 1
    assert "pip install pillow" in result.stderr
    assert _report(run, "-o", str(tmp_path / "a.html"), "--embed-samples", "none").exit_code == 0


@pytest.mark.parametrize("policy", ["default", "strict"])
def test_page_of_a_run_of_the_quickstart_stays_below_3_megabytes_however_badly_it_went(
    policy: str, tmp_path: Path
) -> None:
    manifest, rules = load_manifest(manifests() / "quickstart.yaml"), load_policy(policies() / f"{policy}.yaml")
    suite = load_suite(suites() / rules.spec.suite / "suite.yaml")
    plan = compile_plan(manifest, suite, describe_checkpoint(manifest.spec.base, manifests()))
    blank = Audit(
        plan_digest=plan.digest,
        passes_digest=None,
        patched_digest=digest("patched"),
        instruments=(
            Instrument(name="builtin-judge", version="1", licence="MIT", weights_digest=digest("judge"), labels=()),
        ),
        observations=tuple(
            Observation(
                probe=probe.id,
                side=side,
                image_digest=None,
                scores=dict.fromkeys(probe.labels, 0.1 if probe.role == "retained" and side == "patched" else 0.9),
                sightings={spec.called: () for spec in plan.detectors},
            )
            for side in SIDES
            for probe in plan.probes
        ),
    )
    audit = draw(tmp_path, plan, blank, size=40)  # noise does not compress: as many bytes as 64 pixels of a drawing
    pictures = read_pictures(tmp_path, plan, audit, "full")
    assert len(pictures) > 100
    assert len(html(judge(plan, audit, rules), plan, audit, None, pictures).encode()) < 3_000_000
