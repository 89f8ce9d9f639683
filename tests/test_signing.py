"""Signatures: read by an independent ten-line reader of DSSE, and worth nothing without the right key."""

from __future__ import annotations

import json
import stat
from base64 import b64decode, b64encode
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from google.protobuf.json_format import ParseDict
from in_toto_attestation.predicates.test_result.v0 import test_result_pb2
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as StatementProto

import fmn_guard
from fmn_guard.chain import Files, check_files, write_files
from fmn_guard.errors import BrokenChain, FmnGuardError, InputError
from fmn_guard.gate import check_run, verify_run
from fmn_guard.policy import Rule, Waiver
from fmn_guard.record import digest, file_digest, pretty_json, write_record
from fmn_guard.report import Report, judge
from fmn_guard.retention import clean
from fmn_guard.signing import check_signature, make_keys, sign_run, statement

from .builder import BASE, forget, make_audit, make_plan, make_policy, probes
from .concluded import write_run


@pytest.fixture
def key(tmp_path: Path) -> Path:
    make_keys(tmp_path / "key")
    return tmp_path / "key"


def _no_passphrase() -> bytes:
    pytest.fail("an open key needs no passphrase")


def _sign(run: Path, key: Path) -> Path:
    sign_run(run, check_run(run), check_files(run), key, _no_passphrase)
    return run / "signature.dsse.json"


def _public(key: Path) -> Path:
    return key.with_name(f"{key.name}.pub")


def _read_dsse(path: Path, public: Path) -> dict[str, Any]:
    """DSSE as its specification has it: the signature is over the type and the payload, each after its length."""
    envelope = json.loads(path.read_text(encoding="utf-8"))
    payload, kind = b64decode(envelope["payload"]), envelope["payloadType"].encode()
    signed = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
    key = load_pem_public_key(public.read_bytes())
    assert isinstance(key, Ed25519PublicKey)
    key.verify(b64decode(envelope["signatures"][0]["sig"]), signed)
    statement: dict[str, Any] = json.loads(payload)
    return statement


def test_statement_tells_an_independent_reader_what_was_signed(run: Path, key: Path) -> None:
    signed = _read_dsse(_sign(run, key), _public(key))
    assert signed["_type"] == "https://in-toto.io/Statement/v1"
    assert signed["predicateType"] == "https://in-toto.io/attestation/test-result/v0.1"
    sums = {each["name"]: each["digest"] for each in signed["subject"]}
    model = json.loads((run / "audit.json").read_text(encoding="utf-8"))["patched_digest"]
    assert sums.pop("model") == {"fmnGuardIdentity": model.removeprefix("sha256:")}
    for name in ("patch.safetensors", "report.json", "files.json"):
        assert sums.pop(name) == {"sha256": file_digest(run / name).removeprefix("sha256:")}
    assert not sums
    tests = signed["predicate"]
    assert tests["result"] == "PASSED"
    stated = {each["name"]: each for each in tests["configuration"]}
    assert stated["base"]["digest"] == {"fmnGuardIdentity": BASE.identity.removeprefix("sha256:")}
    assert stated["plan.json"]["annotations"] == {"suite": "standard"}
    assert stated["policy.json"]["annotations"] == {"policy": "house"}
    assert stated["fmn-guard"]["uri"] == f"pkg:pypi/fmn-guard@{fmn_guard.__version__}"
    assert _counts(signed) == {
        "verdict": "pass",
        "findings": {"passed": 2, "warned": 0, "failed": 0},
        "pictures": {side: {"planned": 76, "scored": 76} for side in ("base", "patched")},
    }


def test_statement_has_the_shape_that_in_toto_gives_it(run: Path) -> None:
    plain = json.loads(statement(check_run(run), check_files(run)))
    predicate = plain.pop("predicate")
    Statement.copy_from_pb(ParseDict(plain | {"predicate": {"any": "thing"}}, StatementProto())).validate()
    ParseDict(predicate, test_result_pb2.TestResult())  # which refuses every field that is not its own


def test_statement_names_nobody(run: Path) -> None:
    """It is published: who was forgotten is not to be read from it, nor what a rule, an alias or a waiver calls it."""
    passes = (forget("ada-thorne", "identity", "Ada"), forget("the-captain", "correction"))
    asked = (
        *probes("target", "ada-thorne", 36),
        *probes("alias", "ada-thorne", 12, name="Ada"),
        *probes("correction", "the-captain", 36, "concept:bruno-vale"),
        *probes("retained", "mira-thorne", 20, neighbour_of=("ada-thorne",)),
    )
    plan = make_plan(*passes, asked=asked)
    rule = Rule(id="no-ada-thorne", metric="target_recognised", at_most=0.1)
    waiver = Waiver(rule="no-ada-thorne", reason="agreed", owner="carol", expires=date(2026, 12, 1))
    policy = make_policy(rule, waivers=(waiver,))
    audit = make_audit(plan, lambda *_: True)
    report = judge(plan, audit, policy, judged_on=date(2026, 11, 1))
    said = statement(report, check_files(run)).decode().casefold()
    known = (plan.model_dump_json() + report.model_dump_json()).casefold()
    for name in ("ada", "thorne", "captain", "bruno", "mira", "carol", "agreed"):
        assert name in known
        assert name not in said


