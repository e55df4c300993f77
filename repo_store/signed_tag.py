"""An annotated tag object taken apart as Git does: what was signed, and the signature. Pure: bytes in, a value out.

Source: gitformat-signature(5), PROTOCOL.sshsig of OpenSSH.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass

from repo_store.errors import TagRefused

_SSH = b"-----BEGIN SSH SIGNATURE-----"
_OTHERS = (
    b"-----BEGIN PGP SIGNATURE-----",
    b"-----BEGIN PGP MESSAGE-----",
    b"-----BEGIN SIGNED MESSAGE-----",
)
_OBJECT = re.compile(rb"object ([0-9a-f]{40}|[0-9a-f]{64})")
_MAGIC = b"SSHSIG"
_KEY_AT = len(_MAGIC) + 4 + 4  # behind the version, the length of the key
SIGN = "git tag -s -m MESSAGE {tag} COMMIT"


@dataclass(frozen=True, slots=True)
class SignedTag:
    """A tag object: the commit and the name it was signed for; `payload` is what `signature` is of."""

    commit_id: str
    name: str
    payload: bytes
    signature: bytes

    @property
    def fingerprint(self) -> str:
        """SHA256:… of the key that the signature names, as ssh-keygen writes it; whether it is its own is not known here."""
        lines = self.signature.strip().split(b"\n")[1:-1]
        try:
            blob = base64.b64decode(b"".join(lines), validate=True)
            size = int.from_bytes(blob[_KEY_AT - 4 : _KEY_AT], "big")
        except binascii.Error:
            return "unknown"
        digest = hashlib.sha256(blob[_KEY_AT : _KEY_AT + size]).digest()
        return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


def take_apart(data: bytes) -> SignedTag:
    """Read the content of a tag object. Raises TagRefused unless it is a commit's tag with an SSH signature.

    The header is read by place, so that no second `tag` or `object` line can say otherwise than the first.
    """
    at = _signature_at(data)
    if at is None:
        raise TagRefused("it is not signed")
    payload, signature = data[:at], data[at:]
    if not signature.startswith(_SSH):
        raise TagRefused("it is signed, but not with an SSH key, and only those are checked here")
    header = payload.partition(b"\n\n")[0].split(b"\n")
    found = _OBJECT.fullmatch(header[0]) if len(header) == 4 else None  # object, type, tag, tagger
    if found is None or not header[2].startswith(b"tag ") or not header[3].startswith(b"tagger "):
        raise TagRefused("its tag object is not as git writes one")
    if header[1] != b"type commit":
        raise TagRefused("it does not tag a commit itself")
    return SignedTag(found[1].decode(), header[2][4:].decode("utf-8", "replace"), payload, signature)


def _signature_at(data: bytes) -> int | None:
    """Where the last line that begins a signature does, as Git reads it: a message may quote one before."""
    found = [
        match.start()
        for begin in (_SSH, *_OTHERS)
        for match in re.finditer(rb"^" + re.escape(begin), data, re.MULTILINE)
    ]
    return max(found, default=None)
