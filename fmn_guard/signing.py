"""Who stands behind a report: an in-toto statement in a DSSE envelope, signed with ed25519, offline.

(Report, Files) --statement--> bytes     what is signed: model, patch, report and list of files, by digest
run folder --sign_run--> signature.dsse.json
run folder --check_signature--> Signature

The format is that of https://github.com/in-toto/attestation (Statement v1, test-result v0.1) and
https://github.com/secure-systems-lab/dsse. What is signed is the list of files, not ``cleaned.json``: pictures can be
removed afterwards, and the signature still holds. A signature brings its public key along, so that damage is noticed
where no key is at hand; who made it, only a key that is given tells.
"""

from __future__ import annotations

import binascii
import os
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, get_args

from pydantic import Field, StringConstraints

from .chain import FILES, SIGNATURE, Files, read_canonical
from .errors import BrokenChain, InputError
from .findings import Finding
from .record import Digest, Record, canonical_json, write_record
from .report import Report

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"

_State = Literal["passed", "warned", "failed"]

Passphrase = Callable[[], bytes]
"""Asked only when a key is locked."""


class Signature(Record):
    """One signature of an envelope."""

    keyid: str
    """Id of the key, as securesystemslib computes it from the public key."""
    sig: str
    """The signature in base64."""
    public: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    """The public key, its 32 bytes in hexadecimal; a field that DSSE leaves to who signs, and other readers ignore."""


class Envelope(Record):
    """signature.dsse.json: what is signed, and by whom."""

    payload: str
    """The statement in base64."""
    payload_type: Literal["application/vnd.in-toto+json"] = Field(alias="payloadType")
    """What the payload is."""
    signatures: tuple[Signature]
    """Exactly one: a second could not be told from a changed byte by who has one key."""


def statement(report: Report, files: Files) -> bytes:
    """The in-toto statement about a run, in canonical JSON. Pure.

    It is published with the model, so it names nobody: digests and counts, no concept, no rule and no prompt.

    ``result`` is ``PASSED`` only where the verdict is pass without a waiver and without a review that decides it; with
    either it is ``WARNED``, and whatever else, inconclusive included, is ``FAILED``.
    """
    listed = {FILES: files.digest} | files.files
    # The identity of a model is no digest of a file: under "sha256", others would look for one.
    model = {"name": "model", "digest": {"fmnGuardIdentity": _hex(report.patched_digest)}}
    base = {"name": "base", "digest": {"fmnGuardIdentity": _hex(report.base_digest)}}
    tool = {"name": "fmn-guard", "uri": f"pkg:pypi/fmn-guard@{report.tool_version}"}
    subjects = [name for name in ("patch.safetensors", "report.json", FILES) if name in listed]
    notes = {
        "report.json": _counts(report),
        "plan.json": {"suite": report.suite},
        "policy.json": {"policy": report.policy},
    }
    return canonical_json(
        {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [model, *(_resource(name, listed[name], notes) for name in subjects)],
            "predicateType": "https://in-toto.io/attestation/test-result/v0.1",
            "predicate": {
                "result": _result(report),
                "configuration": [
                    base,
                    *(_resource(name, listed[name], notes) for name in ("plan.json", "policy.json")),
                    tool,
                ],
            },
        }
    )


def make_keys(private: Path, passphrase: bytes | None = None) -> Path:
    """Makes a pair of keys: PKCS #8 in PEM, for the owner's eyes only, and its public half.

    Args:
        private: File of the private key; the public one gets ``.pub`` after its name.
        passphrase: What the private key is locked with; None leaves it open.

    Returns:
        The file of the public key.

    Raises:
        InputError: a file is there already, or cannot be written; no key is ever overwritten.
    """
    from cryptography.hazmat.primitives import serialization as to
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    public = private.with_name(f"{private.name}.pub")
    for path in (private, public):
        if path.exists() or path.is_symlink():
            raise InputError(f"{path} exists, and keys are never overwritten", hint="give another name")
    key = Ed25519PrivateKey.generate()
    lock = to.BestAvailableEncryption(passphrase) if passphrase else to.NoEncryption()
    secret = key.private_bytes(to.Encoding.PEM, to.PrivateFormat.PKCS8, lock)
    _write_new(private, secret, 0o600)
    _write_new(public, key.public_key().public_bytes(to.Encoding.PEM, to.PublicFormat.SubjectPublicKeyInfo), 0o644)
    return public


def sign_run(run: Path, report: Report, files: Files, key: Path, passphrase: Passphrase) -> Signature:
    """Signs a run that was verified just before, and writes its ``signature.dsse.json``.

    Args:
        run: The run folder.
        report: Its report.
        files: Its list of files.
        key: File of the private key.
        passphrase: Asked for the key's passphrase if it is locked.

    Raises:
        InputError: the key is missing, locked with another passphrase, or no private ed25519 key.
    """
    secret = _private_key(key, passphrase)

    from securesystemslib import dsse
    from securesystemslib.signer import CryptoSigner

    content = statement(report, files)
    made = dsse.Envelope(content, PAYLOAD_TYPE, {}).sign(CryptoSigner(secret))
    public = secret.public_key().public_bytes_raw().hex()
    signature = Signature(keyid=made.keyid, sig=_base64(bytes.fromhex(made.signature)), public=public)
    envelope = Envelope(payload=_base64(content), payload_type=PAYLOAD_TYPE, signatures=(signature,))
    write_record(run / SIGNATURE, envelope)
    return signature


