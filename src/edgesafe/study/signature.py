"""Detached Ed25519 signatures of study.json, which binds every other file of a study by its hash.

A signature is the 64 bytes of RFC 8032 over the bytes of study.json, kept in `study.json.sig` beside it: exactly what
`openssl pkeyutl -sign -rawin` writes. Keys are PEM files as `openssl genpkey -algorithm ed25519` makes them. The
cryptography is the `cryptography` package's (extra `edgesafe[sign]`); docs/trust.md says what a signature adds.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from edgesafe.errors import IntegrityError, StoreError, UsageError
from edgesafe.files import is_file, read_bounded
from edgesafe.study.study import STUDY, Study

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

__all__ = ["SIGNATURE", "read_key", "require", "sign", "verify"]

SIGNATURE = "study.json.sig"
_LENGTH = 64  # bytes of an Ed25519 signature
_KEY_LIMIT = 100_000  # bytes of a PEM file


def read_key(path: Path) -> bytes:
    """The bytes of a key's file.

    Raises:
        UsageError: it cannot be read.
    """
    return read_bounded(path, _KEY_LIMIT, "a key in PEM", UsageError)


def require(study: Study, key: Path) -> None:
    """Refuse a study without a signature by the owner of a key over the very index that was read.

    Args:
        study: as it was read.
        key: file of a public Ed25519 key in PEM.

    Raises:
        IntegrityError: not signed, by another key, or changed since.
        UsageError: the key cannot be used.
    """
    path = study.root / SIGNATURE
    signature = read_bounded(path, _KEY_LIMIT, "a signature", StoreError) if is_file(path) else None
    verify(study.index, signature, read_key(key), where=str(key))


def sign(index: bytes, key: bytes, *, where: str) -> bytes:
    """The signature of a study's index, or of a bundle's manifest.

    Args:
        index: the bytes of study.json, or of manifest.json.
        key: a private Ed25519 key, PEM, not encrypted.
        where: the key's file, for messages.

    Returns:
        64 bytes.

    Raises:
        UsageError: the extra is not installed, or that is not such a key.
    """
    return _private(key, where).sign(index)


def verify(index: bytes, signature: bytes | None, key: bytes, *, where: str, what: str = STUDY) -> None:
    """Refuse a study that the owner of a key did not sign as it is.

    Args:
        index: the bytes of study.json that will be judged.
        signature: what lies beside it; None: nothing.
        key: a public Ed25519 key, PEM.
        where: the key's file, for messages.
        what: the file that was signed, for messages; its signature lies beside it, with ".sig" added.

    Raises:
        IntegrityError: not signed, or signed by another key, or changed since.
        UsageError: the extra is not installed, or that is not such a key.
    """
    public = _public(key, where)
    if signature is None:
        fix = "sign it with `edgesafe sign STUDY --key KEY`" if what == STUDY else "get one that its maker signed"
        raise IntegrityError("not signed", where=f"{what}.sig", fix=fix)
    from cryptography.exceptions import InvalidSignature

    try:
        if len(signature) != _LENGTH:
            raise InvalidSignature
        public.verify(signature, index)
    except InvalidSignature:
        raise IntegrityError(
            f"the signature is not one of {what} by the key {where}",
            where=f"{what}.sig",
            fix="get it from who signed it, or sign this one after a review",
        ) from None


def _private(key: bytes, where: str) -> Ed25519PrivateKey:
    serialization, ed25519, unsupported = _library()
    try:
        loaded = serialization.load_pem_private_key(key, password=None)
    except (ValueError, TypeError, NotImplementedError, unsupported):
        loaded = None
    if not isinstance(loaded, ed25519.Ed25519PrivateKey):
        fix = "make one with `openssl genpkey -algorithm ed25519 -out KEY`; an encrypted key must be decrypted first"
        raise UsageError("not a private Ed25519 key in PEM", where=where, fix=fix)
    return cast("Ed25519PrivateKey", loaded)


def _public(key: bytes, where: str) -> Ed25519PublicKey:
    serialization, ed25519, unsupported = _library()
    try:
        loaded = serialization.load_pem_public_key(key)
    except (ValueError, TypeError, NotImplementedError, unsupported):
        loaded = None
    if not isinstance(loaded, ed25519.Ed25519PublicKey):
        fix = "write it with `openssl pkey -in KEY -pubout -out KEY.pub`"
        raise UsageError("not a public Ed25519 key in PEM", where=where, fix=fix)
    return cast("Ed25519PublicKey", loaded)


def _library() -> tuple[Any, Any, type[Exception]]:
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ModuleNotFoundError:
        raise UsageError("cryptography is not installed", fix="pip install 'edgesafe[sign]'") from None
    return serialization, ed25519, UnsupportedAlgorithm
