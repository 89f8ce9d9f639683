"""The plan: everything that will be done, resolved before anything is done.

`compile_plan` writes nothing. Below it nobody reads YAML, an environment variable or a default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from .compilation import passes_of
from .errors import InputError
from .facts import Checkpoint, ModelFacts
from .instruments import AnyRecogniserSpec, DetectorSpec, DistancesSpec, EmbedderSpec, resolved
from .manifest import Manifest, SequenceMode, minors_in
from .passes import PassSpec
from .presets import PRESETS
from .probes import Probe, probes_between, probes_of
from .prompt_sets.protocols import PromptSet
from .prompt_sets.rows import prompt_sets_of
from .record import Digest, Record, Slug, digest
from .source import Source
from .suite import AuditSuite, Sampler


class Plan(Record):
    """Everything `run_plan` and `audit` need. Its digest names the run."""

    schema_version: Literal["fmn-guard/plan/v1"] = "fmn-guard/plan/v1"
    """Format of this record."""
    name: Slug
    """The manifest's name."""
    manifest_digest: Digest
    """Digest of the manifest's content."""
    suite_digest: Digest
    """Digest of the suite's content."""
    suite: Slug
    """The suite's name."""
    base: ModelFacts
    """The checkpoint to start from."""
    base_pinned: Annotated[bool, Field(exclude_if=lambda pinned: not pinned)] = False
    """Whether the manifest states the weights digest that the base must have."""
    passes: tuple[PassSpec, ...]
    """Passes, in order."""
    sequence: Annotated[SequenceMode, Field(exclude_if=lambda mode: mode == "sequential")] = "sequential"
    """How they follow one another, if they do: see `fmn_guard.sequence`."""
    merge_preserve: Annotated[float | None, Field(exclude_if=lambda weight: weight is None)] = None
    """Weight of the retained language when passes are merged or mended, against what they deliver of their concepts."""
    merge_looks: Annotated[int, Field(exclude_if=lambda looks: not looks)] = 0
    """How often that solution is looked at for the words that it moves most, and solved again with these held."""
    probes: tuple[Probe, ...]
    """Pictures to draw on either side."""
    between: Annotated[tuple[tuple[str, ...], ...], Field(exclude_if=lambda ids: not ids)] = ()
    """Ids of probes that are drawn after each pass but the last as well, with the model as it then is."""
    sampler: Sampler
    """How they are drawn."""
    recogniser: AnyRecogniserSpec
    """Who judges them."""
    detectors: tuple[DetectorSpec, ...]
    """Who looks as well."""
    prompt_sets: Annotated[tuple[PromptSet, ...], Field(exclude_if=lambda sets: not sets)] = ()
    """Published prompt sets, whose probes are ``prompted``."""
    distances: Annotated[DistancesSpec | None, Field(exclude_if=lambda asked: asked is None)] = None
    """Who tells how far pictures of what is retained are from the base's; None where nobody is asked."""
    source: Source | None = None
    """Where the manifest stood; None where that is not known."""

    @property
    def digest(self) -> Digest:
        """Digest of all of it but where things lie and what follows from the rest.

        The same plan has the same digest on another machine.
        """
        return plan_digest(self.model_dump(mode="json", by_alias=True))

    @property
    def embedders(self) -> tuple[EmbedderSpec, ...]:
        """Networks that make vectors of pictures; they come last among the instruments."""
        return self.distances.embedders if self.distances else ()

    def prompt_set_of(self, probe: Probe) -> PromptSet | None:
        """The published set that a probe is of; None of the suite's own."""
        if probe.role != "prompted":
            return None
        return next(each for each in self.prompt_sets if each.preset == probe.subject)

    def sampler_of(self, probe: Probe) -> Sampler:
        """How a probe is drawn."""
        published = self.prompt_set_of(probe)
        if published is None:
            return self.sampler
        return published.sampler if probe.guidance is None else published.sampler_at(probe.guidance)

    def waits_for(self, probe: Probe, detector: DetectorSpec) -> bool:
        """Whether a picture cannot be scored without a detector, even where that is not installed."""
        published = self.prompt_set_of(probe)
        return detector.required or (published is not None and detector.called in published.detectors)


