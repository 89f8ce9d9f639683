"""``make bench-mscore``: M-Scores where the truth is known. Rows are resumable; a killed run goes on where it stopped.

Forgets six concepts on the built-in model, then inverts: on the base with other seeds, on the base with a random change
of the patch's size, on the patched model by one token, and by four; and on a model that was trained without six
concepts. With ``--rounds`` each pass has inversion rounds. Everything is on one thread.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from fmn_guard.audit.mscore import run_mscore
from fmn_guard.forget.patch import apply_patch, edits_after, patched_digest, read_patch
from fmn_guard.forget.runner import run_plan
from fmn_guard.inversion import InversionSettings
from fmn_guard.lint import lint_manifest, lint_policy
from fmn_guard.model.checkpoint import load_pipeline
from fmn_guard.model.inversion import invert, sentence_vector, sentence_vectors
from fmn_guard.model.sampler import draw_latents
from fmn_guard.mscore import (
    FIRST_ANCHOR_SEED,
    LEAST_CONTROLS,
    MScore,
    Protocol,
    Score,
    Subject,
    drop_of,
    noise_floor,
    plan_mscore,
    read_mscore,
    summarise,
)
from fmn_guard.plan import Plan, compile_plan
from fmn_guard.record import digest, file_digest, read_record, write_record
from fmn_guard.render.inversion import figure, floor_words
from fmn_guard.shipped import policies

from ..verdicts.plants import GOLD

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

HERE = Path(__file__).parent
RETAINED = 6
ROWS = ("patched", "random change", "other seeds", "four tokens", "gold")


def main() -> None:
    """Runs the rows that are asked for, and prints each as it is done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, help="a finished run to take in place of forgetting six concepts")
    parser.add_argument(
        "--rounds", type=int, default=0, help="inversion rounds of each of the six passes; none usually"
    )
    parser.add_argument("--out", type=Path, default=Path("build/bench-mscore"), help="where rows are kept")
    parser.add_argument("--row", choices=ROWS, action="append", help="only this row; may be given several times")
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(options.out, options.run, options.rounds)
    rows: dict[str, Callable[[], Iterator[str]]] = {
        "patched": bench.patched,
        "other seeds": bench.other_seeds,
        "random change": bench.random_change,
        "four tokens": bench.four_tokens,
        "gold": bench.gold,
    }
    for name in options.row or ROWS:
        began = time.monotonic()
        for line in rows[name]():
            print(line, flush=True)
        print(f"  ({name}: {time.monotonic() - began:.0f} s)\n", flush=True)


