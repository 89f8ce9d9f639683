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

from fmn_guard.chain import Files, check_files, clean, write_files
from fmn_guard.errors import BrokenChain, FmnGuardError, InputError
from fmn_guard.gate import check_run, verify_run
from fmn_guard.policy import Waiver
from fmn_guard.record import digest, file_digest, pretty_json, write_record
from fmn_guard.report import Report
from fmn_guard.signing import make_keys, sign_run, statement

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
    assert "suppressed/pistol" in tests["passedTests"]
    assert tests["failedTests"] == []
    assert [each["name"] for each in tests["configuration"]] == ["plan.json", "policy.json"]


def test_independent_reader_refuses_another_key(run: Path, key: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidSignature):
        _read_dsse(_sign(run, key), make_keys(tmp_path / "other"))


def _report(run: Path, **changes: Any) -> Report:
    return check_run(run).model_copy(update=changes)


@pytest.mark.parametrize("verdict", ["fail", "inconclusive"])
def test_what_is_not_a_pass_never_reads_as_passed(run: Path, verdict: str) -> None:
    found = _report(run).findings
    changed = tuple(f.model_copy(update={"outcome": verdict}) for f in found)
    predicate = json.loads(statement(_report(run, verdict=verdict, findings=changed), check_files(run)))["predicate"]
    assert predicate["result"] == "FAILED"
    assert predicate["passedTests"] == []
    assert len(predicate["failedTests"]) == len([f for f in found if f.severity == "error"])


def test_pass_by_waiver_reads_as_warned(run: Path) -> None:
    waiver = Waiver(rule="suppressed", reason="agreed", owner="team", expires=date(2026, 12, 1))
    first, *others = _report(run).findings
    waived = first.model_copy(update={"outcome": "fail", "waiver": waiver})
    predicate = json.loads(statement(_report(run, findings=(waived, *others)), check_files(run)))["predicate"]
    assert predicate["result"] == "WARNED"
    assert len(predicate["warnedTests"]) >= 1
    assert predicate["failedTests"] == []


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
    with pytest.raises(BrokenChain, match=r"signature\.dsse\.json says it is signed with key"):
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


def test_forged_run_needs_the_key(run: Path, key: Path) -> None:
    _sign(run, key)
    (run / "images" / "base" / "a.png").write_bytes(b"another picture")
    write_files(run, None, ())
    forged = statement(check_run(run), check_files(run))
    _edit(run / "signature.dsse.json", payload=b64encode(forged).decode())
    assert verify_run(run).signed_by
    with pytest.raises(BrokenChain, match=r"signature\.dsse\.json"):
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
