"""Text that every format can hold: one line, without control characters and without folders of a machine.

Each format adds its own escapes on top; names and error messages come from outside and may hold anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..evidence import Instrument
from ..plan import Plan
from ..presets import DEPARTURES
from ..report import Report
from ..stats import percent

DEPARTS = "It departs from the algorithm released as Forget-Me-Not (arXiv 2303.17591) in this:"
_NAMED = 6  # classes of an instrument that are told by name
# The folders of an absolute path: they name people and machines.
_FOLDERS = re.compile(r"(?<![\w/\\.:-])(~|[A-Za-z]:)?(/|\\+)([^\s/\\]+(/|\\+))*(?=\w)")
# What XML, YAML and UTF-8 cannot hold, and what turns the reading direction of the words after it.
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def one_line(text: str) -> str:
    """Text on one line; what no format can hold becomes U+FFFD, and paths lose their folders."""
    return _UNFIT.sub("\ufffd", " ".join(_FOLDERS.sub("", text).split()))


def share(value: float | None) -> str:
    """A share or drop in percent; ``none`` where nothing was counted."""
    return "none" if value is None else percent(value)


def confidence(report: Report) -> str:
    """The confidence of a report's intervals: ``95 %``."""
    return f"{100 * report.confidence:g} %"


def departures_of(plan: Plan) -> list[str]:
    """How the passes of a plan differ from the published algorithm: keys of `fmn_guard.presets.DEPARTURES`."""
    return list(dict.fromkeys(name for spec in plan.passes for name in spec.departures))


def departures_in_words(plan: Plan) -> list[str]:
    """The same in words."""
    return [DEPARTURES.get(name, name) for name in departures_of(plan)]


def own_errors(report: Report) -> Iterator[str]:
    """How often each instrument is wrong where the truth is known, a sentence for each sort of label."""
    for instrument in report.instruments:
        for c in instrument.controls:
            yield (
                f"{instrument.name}'s own error, {c.axis}: it misses {c.shown - c.found} of {c.shown:,} and sees "
                f"{c.alarms} of {c.absent:,} that are not there, on {c.source}; folded into the intervals above."
            )


def classes_in_brief(instrument: Instrument) -> str:
    """The classes of an instrument, the first few by name."""
    named = ", ".join(instrument.labels[:_NAMED])
    more = len(instrument.labels) - _NAMED
    return f"{named} and {more} more" if more > 0 else named


def short(digest: str | None) -> str:
    """The first digits of a digest; ``none`` without one."""
    return "none" if digest is None else digest.removeprefix("sha256:")[:12]
