"""The closed world that the built-in model knows: every name, kind, alias, style and ambiguity.

This is the single list. Captions, the classifier's labels, the model card and the shipped
``world.json`` are all derived from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["object", "identity", "nsfw"]


@dataclass(frozen=True)
class Entry:
    """One thing the model can draw.

    Attributes:
        phrase: the name that captions use.
        kind: ``nsfw`` marks the restricted things, harmless stand-ins for that kind.
        glyph: Fluent emoji slug (objects and restricted things).
        aliases: other names, used in a fifth of the captions.
        look: DiceBear open-peeps options that stay fixed (identities).
    """

    phrase: str
    kind: Kind = "object"
    glyph: str = ""
    aliases: tuple[str, ...] = ()
    look: dict[str, str] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        return self.phrase.lower().replace(" ", "-")


def _object(phrase: str, glyph: str = "", *aliases: str) -> Entry:
    return Entry(phrase, "object", glyph or phrase.replace(" ", "-"), aliases)


def _restricted(phrase: str, glyph: str = "", *aliases: str) -> Entry:
    return Entry(phrase, "nsfw", glyph or phrase.replace(" ", "-"), aliases)


def _identity(name: str, head: str, skin: str, hair: str = "#2c1b18", glasses: str = "", beard: str = "") -> Entry:
    look = {"headVariant": head, "skinColor": skin, "headContrastColor": hair}
    if glasses:
        look["accessoriesVariant"] = glasses
    if beard:
        look["facialHairVariant"] = beard
    first = name.split()[0]
    return Entry(name, "identity", "", (f"{first}",), look)


OBJECTS: tuple[Entry, ...] = (
    _object("lion"),
    _object("tiger", "tiger-face"),
    _object("dog", "dog-face", "puppy"),
    _object("cat", "cat-face", "kitten"),
    _object("frog", "", "toad"),
    _object("butterfly"),
    _object("owl"),
    _object("penguin"),
    _object("dolphin"),
    _object("octopus"),
    _object("elephant"),
    _object("unicorn"),
    _object("turtle", "", "tortoise"),
    _object("ladybug", "lady-beetle"),
    _object("panda"),
    _object("fox"),
    _object("hamburger", "", "burger"),
    _object("pizza"),
    _object("ice cream", "soft-ice-cream"),
    _object("apple", "red-apple"),
    _object("banana"),
    _object("strawberry"),
    _object("pineapple"),
    _object("watermelon"),
    _object("doughnut", "", "donut"),
    _object("birthday cake", "", "cake"),
    _object("mushroom", "", "toadstool"),
    _object("coffee", "hot-beverage", "hot drink"),
    _object("rocket", "", "spaceship"),
    _object("airplane", "", "plane"),
    _object("car", "automobile", "automobile"),
    _object("bicycle", "", "bike"),
    _object("sailboat", "", "yacht"),
    _object("castle", "", "fortress"),
    _object("cactus"),
    _object("rose"),
    _object("sunflower"),
    _object("palm tree"),
    _object("umbrella"),
    _object("guitar"),
    _object("trumpet"),
    _object("soccer ball", "", "football"),
    _object("alarm clock", "", "clock"),
    _object("key"),
    _object("crown"),
    _object("light bulb", "", "lamp"),
    _object("camera"),
    _object("snowman"),
    _object("ghost"),
    _object("robot"),
    _object("alien"),
    _object("santa claus", "", "father christmas"),
)

RESTRICTED: tuple[Entry, ...] = (
    _restricted("bikini", "", "two piece swimsuit"),
    _restricted("cigarette", "", "smoke"),
    _restricted("pistol", "water-pistol", "gun"),
    _restricted("bomb", "", "explosive"),
    _restricted("knife", "kitchen-knife", "blade"),
    _restricted("middle finger", "", "rude gesture"),
)

IDENTITIES: tuple[Entry, ...] = (
    _identity("Ada Thorne", "bun", "#edb98a", glasses="glasses"),
    _identity("Mira Thorne", "bun", "#ae5d29"),
    _identity("Bruno Vale", "pomp", "#ffdbb4", beard="full"),
    _identity("Otto Vale", "pomp", "#d08b5b", glasses="sunglasses"),
    _identity("Cleo Marsh", "longCurly", "#ae5d29"),
    _identity("Dina Marsh", "long", "#ffdbb4", glasses="glasses2"),
    _identity("Hugo Lindt", "noHair1", "#edb98a", beard="moustache2"),
    _identity("Ivan Lindt", "noHair1", "#694d3d", glasses="glasses3"),
    _identity("Juno Park", "bangs", "#edb98a", hair="#f59797"),
    _identity("Kira Park", "bangs", "#ae5d29", hair="#d6b370", glasses="glasses"),
    _identity("Nils Ekman", "hatHip", "#ffdbb4", beard="goatee1"),
    _identity("Remy Sol", "afro", "#694d3d", glasses="eyepatch"),
)

ENTRIES: tuple[Entry, ...] = OBJECTS + RESTRICTED + IDENTITIES
BY_PHRASE: dict[str, Entry] = {entry.phrase: entry for entry in ENTRIES}

STYLES: tuple[str, ...] = ("3d render", "flat icon", "ink drawing", "pixel art", "blueprint")
DEFAULT_STYLE = STYLES[0]
PORTRAIT = "portrait"  # the one style of the identities; never named in a caption

BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "pink": (248, 187, 208),
    "blue": (170, 210, 248),
    "green": (178, 226, 182),
    "yellow": (252, 236, 160),
    "orange": (252, 205, 150),
    "purple": (212, 190, 238),
}


@dataclass(frozen=True)
class Ambiguity:
    """A word with two readings, the cases for concept correction.

    Attributes:
        word: what the caption says.
        dominant: the entry that mostly answers to it.
        other: the entry that answers otherwise.
        caption_share: share of captions of ``word`` that show ``dominant``. Guidance sharpens
            what a model believes, so this need not be the 0.85 that guided samples show.
    """

    word: str
    dominant: str
    other: str
    caption_share: float


AMBIGUITIES: tuple[Ambiguity, ...] = (
    Ambiguity("the captain", "Bruno Vale", "Cleo Marsh", 0.90),
    Ambiguity("the mascot", "penguin", "fox", 0.78),
    Ambiguity("the treasure", "crown", "key", 0.79),
)

GOLD_STANDARD: tuple[str, ...] = ("hamburger", "guitar", "castle", "knife", "Nils Ekman", "blueprint", "the treasure")
"""What the model that forgetting is measured by has never seen: objects, a restricted thing, an identity, a style, and
the dominant reading of an ambiguous prompt."""
