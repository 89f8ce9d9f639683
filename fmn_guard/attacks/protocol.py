"""What is tried on which concept, and at which cost; resolved before anything is drawn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from ..errors import InputError
from ..facts import Checkpoint
from ..manifest import minors_in
from ..passes import PassSpec
from ..plan import Plan
from ..probes import Probe
from ..record import Digest, Record, Slug, digest, slugify
from ..yamlfile import Loc
from .suite import AttackSuite, PrefixSearch, names_it

FIRST_SEED = 630_000_000  # far from the eraser's, the shipped suites' and the M-Score's
FIRST_REFERENCE_SEED = 640_000_000
FIRST_TRIAL_SEED = 650_000_000

AttackKind = Literal["seeds", "guidance", "descriptions", "prefix"]


class Attack(Record):
    """One way to ask for one concept."""

    id: Slug
    """What it is called in reports: its kind, a guidance with its scale."""
    kind: AttackKind
    """The audit's sentences from other seeds, or at another guidance; descriptions; or searched words before them."""
    subject: Slug
    """The concept."""
    label: str
    """What the recogniser calls it."""
    guidance: float
    """Scale that its pictures are drawn at."""
    prompts: tuple[str, ...]
    """What is asked; of a prefix, what it is put before."""
    pictures: int
    """Pictures of each prompt, on either model."""
    search: PrefixSearch | None = None
    """Budget of the search for a prefix."""
    forbidden: tuple[str, ...] = ()
    """Words of the concept's names, of whose tokens the search takes none."""
    harmless_to_minors: bool = False
    """Whether the search also takes nothing that names minors: so for every nsfw concept, without a switch."""

    def probes(self, prefix: str = "") -> tuple[Probe, ...]:
        """The pictures that are asked for.

        Args:
            prefix: Words that are put before each prompt.
        """
        said = [f"{prefix} {prompt}".strip() for prompt in self.prompts]
        return tuple(
            self.probe(i, said[i], FIRST_SEED + i * self.pictures + j)
            for i in range(len(said))
            for j in range(self.pictures)
        )

    def references(self) -> tuple[Probe, ...]:
        """Pictures of the concept that the base draws for a search."""
        return self._in_turn(self.search.references if self.search else 0, FIRST_REFERENCE_SEED)

    def trials(self, prefix: str) -> tuple[Probe, ...]:
        """Pictures by which an attacker chooses between prefixes."""
        return self._in_turn(self.search.trials if self.search else 0, FIRST_TRIAL_SEED, prefix)

    def _in_turn(self, count: int, first_seed: int, prefix: str = "") -> tuple[Probe, ...]:
        which = [i % len(self.prompts) for i in range(count)]
        return tuple(self.probe(i, f"{prefix} {self.prompts[i]}".strip(), first_seed + j) for j, i in enumerate(which))

    def probe(self, number: int, prompt: str, seed: int) -> Probe:
        """One picture of the prompt of a number."""
        return Probe(
            id=f"attack/{self.subject}/{self.id}/{number}/{seed}",
            role="target",
            subject=self.subject,
            prompt=prompt,
            seed=seed,
            labels=(self.label,),
        )


class Protocol(Record):
    """What is tried, resolved."""

    plan_digest: Digest
    """The plan whose concepts are attacked."""
    base_digest: Digest
    """Identity of the base."""
    suite: Slug
    """Name of the attack suite."""
    suite_digest: Digest
    """Digest of its content."""
    attacks: tuple[Attack, ...]
    """In the plan's order of concepts."""
    undescribed: tuple[Slug, ...] = ()
    """Concepts that the suite has no descriptions of."""

    @property
    def digest(self) -> Digest:
        """Digest of all of it."""
        return digest(self)


class Cost(Record):
    """What a protocol costs; counted, in no digest."""

    attacks: int
    """Attacks."""
    pictures: int
    """Pictures drawn, on both models, with what searches see and choose by."""
    searches: int
    """Searches for a prefix."""
    candidates: int
    """Candidates that these score, at most."""
    evaluations: int
    """UNet evaluations of one picture, guidance counted twice, and one with gradients as three."""

    @property
    def words(self) -> str:
        """In a sentence."""
        found = f", {self.searches} searches over {self.candidates:,} candidates" if self.searches else ""
        return f"{self.attacks} attacks: {self.pictures:,} pictures{found}, {self.evaluations:,} UNet evaluations"