def test_independent_reader_refuses_another_key(run: Path, key: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidSignature):
        _read_dsse(_sign(run, key), make_keys(tmp_path / "other"))


def _counts(signed: dict[str, Any]) -> dict[str, Any]:
    counts: dict[str, Any] = next(each["annotations"] for each in signed["subject"] if each["name"] == "report.json")
    return counts


def _report(run: Path, **changes: Any) -> Report:
    return check_run(run).model_copy(update=changes)


@pytest.mark.parametrize("verdict", ["fail", "inconclusive"])
def test_what_is_not_a_pass_never_reads_as_passed(run: Path, verdict: str) -> None:
    found = _report(run).findings
    changed = tuple(f.model_copy(update={"outcome": verdict}) for f in found)
    signed = json.loads(statement(_report(run, verdict=verdict, findings=changed), check_files(run)))
    assert signed["predicate"]["result"] == "FAILED"
    assert _counts(signed)["findings"] == {"passed": 0, "warned": 0, "failed": len(found)}
    assert _counts(signed)["verdict"] == verdict


def test_pass_by_waiver_reads_as_warned(run: Path) -> None:
    waiver = Waiver(rule="suppressed", reason="agreed", owner="team", expires=date(2026, 12, 1))
    first, *others = _report(run).findings
    waived = first.model_copy(update={"outcome": "fail", "waiver": waiver})
    signed = json.loads(statement(_report(run, findings=(waived, *others)), check_files(run)))
    assert signed["predicate"]["result"] == "WARNED"
    assert _counts(signed)["findings"] == {"passed": len(others), "warned": 1, "failed": 0}


def test_run_without_a_patch_is_signed_without_one(tmp_path: Path) -> None:
    write_run(tmp_path, with_passes=False)
    write_files(tmp_path, None, ())
    names = [each["name"] for each in json.loads(statement(check_run(tmp_path), check_files(tmp_path)))["subject"]]
    assert names == ["model", "report.json", "files.json"]


def test_same_run_and_key_give_the_same_bytes(run: Path, key: Path) -> None:
    assert _sign(run, key).read_bytes() == _sign(run, key).read_bytes()


def test_signature_is_checked_against_the_keys_that_are_given(run: Path, key: Path, tmp_path: Path) -> None:
    _sign(run, key)
    other = make_keys(tmp_path / "other")
    assert verify_run(run, [_public(key)]).key_checked
    assert verify_run(run, [other, _public(key)]).key_checked
    with pytest.raises(BrokenChain, match=r"signature\.dsse\.json is signed with key"):
        verify_run(run, [other])


def test_without_a_key_it_is_said_that_none_was_checked(run: Path, key: Path) -> None:
    assert verify_run(run).signature_words == "none"
    _sign(run, key)
    verified = verify_run(run)
    assert not verified.key_checked
    assert "not checked against a key" in verified.signature_words


def test_run_that_is_not_signed_is_refused_where_a_key_is_asked_for(run: Path, key: Path) -> None:
    with pytest.raises(BrokenChain, match="the run is not signed"):
        verify_run(run, [_public(key)])


def test_signature_of_another_list_is_refused_without_a_key_too(run: Path, key: Path) -> None:
    _sign(run, key)
    (run / "more.txt").write_text("more", encoding="utf-8")
    write_files(run, None, ())
    with pytest.raises(BrokenChain, match="signs something else"):
        verify_run(run)


def test_signature_holds_after_cleaning(run: Path, key: Path) -> None:
    before = _sign(run, key).read_bytes()
    clean(run)
    assert verify_run(run, [_public(key)]).key_checked
    assert (run / "signature.dsse.json").read_bytes() == before


def _edit(path: Path, **changes: Any) -> None:
    plain = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(pretty_json(plain | changes), encoding="utf-8")


def _rewritten(run: Path, **changes: Any) -> dict[str, Any]:
    envelope = json.loads((run / "signature.dsse.json").read_text(encoding="utf-8"))
    return envelope["signatures"][0] | changes