class Bench:
    """The base, the patch, and what is measured with them."""

    def __init__(self, out: Path, run: Path | None, rounds: int) -> None:
        self._cache = out / "cache"
        self._out = out = out / f"rounds-{rounds}" if rounds else out
        document, self._checkpoint = lint_manifest(HERE / "manifest.yaml")
        if rounds:
            eraser = document.spec.eraser.model_copy(update={"inversion_rounds": rounds})
            document = document.model_copy(update={"spec": document.spec.model_copy(update={"eraser": eraser})})
        if run is not None:
            self._plan, self._patch = read_record(run / "plan.json", Plan), run / "patch.safetensors"
        else:
            plan = compile_plan(document, lint_policy(policies() / "default.yaml")[1], self._checkpoint)
            passes = tuple(spec.model_copy(update={"threads": 1}) for spec in plan.passes)
            self._plan, self._patch = plan.model_copy(update={"passes": passes}), out / "patch.safetensors"
            if not self._patch.exists():
                run_plan(self._plan, self._checkpoint, out, progress=_said)
        # The first five controls tell the noise floor; the others are retained concepts to be told from the forgotten.
        words = self._checkpoint.words()
        self._protocol: Protocol = plan_mscore(
            self._plan, words, controls=LEAST_CONTROLS + RETAINED, replay_tokens=(), replays=4
        )

    def patched(self) -> Iterator[str]:
        """Forgotten and retained on one patched model: can the drop tell them apart?"""
        yield from self._told_apart("base and patched", self._measure("patched", self._protocol, self._patched_model()))

    def gold(self) -> Iterator[str]:
        """Concepts that a model was trained without, and retained ones: the drop where nothing is hidden."""
        document, _ = lint_manifest(GOLD.with_suffix(".yaml"))
        plan = compile_plan(document, lint_policy(policies() / "default.yaml")[1], self._checkpoint)
        words = self._checkpoint.words()
        protocol = plan_mscore(plan, words, controls=LEAST_CONTROLS + RETAINED, replay_tokens=(), replays=4)
        model = load_pipeline(self._checkpoint.folder)
        model.unet.load_state_dict({name: weight.float() for name, weight in load_file(GOLD).items()})
        found = self._measure("gold", protocol, model, file_digest(GOLD), plan)
        yield from self._told_apart("base and a model trained without the concepts", found)

    def _told_apart(self, title: str, found: MScore) -> Iterator[str]:
        usual, retained = self._split(found)
        yield from _table(title, usual)
        forgotten = [score for score in usual.scores if score.role == "target"]
        yield "  retained, and no controls: " + ", ".join(f"{s.slug} {drop(s):.3f}" for s in retained)
        yield f"  AUC by drop, {len(forgotten)} forgotten, {len(retained)} retained: " + _auc(forgotten, retained, drop)
        yield "  AUC by how little base and patched are alike: " + _auc(
            forgotten, retained, lambda s: -fmean(s.between)
        )
        floor = noise_floor(usual.scores)
        assert floor is not None, "a control was not measured"
        beyond = [sum(drop(score) > floor.threshold for score in group) for group in (forgotten, retained)]
        yield f"  beyond the noise floor: {beyond[0]} of the forgotten, {beyond[1]} of the retained"

    def other_seeds(self) -> Iterator[str]:
        """The base beside itself, inverted from other noise."""
        first = self._measure("patched", self._protocol, self._patched_model())
        first, _ = self._split(first)
        base, settings = load_pipeline(self._checkpoint.folder), self._protocol.inversion
        settings = settings.model_copy(update={"seeds": tuple(seed + len(settings.seeds) for seed in settings.seeds)})
        scores = [self._from_other_noise(subject, score, base, settings) for subject, score in _pairs(first)]
        yield from _table(
            "base and base, other seeds (alike: seeds of one side)", first.model_copy(update={"scores": tuple(scores)})
        )

    def _from_other_noise(
        self, subject: Subject, score: Score, base: StableDiffusionPipeline, settings: InversionSettings
    ) -> Score:
        kept = (
            self._out / "other" / f"{subject.slug}-{digest([subject.model_dump(), settings.model_dump()])[7:15]}.json"
        )
        if kept.exists():
            return read_record(kept, Score)
        prompts = [subject.sentence(frame) for frame in subject.frames]
        seeds = range(FIRST_ANCHOR_SEED, FIRST_ANCHOR_SEED + len(prompts))
        latents = draw_latents(base, prompts, seeds, self._plan.sampler)
        found = invert(base, latents, subject.frames, self._protocol.word, settings, _said)
        r = sentence_vector(base, subject.sentence(subject.template))
        cosines = F.cosine_similarity(sentence_vectors(base, subject.template, found), r[None])
        other = score.model_copy(
            update={"patched": tuple(cosines.tolist()), "between": score.among, "replays": ()},
        )
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_record(kept, other)
        return other

    def random_change(self) -> Iterator[str]:
        """The base with a random change of each weight, of the norm of the patch's."""
        model = load_pipeline(self._checkpoint.folder)
        weights, generator = dict(model.unet.named_parameters()), torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, edit in edits_after(read_patch(self._patch).parts).items():
                noise = torch.randn(edit.shape, generator=generator)
                weights[name] += noise * (edit.norm() / noise.norm())
        found = self._measure("random", self._small(self._protocol), model, digest("random"))
        yield from _table("base and a random change of equal norm", found)

    def four_tokens(self) -> Iterator[str]:
        """What four tokens bring back of what was forgotten."""
        targets = tuple(s for s in self._protocol.subjects if s.role == "target")
        settings = self._protocol.inversion.model_copy(update={"tokens": 4})
        protocol = self._protocol.model_copy(update={"inversion": settings, "replay_tokens": (4,), "subjects": targets})
        yield from _table("base and patched, four tokens", self._measure("four", protocol, self._patched_model()))

    def _patched_model(self) -> StableDiffusionPipeline:
        model = load_pipeline(self._checkpoint.folder)
        apply_patch(model, self._patch, self._plan.base.identity)
        return model

    def _measure(
        self,
        name: str,
        protocol: Protocol,
        model: StableDiffusionPipeline,
        identity: str | None = None,
        plan: Plan | None = None,
    ) -> MScore:
        patched = identity or patched_digest(self._patch, self._plan.base.identity)
        known = read_mscore(self._out / name)
        if known is not None and (known.protocol, known.patched_digest) == (protocol, patched):
            return known
        return run_mscore(
            protocol,
            plan or self._plan,
            load_pipeline(self._checkpoint.folder),
            model,
            patched_digest=patched,
            out=self._out / name,
            cache=self._cache,
            progress=_said,
        )

    @staticmethod
    def _small(protocol: Protocol) -> Protocol:
        """A protocol without the retained concepts that are no controls."""
        return protocol.model_copy(update={"subjects": protocol.subjects[:-RETAINED]})

    def _split(self, found: MScore) -> tuple[MScore, list[Score]]:
        """What a run would have measured, and the retained concepts beside it."""
        return found.model_copy(
            update={"protocol": self._small(found.protocol), "scores": found.scores[:-RETAINED]}
        ), list(found.scores[-RETAINED:])


def drop(score: Score) -> float:
    """M0 - M1."""
    found = drop_of(score)
    assert found is not None, f"{score.slug}: {score.unmeasured}"
    return found


def _auc(forgotten: Sequence[Score], retained: Sequence[Score], by: Callable[[Score], float]) -> str:
    return f"{auc([by(s) for s in forgotten], [by(s) for s in retained]):.3f}"


def auc(high: Sequence[float], low: Sequence[float]) -> float:
    """Share of pairs in which what should be higher is; a tie counts half."""
    return fmean(float(a > b) + 0.5 * float(a == b) for a in high for b in low)


def _pairs(found: MScore) -> Iterator[tuple[Subject, Score]]:
    return zip(found.protocol.subjects, found.scores, strict=True)


def _table(title: str, found: MScore) -> Iterator[str]:
    summary = summarise(found, 0.95)
    yield f"{title}; {summary.seeds} seeds, {summary.steps} steps"
    for row in summary.rows:
        replays = "; ".join(f"{r.tokens} token(s): {r.words}" for r in row.replays)
        figures = " ".join(f"{figure(value):>7}" for value in (row.m0, row.m1, row.drop, row.between))
        yield f"  {row.slug:14} {figures}  {row.reading}{f'; {replays}' if replays else ''}"
    yield f"  {floor_words(summary)}"


def _said(what: str, done: int, total: int) -> None:
    if done % 20 == 0:
        print(f"{what}: {done} of {total}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