def plan_attacks(plan: Plan, suite: AttackSuite, checkpoint: Checkpoint) -> Protocol:
    """Resolves an attack suite against a plan. Pure.

    Corrections are not attacked: their dominant reading keeps answering to its own name.

    Args:
        plan: Its concepts are the targets, and its sentences are what is asked.
        suite: What is tried.
        checkpoint: The base, whose tokenizer says what a name's tokens are.

    Raises:
        InputError: the plan forgets no concept; a description names one, or names minors in an nsfw one; a prompt is
            cut off with a prefix before it; or an audit draws from the attacks' seeds.
    """
    concepts = [spec for spec in plan.passes if spec.kind != "correction"]
    if not concepts:
        raise InputError("the manifest forgets no concept", hint="corrections are not attacked")
    if taken := sorted({probe.seed for probe in plan.probes if FIRST_SEED <= probe.seed < FIRST_TRIAL_SEED + 10**7}):
        raise InputError(
            f"suite {plan.suite} draws from the seed {taken[0]}, which is an attack's",
            hint=f"let its first_seed be below {FIRST_SEED}",
        )
    described = {slugify(phrase): sentences for phrase, sentences in suite.spec.descriptions.items()}
    attacks = [attack for spec in concepts for attack in _attacks(spec, plan, suite, described.get(spec.slug, ()))]
    for attack in attacks:
        _check(attack, checkpoint)
    return Protocol(
        plan_digest=plan.digest,
        base_digest=plan.base.identity,
        suite=suite.metadata.name,
        suite_digest=digest(suite),
        attacks=tuple(attacks),
        undescribed=tuple(spec.slug for spec in concepts if spec.slug not in described),
    )


def _attacks(spec: PassSpec, plan: Plan, suite: AttackSuite, sentences: tuple[str, ...]) -> Iterator[Attack]:
    asked = [p for p in plan.probes if p.role == "target" and p.subject == spec.slug]
    if not asked:
        raise InputError(f"suite {plan.suite} asks nothing of {spec.slug}", hint="attacks ask the audit's sentences")
    usual = Attack(
        id="seeds",
        kind="seeds",
        subject=spec.slug,
        label=asked[0].labels[0],
        guidance=plan.sampler.guidance,
        prompts=tuple(dict.fromkeys(p.prompt for p in asked)),
        pictures=suite.spec.pictures,
    )
    yield usual
    for scale in suite.spec.guidance:
        if scale != plan.sampler.guidance:
            called = f"guidance-{scale:g}".replace(".", "-")
            yield usual.model_copy(update={"id": called, "kind": "guidance", "guidance": scale})
    if sentences:
        if problem := _told(spec, sentences):
            raise problem
        yield usual.model_copy(update={"id": "descriptions", "kind": "descriptions", "prompts": sentences})
    if suite.spec.prefix:
        yield usual.model_copy(
            update={
                "id": "prefix",
                "kind": "prefix",
                "search": suite.spec.prefix,
                "forbidden": spec.names,
                "harmless_to_minors": spec.kind == "nsfw",
            }
        )


def _told(spec: PassSpec, sentences: tuple[str, ...]) -> InputError | None:
    """What is wrong with descriptions of a concept."""
    for sentence in sentences:
        if word := names_it(sentence, spec.names):
            return InputError(
                f"the description {sentence!r} of {spec.slug} says {word!r}, which is in one of its names",
                hint="describe it without its names; by its aliases the audit asks",
            )
    texts: dict[Loc, str] = {("descriptions", i): text for i, text in enumerate(sentences)}
    if spec.kind == "nsfw" and (violation := next(iter(minors_in(texts)), None)):
        return InputError(f"{spec.slug}: {violation}", hint=violation.hint)
    return None


def _check(attack: Attack, checkpoint: Checkpoint) -> None:
    """Refuses what the tokenizer would cut off."""
    most = checkpoint.facts.max_tokens
    more = attack.search.tokens if attack.search else 0
    for prompt in attack.prompts:
        checkpoint.token_positions(prompt)
        if (count := len(checkpoint.tokenizer.encode(prompt).ids) + more) > most:
            raise InputError(
                f"{prompt!r} and {more} tokens before it are {count} tokens, {checkpoint.facts.reference} takes {most}",
                hint="search fewer tokens",
            )


def estimate(protocol: Protocol, plan: Plan) -> Cost:
    """Counts what a protocol will do."""
    pictures = candidates = searches = computed = 0
    for attack in protocol.attacks:
        drawn = 2 * len(attack.prompts) * attack.pictures
        if found := attack.search:
            runs = len(found.seeds)
            drawn += found.references + runs * found.trials
            searches += runs
            candidates += runs * found.steps * found.candidates
            computed += runs * found.steps * found.batch * (3 + found.candidates)
        sampler = plan.sampler.model_copy(update={"guidance": attack.guidance})
        pictures += drawn
        computed += drawn * sampler.evaluations
    return Cost(
        attacks=len(protocol.attacks),
        pictures=pictures,
        searches=searches,
        candidates=candidates,
        evaluations=computed,
    )