def check_signature(
    run: Path, report: Report, files: Files, keys: Sequence[Path], *, required: bool = False
) -> Signature | None:
    """Checks that the signature of a run is about this run, and holds, and is of one of some keys.

    Without keys, it must hold for the public key that it brings along: anybody may have made it, but no byte of it was
    changed since.

    Args:
        run: The run folder.
        report: Its report.
        files: Its list of files.
        keys: Files of public keys, of which one must have signed.
        required: Whether there must be a signature even where no key is given.

    Returns:
        The signature; None when there is none and none has to be.

    Raises:
        BrokenChain: the signature is missing, damaged, about another run, or by none of the keys.
        InputError: it is unreadable, or a key is missing or no public ed25519 key.
        ModuleNotFoundError: there is something to check, and the extra ``sign`` is not installed.
    """
    public = [_public_key(key) for key in keys]
    path = run / SIGNATURE
    envelope = read_canonical(path, Envelope)
    if envelope is None:
        if keys or required:
            raise BrokenChain(f"{path} is missing: the run is not signed", hint="sign it with `fmn-guard sign`")
        return None
    content = statement(report, files)
    if envelope.payload != _base64(content):
        raise BrokenChain(
            f"{path} signs something else than what {FILES} and report.json are now",
            hint="restore what was signed, or sign the run again with `fmn-guard sign`",
        )
    [signature] = envelope.signatures
    _check_own_key(path, content, signature)

    from securesystemslib.signer import SSlibKey

    given = [SSlibKey.from_crypto(key).keyid for key in public]
    if given and signature.keyid not in given:
        raise BrokenChain(
            f"{path} is signed with key {signature.keyid[:12]}, not with {', '.join(each[:12] for each in given)}",
            hint="ask who signs releases for their public key; if that is the one, somebody else signed the run",
        )
    return signature


def _check_own_key(path: Path, content: bytes, signature: Signature) -> None:
    """Checks that a signature holds for the public key that it brings along, and is spelled in the one way."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from securesystemslib import dsse, exceptions
    from securesystemslib.signer import Signature as Made
    from securesystemslib.signer import SSlibKey

    again = "restore it, or sign the run again with `fmn-guard sign`"
    key = SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(bytes.fromhex(signature.public)))
    if key.keyid != signature.keyid:
        raise BrokenChain(f"{path}: its keyid is not that of its public key", hint=again)
    try:
        raw = b64decode(signature.sig, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if _base64(raw) != signature.sig or not raw:
        raise BrokenChain(f"{path}: its signature is no base64", hint=again)
    try:
        dsse.Envelope(content, PAYLOAD_TYPE, {key.keyid: Made(key.keyid, raw.hex())}).verify([key], 1)
    except exceptions.VerificationError as error:
        raise BrokenChain(f"{path}: its signature does not hold for its public key", hint=again) from error


def _private_key(path: Path, passphrase: Passphrase) -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    content = _read_key(path)
    # OpenSSL's own traditional format is another one; keygen writes this.
    secret = passphrase() if b"BEGIN ENCRYPTED PRIVATE KEY" in content else None
    key = _loaded(path, "private", lambda: load_pem_private_key(content, secret))
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(f"{path} is no ed25519 key", hint="make one with `fmn-guard keygen`")
    return key


def _public_key(path: Path) -> Ed25519PublicKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    content = _read_key(path)
    key = _loaded(path, "public", lambda: load_pem_public_key(content))
    if not isinstance(key, Ed25519PublicKey):
        raise InputError(f"{path} is no ed25519 key", hint="give the .pub file that `fmn-guard keygen` wrote")
    return key


def _loaded(path: Path, half: str, load: Callable[[], Any]) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        return load()
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputError(
            f"{path} is no {half} key in PEM, or locked with another passphrase",
            hint="`fmn-guard keygen KEY` writes KEY, which signs, and KEY.pub, which verifies",
        ) from error


def _read_key(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}", hint="check the path of the key and its permissions") from error


def _write_new(path: Path, content: bytes, mode: int) -> None:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}", hint="give a new file in a folder") from error
    with os.fdopen(handle, "wb") as file:
        file.write(content)


def _result(report: Report) -> Literal["PASSED", "WARNED", "FAILED"]:
    if report.verdict != "pass":
        return "FAILED"
    rests_on_people = any(finding.waiver for finding in report.findings) or report.verdict_words != report.verdict
    return "WARNED" if rests_on_people else "PASSED"


def _counts(report: Report) -> dict[str, Any]:
    states = Counter(map(_state, report.findings))
    return {
        "verdict": report.verdict,
        "findings": {state: states[state] for state in get_args(_State)},
        "pictures": {side.side: {"planned": side.planned, "scored": side.scored} for side in report.counts},
    }


def _state(finding: Finding) -> _State:
    if finding.outcome == "pass":
        return "passed"
    return "failed" if finding.decides else "warned"


def _resource(name: str, value: Digest, notes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    said = {"annotations": notes[name]} if name in notes else {}
    return {"name": name, "digest": {"sha256": _hex(value)}} | said


def _hex(value: Digest) -> str:
    return value.removeprefix("sha256:")


def _base64(content: bytes) -> str:
    return b64encode(content).decode()
