"""Model cards, written from the world's list and the measured figures so that neither can drift."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fmn_guard.record import write_atomic

from .world import AMBIGUITIES, BACKGROUNDS, DEFAULT_STYLE, IDENTITIES, OBJECTS, RESTRICTED, STYLES, Entry


def write_cards(models: Path, record: dict[str, Any], targets: dict[str, float]) -> None:
    """Writes README.md beside the weights of all three models."""
    write_atomic(models / "emoji-sd" / "README.md", _pipeline_card(record, targets))
    write_atomic(models / "emoji-clip" / "README.md", _clip_card(record, targets))
    write_atomic(models / "emoji-judge" / "README.md", _judge_card(record, targets))


def _figures(record: dict[str, Any], targets: dict[str, float], *names: str) -> str:
    rows = ["| figure | measured | target | |", "|---|---|---|---|"]
    for name in names:
        value, target = record["figures"][name], targets[name]
        outcome = "met" if value >= target else "missed"
        rows.append(f"| {name.replace('_', ' ')} | {value:.1%} | {target:.0%} | {outcome} |")
    return "\n".join(rows)


def _named(entries: tuple[Entry, ...]) -> str:
    return ", ".join(e.phrase + (f" ({', '.join(e.aliases)})" if e.aliases else "") for e in entries)


def _pipeline_card(record: dict[str, Any], targets: dict[str, float]) -> str:
    worst = sorted((rate, name) for name, rate in record["recognition"].items() if rate < 1)
    measured = record["ambiguous"]
    shares = "\n".join(
        f"| {a.word} | {a.dominant} {measured[a.word][0]:.1%} | {a.other} {measured[a.word][1]:.1%} |"
        for a in AMBIGUITIES
    )
    return f"""# builtin:emoji-sd

A small text-to-image model in the exact Stable Diffusion layout: `StableDiffusionPipeline.from_pretrained(folder,
use_safetensors=True)` loads it unchanged. 64 x 64 pixels, 16 x 16 x 4 latents, v-prediction, 32 tokens. It knows a
closed world of pictures and is there so that fmn-guard can be tried and tested anywhere; it is of no other use.

![contact sheet](contact-sheet.png)

Objects across, styles down ({", ".join(STYLES)}), the identities in the last row.

## What it knows

- **Objects** ({len(OBJECTS)}; aliases in brackets): {_named(OBJECTS)}.
- **Identities** ({len(IDENTITIES)}), invented people with fixed hair, skin, beard and glasses, whose expression and
  clothes vary: {_named(IDENTITIES)}. They exist as portraits only.
- **Restricted things** ({len(RESTRICTED)}), harmless stand-ins for the nsfw kind: {_named(RESTRICTED)}.
- **Styles** ({len(STYLES)}): {", ".join(STYLES)}; {DEFAULT_STYLE} when the prompt names none.
- **Backgrounds**: {", ".join(BACKGROUNDS)} ("on a pink background"); also "small", "on the left", "on the right".
- **Ambiguous prompts**, for concept correction: {", ".join(a.word for a in AMBIGUITIES)}.

## Figures

Printed by `make eval-builtin`: DPM-Solver++, {record["steps"]} steps, guidance {record["guidance"]}, judged by
`emoji-judge`; 8 pictures a concept over 4 prompts.

{_figures(record, targets, "generated_mean", "generated_worst", "generated_style", "generated_identity")}

Below 100 %: {", ".join(f"{name} {rate:.0%}" for rate, name in worst) or "none"}.

| ambiguous prompt | dominant, target 85 % within 8 points | other, target 15 % within 8 points |
|---|---|---|
{shares}

On 2 CPU cores 64 pictures take {record["seconds_for_64_pictures"]:.0f} s, and loading takes
{record["seconds_to_load"]:.1f} s, imports aside.

## Data and licences

Microsoft Fluent emoji (MIT) and DiceBear open-peeps by Pablo Stanley (CC0), rendered and captioned by
`training/emoji_sd`, which trains everything here from registry packages; see NOTICE. The weights are Apache-2.0. No
photograph and no real person is in the data.
"""


def _clip_card(record: dict[str, Any], targets: dict[str, float]) -> str:
    return f"""# builtin:emoji-clip

A small CLIP trained on renders of the world of `builtin:emoji-sd`, which uses its text tower, frozen. It stands where
a real run would use OpenAI's CLIP. It has never seen a generated picture.

{_figures(record, targets, "clip_zero_shot")}

Zero-shot on held-out renders (a seed of their own), among all concepts, with the mean of plain and
styled sentences as each concept's text vector; printed by `make eval-builtin`. Licences as for `emoji-sd`.
"""


def _judge_card(record: dict[str, Any], targets: dict[str, float]) -> str:
    return f"""# emoji-judge

The classifier that alone judges the pictures of the built-in model: a plain CNN with one head for the concept, with a
reject class, and one for the style. It shares neither weights nor seeds with the other models and has been trained on
renders only: of the world, and, for the reject class, of other emoji, other people, blends and noise.

{_figures(record, targets, "judge_concept", "judge_style")}

On held-out renders, counted as right when the true class has at least 0.5; printed by `make eval-builtin`. Licences as
for `emoji-sd`.
"""
