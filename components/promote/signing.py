"""Signatures of what may be served: made where a network is exported and where a release is put in place.

A signature is an HMAC-SHA256 with a key that lies outside the repository and the artifact store, so whoever can
write to those cannot make one. An export's signature binds a network to its version and decision; a release's seal
binds every file that Triton will read, the backend's code and its configuration included.
"""

import hashlib
import hmac
import json
import os
import shlex
import stat
from pathlib import Path
from typing import Any

from mira.errors import ConfigurationError, ServingFailed
from mira.storage import hash_file, make_secret, read_json, write_json

KEY_VARIABLE = "MIRA_SIGNING_KEY"
KEY_FILE_VARIABLE = "MIRA_SIGNING_KEY_FILE"
SHORTEST_KEY = 32
SIGNATURE = "signature.json"
SEAL = "seal.json"


class Signer:
    """Signs statements and checks them with one key.

    Args:
        key: the secret.
    """

    def __init__(self, key: str) -> None:
        self._key = key.encode()

    @property
    def key_id(self) -> str:
        """Tells two keys apart without telling anything of them."""
        return self._mac({"what": "key-id"})[:8]

    def sign(self, statement: dict[str, Any]) -> dict[str, Any]:
        """The statement with its signature."""
        return {"statement": statement, "key": self.key_id, "hmac_sha256": self._mac(statement)}

    def proof(self, statement: dict[str, Any]) -> str:
        """The signature alone, for a record that holds what is signed itself."""
        return self._mac(statement)

    def check(self, path: Path) -> dict[str, Any]:
        """The statement of a signed document.

        Raises:
            ServingFailed: when there is none, or its signature is not of this key.
        """
        if not path.is_file():
            raise ServingFailed(f"{path} is missing: nothing says that this network may be served. Export it again.")
        try:
            document = read_json(path)
            statement, key, given = (document[name] for name in ("statement", "key", "hmac_sha256"))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ServingFailed(f"{path} is no signature. Export it again.") from error
        if not hmac.compare_digest(str(given).encode(), self._mac(statement).encode()):
            why = "was changed after it was signed" if key == self.key_id else f"was signed with another key, {key}"
            raise ServingFailed(
                f"{path} {why}; the key here is {self.key_id}. Export and promote with one key ({KEY_VARIABLE} or "
                f"{KEY_FILE_VARIABLE}), and find out who changed it."
            )
        return dict(statement)

    def _mac(self, statement: dict[str, Any]) -> str:
        text = json.dumps(statement, sort_keys=True, separators=(",", ":"))
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()


def known_signer() -> Signer | None:
    """The key as of `load_signer`, None where there is none yet: it is not made.

    Raises:
        ConfigurationError: as `load_signer`.
    """
    given = any(os.environ.get(name, "").strip() for name in (KEY_VARIABLE, KEY_FILE_VARIABLE))
    return load_signer() if given or os.path.lexists(_own_key()) else None


def load_signer() -> Signer:
    """The key from the environment, or from its file.

    `MIRA_SIGNING_KEY` holds the key, `MIRA_SIGNING_KEY_FILE` names its file, which must be there: with a new key in the
    place of a mistyped one, all that was signed would look forged. Without either the file is
    `~/.config/mira/signing.key`, which is made on first use and which its owner alone can read.

    Raises:
        ConfigurationError: when the key is too short, a named file is not there, or others can read or replace it.
    """
    given = os.environ.get(KEY_VARIABLE, "").strip()
    if given:
        return Signer(_checked(given, KEY_VARIABLE))
    named = os.environ.get(KEY_FILE_VARIABLE)
    path = Path(named) if named else _own_key()
    try:
        if not named and not os.path.lexists(path):
            make_secret(path)
        with path.open(encoding="ascii") as stream:
            state = os.fstat(stream.fileno())
            # a mounted secret, which the variable names, may be readable by its group
            if state.st_mode & (0o027 if named else 0o077) or not stat.S_ISREG(state.st_mode):
                raise ConfigurationError(f"{path} can be read or changed by others. Run: chmod 600 {path}")
            if not named and path.parent.stat().st_mode & 0o022:
                raise ConfigurationError(f"Others can replace files in {path.parent}. Run: chmod 700 {path.parent}")
            text = stream.read(4096).strip()
    except FileNotFoundError as error:
        file, folder = shlex.quote(str(path)), shlex.quote(str(path.parent))
        raise ConfigurationError(
            f"The signing key file {path} does not exist. Correct {KEY_FILE_VARIABLE}, mount the file, or bring it "
            "back from its backup: with a new key, all that was signed before would look forged. Only for a new "
            f"project, make one: (umask 077; mkdir -p {folder} && openssl rand -hex 32 > {file})"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"Cannot use the signing key {path}: {type(error).__name__}. Set {KEY_VARIABLE} or {KEY_FILE_VARIABLE}."
        ) from error
    return Signer(_checked(text, str(path)))


