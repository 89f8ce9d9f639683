"""Patches put together and taken apart are sums, and say what they do not know."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fmn_guard.errors import InputError, RefusedArtefact
from fmn_guard.forget.combine import after, joined, only, without
from fmn_guard.forget.patch import Patch, edits_after

from ..patched import make_patch

SLUGS = ("lion", "pistol", "rose", "ada-thorne")


@pytest.fixture(scope="module")
def patch(tiny_checkpoint: Path) -> Patch:
    return make_patch(tiny_checkpoint, SLUGS)


@given(dropped=st.sets(st.sampled_from(SLUGS)))
@settings(max_examples=16, deadline=None)
def test_dropping_concepts_and_adding_them_again_is_the_same_sum(patch: Patch, dropped: set[str]) -> None:
    rest, gone = without(patch, dropped), only(patch, dropped)
    assert rest.concepts == tuple(slug for slug in SLUGS if slug not in dropped)
    assert set(gone.concepts) == dropped
    wanted = edits_after(patch.parts)
    again = edits_after(joined([rest, gone]).parts)
    assert again.keys() == wanted.keys()
    for name, edit in again.items():
        torch.testing.assert_close(edit, wanted[name], rtol=1e-5, atol=1e-5)


def test_passes_keep_their_order_and_their_edits(patch: Patch) -> None:
    both = joined([only(patch, ["rose"]), only(patch, ["pistol", "lion"])])
    assert both.concepts == ("rose", "lion", "pistol")
    assert both.parts[0] is patch.parts[2]


def test_patches_of_two_bases_are_refused(patch: Patch) -> None:
    other = only(patch, ["rose"])._replace(base_digest="sha256:" + "f" * 64)
    with pytest.raises(RefusedArtefact, match="another for"):
        joined([only(patch, ["lion"]), other])
    assert joined([only(patch, ["lion"]), other], also=other.base_digest).base_digest == patch.base_digest


def test_the_same_concept_twice_is_refused(patch: Patch) -> None:
    with pytest.raises(InputError, match="lion"):
        joined([patch, only(patch, ["lion"])])


def test_a_concept_that_is_not_there_is_named_with_those_that_are(patch: Patch) -> None:
    with pytest.raises(InputError, match="holds no tiger") as error:
        without(patch, ["tiger"])
    assert "lion" in str(error.value.hint)


def test_concepts_that_were_forgotten_together_only_go_together(patch: Patch) -> None:
    facts = patch.parts[0].facts.model_copy(update={"concepts": ("lion", "tiger")})
    together = patch._replace(parts=(patch.parts[0]._replace(facts=facts), *patch.parts[1:]))
    with pytest.raises(InputError, match="tiger went together with lion"):
        without(together, ["lion"])
    assert without(together, ["lion", "tiger"]).concepts == SLUGS[1:]


def test_what_was_forgotten_on_top_is_told(patch: Patch) -> None:
    assert after(patch, ["pistol"]) == ("rose", "ada-thorne")
    assert after(patch, ["lion", "rose"]) == ("pistol", "ada-thorne")
    assert after(patch, ["ada-thorne"]) == ()