@pytest.mark.parametrize("with_key", [True, False])
def test_spelling_that_decodes_to_the_same_is_refused(run: Path, key: Path, with_key: bool) -> None:
    path = _sign(run, key)
    keys = [_public(key)] if with_key else []
    sig = _rewritten(run)["sig"]
    spellings = {
        "a bit that base64 ignores": {"signatures": [_rewritten(run, sig=f"{sig[:-3]}{chr(ord(sig[-3]) + 1)}==")]},
        "a line break": {"signatures": [_rewritten(run, sig=sig[:10] + "\n" + sig[10:])]},
        "two signatures": {"signatures": [_rewritten(run), _rewritten(run)]},
        "none": {"signatures": []},
        "another type": {"payloadType": "text/plain"},
        "another payload": {"payload": b64encode(b"{}").decode()},
    }
    whole = path.read_bytes()
    for what, change in spellings.items():
        _edit(path, **change)
        with pytest.raises(FmnGuardError, match=r"signature\.dsse\.json"):
            verify_run(run, keys)
            pytest.fail(what)
        path.write_bytes(whole)
    path.write_bytes(whole.replace(b"  ", b" "))
    with pytest.raises(BrokenChain, match="not spelled"):
        verify_run(run, keys)


@pytest.mark.parametrize("with_key", [True, False])
def test_any_flipped_bit_of_the_signature_is_found(run: Path, key: Path, with_key: bool) -> None:
    path = _sign(run, key)
    keys = [_public(key)] if with_key else []
    report, files, whole = check_run(run), check_files(run), path.read_bytes()
    for offset in range(len(whole)):
        spoiled = bytearray(whole)
        spoiled[offset] ^= 1 << offset % 8
        path.write_bytes(spoiled)
        with pytest.raises(FmnGuardError, match=r"signature\.dsse\.json"):
            check_signature(run, report, files, keys)
            pytest.fail(f"byte {offset} of {len(whole)}")
    path.write_bytes(whole)
    assert check_signature(run, report, files, keys)


def test_signature_must_hold_for_the_public_key_that_it_brings_along(run: Path, key: Path, tmp_path: Path) -> None:
    path = _sign(run, key)
    other = json.loads(path.read_text(encoding="utf-8"))["signatures"][0]
    make_keys(tmp_path / "other")
    _sign(run, tmp_path / "other")
    for change, said in (
        ({"public": other["public"]}, "keyid"),
        ({"keyid": other["keyid"]}, "keyid"),
        ({"public": other["public"], "keyid": other["keyid"]}, "does not hold"),
        ({"sig": other["sig"]}, "does not hold"),
    ):
        whole = path.read_bytes()
        _edit(path, signatures=[_rewritten(run, **change)])
        with pytest.raises(BrokenChain, match=said):
            verify_run(run)
        path.write_bytes(whole)


def test_forged_run_can_be_signed_by_the_forger_only(run: Path, key: Path, tmp_path: Path) -> None:
    _sign(run, key)
    (run / "images" / "base" / "a.png").write_bytes(b"another picture")
    write_files(run, None, ())
    forged = statement(check_run(run), check_files(run))
    _edit(run / "signature.dsse.json", payload=b64encode(forged).decode())
    with pytest.raises(BrokenChain, match="does not hold"):
        verify_run(run)
    make_keys(tmp_path / "other")
    _sign(run, tmp_path / "other")
    assert not verify_run(run).key_checked
    with pytest.raises(BrokenChain, match=r"signature\.dsse\.json is signed with key"):
        verify_run(run, [_public(key)])


# ---- keys


def test_private_key_is_for_its_owner_only_and_in_pkcs8(key: Path) -> None:
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert key.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    assert _public(key).read_bytes().startswith(b"-----BEGIN PUBLIC KEY-----")


@pytest.mark.parametrize("there", ["key", "key.pub"])
def test_no_key_is_ever_overwritten(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="never overwritten"):
        make_keys(tmp_path / "key")
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text(encoding="utf-8") == "mine"


def test_locked_key_signs_with_its_passphrase_only(run: Path, tmp_path: Path) -> None:
    public = make_keys(tmp_path / "locked", b"correct horse")
    with pytest.raises(TypeError):
        load_pem_private_key((tmp_path / "locked").read_bytes(), None)
    report, files = check_run(run), check_files(run)
    with pytest.raises(InputError, match="another passphrase"):
        sign_run(run, report, files, tmp_path / "locked", lambda: b"battery staple")
    assert not (run / "signature.dsse.json").exists()
    sign_run(run, report, files, tmp_path / "locked", lambda: b"correct horse")
    assert verify_run(run, [public]).key_checked


def test_wrong_half_of_a_key_or_no_key_is_bad_input(run: Path, key: Path, tmp_path: Path) -> None:
    _sign(run, key)
    other = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "ec").write_bytes(other)
    report, files = check_run(run), Files(files={})
    for wrong in (_public(key), tmp_path / "ec", tmp_path / "missing", run / "plan.json"):
        with pytest.raises(InputError, match=wrong.name) as caught:
            sign_run(run, report, files, wrong, _no_passphrase)
        assert caught.value.hint
    for wrong in (key, tmp_path / "missing", run / "plan.json"):
        with pytest.raises(InputError, match=wrong.name):
            verify_run(run, [wrong])


def test_signature_is_of_the_record_as_written(run: Path, key: Path) -> None:
    _sign(run, key)
    report = check_run(run)
    write_record(run / "report.json", report)
    assert verify_run(run, [_public(key)]).report_digest == digest(report)
