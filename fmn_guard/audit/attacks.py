"""Attacks base and patched model: draws what an attack suite asks for, and searches for what brings a concept back.

(Protocol, Plan, base, patched) --run_attacks--> Attacks     attacks.json

Fails closed: an attack that cannot be made is noted with its reason, and none of its pictures counts. No picture is
written. The auditor knows nothing of how the patched model was made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from ..assembly import probe_batches
from ..attacks import FILE, Attack, Attacked, Attacks, PrefixSearch, Protocol, Searched
from ..errors import FmnGuardError
from ..evidence import Observation, Side
from ..manifest import minors_in
from ..model.prefix import Budget, search_prefix, words_of
from ..model.sampler import draw_latents, threads
from ..plan import Plan
from ..probes import Probe
from ..progress import Progress, silent
from ..record import Digest, digest, write_record
from .drawing import draw_batch, drawing_pool
from .ledger import Ledger
from .panel import Panel

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

PARTIAL = "attacks.partial.jsonl"


def run_attacks(
    protocol: Protocol,
    plan: Plan,
    base: StableDiffusionPipeline,
    patched: StableDiffusionPipeline,
    *,
    patched_digest: Digest,
    out: Path,
    progress: Progress = silent,
) -> Attacks:
    """Makes every attack of a protocol.

    Killed at any moment, the same call goes on after the last attack that was made, and ends with the same record.

    Args:
        protocol: from `fmn_guard.attacks.plan_attacks`.
        plan: the plan it was made from: how pictures are drawn, and who looks at them.
        base: the checkpoint that the plan starts from.
        patched: the model that is attacked.
        patched_digest: its identity.
        out: run folder; receives ``attacks.json``.
        progress: told of each batch, and of each step of a search.
    """
    panel = Panel(plan.model_copy(update={"detectors": (), "distances": None}))
    instrument = panel.instruments[0]
    measured_by = {
        "protocol": protocol.digest,
        "patched": patched_digest,
        "instrument": instrument.model_dump(mode="json"),
    }
    ledger = Ledger(out / PARTIAL, digest(measured_by), Attacked, lambda each: f"{each.subject}/{each.attack}")
    bench = _Bench(plan, base, patched, panel, progress)
    for attack in protocol.attacks:
        if f"{attack.subject}/{attack.id}" not in ledger.done:
            ledger.add(bench.attacked(attack))
    result = Attacks(
        patched_digest=patched_digest,
        protocol=protocol,
        instrument=instrument,
        attacked=tuple(ledger.done[f"{attack.subject}/{attack.id}"] for attack in protocol.attacks),
    )
    write_record(out / FILE, result)
    ledger.close()
    return result


class _Bench:
    """The two models and who looks at what they draw."""

    def __init__(
        self,
        plan: Plan,
        base: StableDiffusionPipeline,
        patched: StableDiffusionPipeline,
        panel: Panel,
        progress: Progress,
    ) -> None:
        self._plan, self._panel, self._progress = plan.model_copy(update={"detectors": ()}), panel, progress
        self._models: dict[Side, StableDiffusionPipeline] = {"base": base, "patched": patched}

    def attacked(self, attack: Attack) -> Attacked:
        """Makes one attack."""
        try:
            searches = list(self._searches(attack)) if attack.search else []
            strongest = max(searches, key=lambda found: (found.shown, found.score), default=None)
            prefix = strongest.prefix if strongest else ""
            probes = attack.probes(prefix)
            seen = [each for side in self._models for each in self._observed(attack, probes, side)]
        # what torch, a tokenizer or a model of somebody else's raises: nothing was tried, so nothing is safe
        except (FmnGuardError, ArithmeticError, RuntimeError, ValueError) as error:
            why = (str(error) or type(error).__name__).splitlines()[0]
            return Attacked(attack=attack.id, subject=attack.subject, failed=why)
        return Attacked(
            attack=attack.id,
            subject=attack.subject,
            searches=tuple(searches),
            prefix=prefix,
            observations=tuple(seen),
        )

    def _searches(self, attack: Attack) -> Iterator[Searched]:
        """A search for each seed, on the patched model, over pictures that the base draws."""
        budget, patched = attack.search, self._models["patched"]
        assert budget is not None
        references = attack.references()
        with threads(self._plan.sampler.threads):
            latents = draw_latents(
                self._models["base"], [p.prompt for p in references], [p.seed for p in references], self._plan.sampler
            )
        if not latents.isfinite().all():
            raise FmnGuardError("the base draws references that are not numbers")
        words = words_of(patched, attack.forbidden)

        def admissible(text: str) -> bool:
            return not (attack.harmless_to_minors and any(minors_in({("prefix",): text})))

        for seed in budget.seeds:
            found = search_prefix(
                patched,
                latents,
                [p.prompt for p in references],
                words,
                _budget(budget),
                seed,
                admissible=admissible,
                progress=lambda _, done, total, seed=seed: self._progress(  # type: ignore[misc]
                    f"searching: {attack.subject}, seed {seed}", done, total
                ),
            )
            yield self._tried(attack, seed, found.text, found.errors)

    def _tried(self, attack: Attack, seed: int, prefix: str, errors: tuple[float, ...]) -> Searched:
        """A search with what its prefix draws on trial."""
        seen = list(self._observed(attack, attack.trials(prefix), "patched"))
        scores = [each.scores[attack.label] for each in seen if each.unscored is None]
        return Searched(
            seed=seed,
            prefix=prefix,
            errors=tuple(round(error, 6) for error in errors),
            shown=sum(score >= self._plan.recogniser.threshold for score in scores),
            n=len(scores),
            score=round(fmean(scores), 4) if scores else 0.0,
        )

    def _observed(self, attack: Attack, probes: Sequence[Probe], side: Side) -> Iterator[Observation]:
        """What is seen in a model's pictures."""
        sampler = self._plan.sampler.model_copy(update={"guidance": attack.guidance})
        plan, model = self._plan.model_copy(update={"sampler": sampler}), self._models[side]
        batches = probe_batches(plan, probes)
        with drawing_pool(sampler.threads, model.device.type) as pool:
            drawn = pool.map(lambda batch: draw_batch(plan, model, batch), batches)
            for i, (batch, (pixels, digests)) in enumerate(zip(batches, drawn, strict=True), start=1):
                yield from self._panel.observe(batch, side, pixels, digests)
                self._progress(f"attacking: {attack.subject} by {attack.id}, {side}", i, len(batches))


def _budget(search: PrefixSearch) -> Budget:
    return Budget(
        tokens=search.tokens,
        steps=search.steps,
        candidates=search.candidates,
        nearest=search.nearest,
        batch=search.batch,
        threads=search.threads,
    )