def sign_export(folder: Path, registered: dict[str, Any]) -> None:
    """Sign an exported network: metadata.json and every network file of `folder` are those of a registered version.

    Args:
        folder: holds model.onnx, the files of other precisions and metadata.json; signature.json is written there.
        registered: version.json of the register step.
    """
    write_json(folder / SIGNATURE, load_signer().sign(_statement(folder, registered)))


def check_export(folder: Path, registered: dict[str, Any]) -> dict[str, Any]:
    """Check that a network is signed as one of a registered version; returns what was signed.

    Raises:
        ServingFailed: naming what differs.
    """
    signed, found = load_signer().check(folder / SIGNATURE), _statement(folder, registered)
    different = sorted(name for name in {*signed, *found} if signed.get(name) != found.get(name))
    if different:
        raise ServingFailed(
            f"{folder / SIGNATURE} was signed for something else: {', '.join(different)} differ. "
            "Export the version that is to be promoted again."
        )
    return signed


def signed_version(folder: Path) -> dict[str, Any]:
    """What the signature of an exported network says of its registered version, for signing it again.

    Raises:
        ServingFailed: when the folder is not as it was signed.
    """
    registered = load_signer().check(folder / SIGNATURE)
    check_export(folder, registered)
    return registered


def seal(folder: Path, model: str, version: int) -> None:
    """Sign the hash of every file of a version's folder, as Triton will read it."""
    statement = {"what": "release", "name": model, "version": version, "files": _files(folder)}
    write_json(folder / SEAL, load_signer().sign(statement))


def check_seal(folder: Path, model: str, version: int) -> dict[str, str]:
    """Check that a version's folder holds exactly the files that were sealed.

    Returns:
        SHA-256 of each file by its name in the folder.

    Raises:
        ServingFailed: naming a file that was changed, added or removed.
    """
    advice = "Promote it again, or roll back to another version: mira rollback --to VERSION"
    if not (folder / SEAL).is_file():
        raise ServingFailed(f"{model} version {version} is missing on disk, or has no seal. {advice}")
    statement = load_signer().check(folder / SEAL)
    if (statement.get("name"), statement.get("version")) != (model, version):
        raise ServingFailed(f"{folder} holds the seal of another release. {advice}")
    sealed, found = dict(statement["files"]), _files(folder)
    different = sorted(name for name in {*sealed, *found} if sealed.get(name) != found.get(name))
    if different:
        raise ServingFailed(
            f"{model} version {version} was changed on disk since its promotion: {', '.join(different[:3])}. {advice}"
        )
    return found


def _statement(folder: Path, registered: dict[str, Any]) -> dict[str, Any]:
    return {
        "what": "export",
        "name": folder.name,
        "version": int(registered["version"]),
        "onnx_sha256": hash_file(folder / "model.onnx"),
        "files": {path.name: hash_file(path) for path in sorted(folder.glob("model.*"))},
        "metadata_sha256": hash_file(folder / "metadata.json"),
        "decision_sha256": str(registered.get("decision_sha256", "")),
        "data_version": str(registered.get("data_version", "")),
    }


def _files(folder: Path) -> dict[str, str]:
    """SHA-256 of every file; links are refused, since what they lead to is not looked at and may hold code."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ServingFailed(f"{path} is no plain file, and no promotion put it there. Remove it.")
        if path.is_file() and path.relative_to(folder) != Path(SEAL):
            found[path.relative_to(folder).as_posix()] = hash_file(path)
    return found


def _own_key() -> Path:
    return Path.home() / ".config" / "mira" / "signing.key"


def _checked(key: str, where: str) -> str:
    if len(key) < SHORTEST_KEY:
        raise ConfigurationError(
            f"The signing key in {where} is shorter than {SHORTEST_KEY} characters. Make one: openssl rand -hex 32"
        )
    return key