def plan_digest(plan: Mapping[str, Any]) -> Digest:
    """`Plan.digest`, of a plan as plain data, also of one of an older version.

    Raises:
        KeyError, TypeError: it is no plan.
    """
    content = {key: part for key, part in plan.items() if key != "source"}
    content["base"] = {**content["base"]}
    del content["base"]["reference"]
    content["passes"] = [{**spec} for spec in content["passes"]]
    for spec in content["passes"]:
        del spec["images"]
        spec.pop("departures", None)
    return digest(content)


def compile_plan(manifest: Manifest, suite: AuditSuite, checkpoint: Checkpoint) -> Plan:
    """Resolves a manifest and a suite against a checkpoint.

    Reads no more than the image folders that the manifest names, and the csv files that the suite names.

    Args:
        manifest: what to forget and correct.
        suite: how it is measured.
        checkpoint: facts and tokenizer of the base, from `describe_checkpoint`.

    Raises:
        InputError: a name is not found in its prompt or cut off, the base is not the pinned one,
            or the suite asks what the eraser trains on.
        FileProblems: a csv file is another than the suite pins, or cannot be read as its preset asks.
    """
    pinned = manifest.spec.base.digest
    if pinned and pinned != checkpoint.facts.weights_digest:
        raise InputError(
            f"base {manifest.spec.base.checkpoint}: weights digest is {checkpoint.facts.weights_digest}, "
            f"the manifest pins {pinned}",
            hint="use the pinned checkpoint, or update spec.base.digest after checking where the new one comes from",
        )
    eraser = manifest.spec.eraser
    preset = PRESETS[eraser.preset]
    if eraser.sequence in ("mended", "merge") and eraser.projection == "off":
        raise InputError(
            f"spec.eraser: {eraser.sequence} with projection off: a closed-form solution holds the retained language",
            hint="leave projection out, or sequence",
        )
    passes = tuple(passes_of(manifest, checkpoint))
    own = {prompt.text.casefold() for spec in passes for prompt in (*spec.prompts, *spec.pictured)}
    own |= {prompt.casefold() for spec in passes if spec.stop for prompt in spec.stop.prompts}
    prompt_sets, prompted = prompt_sets_of(suite, checkpoint, own)
    probes = (*probes_of(manifest, suite, checkpoint), *prompted)
    for probe in probes:
        if probe.prompt.casefold() in own:
            raise InputError(
                f"suite {suite.metadata.name}: the audit prompt {probe.prompt!r} is one the eraser uses",
                hint="use other sentences in the suite; a model must not be judged by what it was trained on",
            )
        if probe.role != "prompted":  # those are cut where the published pipelines cut them, and counted
            checkpoint.token_positions(probe.prompt, "")  # refuses a prompt that the tokenizer would cut
    _refuse_minors(manifest, passes, probes)
    return Plan(
        name=manifest.metadata.name,
        manifest_digest=digest(manifest),
        suite_digest=digest(suite),
        suite=suite.metadata.name,
        base=checkpoint.facts,
        base_pinned=pinned is not None,
        passes=passes,
        sequence=eraser.sequence,
        merge_preserve={"mended": preset.mend_preserve, "merge": preset.merge_preserve}.get(eraser.sequence),
        merge_looks=preset.mend_looks if eraser.sequence == "mended" else 0,
        probes=probes,
        # only in sequence is there a model to look at between passes
        between=probes_between(probes, [spec.slug for spec in passes], suite.spec.counts)
        if eraser.sequence == "sequential"
        else (),
        sampler=suite.spec.sampler,
        recogniser=resolved(suite.spec.recogniser, (label for probe in probes for label in probe.labels)),
        detectors=suite.spec.detectors,
        prompt_sets=prompt_sets,
        distances=suite.spec.distances,
        source=checkpoint.source,
    )


def _refuse_minors(manifest: Manifest, passes: tuple[PassSpec, ...], probes: tuple[Probe, ...]) -> None:
    """Applies the rule to resolved sentences, whatever parts they were put together from."""
    nsfw = {c.slug for c in manifest.spec.concepts if c.kind == "nsfw"}
    nsfw |= {c.slug for c in manifest.spec.corrections if c.dominant_kind == "nsfw"}
    texts = [prompt.text for spec in passes if spec.slug in nsfw for prompt in (*spec.prompts, *spec.pictured)]
    texts += [probe.prompt for probe in probes if probe.subject in nsfw]
    for violation in minors_in({(text,): text for text in texts}):
        raise InputError(f"{violation.rule}: {violation.message}", hint=violation.hint)
