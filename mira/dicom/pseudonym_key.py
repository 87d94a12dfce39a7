"""The secret key of the pseudonyms: where it comes from, and that nobody else can read or replace it."""

import os
import shlex
import stat
from pathlib import Path

from mira.dicom.pseudonyms import Pseudonyms
from mira.errors import ConfigurationError
from mira.storage import make_secret

KEY_VARIABLE = "MIRA_PSEUDONYM_KEY"
KEY_FILE_VARIABLE = "MIRA_KEY_FILE"
SHORTEST_KEY = 16
LONGEST_FILE = 4096


def load_pseudonyms() -> Pseudonyms:
    """The project's key: from the environment, or from the secret file.

    `MIRA_PSEUDONYM_KEY` holds the key itself; `MIRA_KEY_FILE` names a file with it. Without either the file is
    `~/.config/mira/pseudonym.key`, which is made on first use: a plain file that its owner alone can read, in a folder
    that its owner alone can change. A file named by the variable may be a link and readable by its group, as mounted
    secrets are; it must be there, since a new key in the place of a mistyped one would give patients new names.

    Raises:
        ConfigurationError: for a key that is too short, a named file that is not there, or a file or folder that others
            can read or change, or that nobody can write.
    """
    given = os.environ.get(KEY_VARIABLE, "").strip()
    if given:
        return Pseudonyms(_checked(given, f"the environment variable {KEY_VARIABLE}"))
    named = os.environ.get(KEY_FILE_VARIABLE)
    path = Path(named) if named else Path.home() / ".config" / "mira" / "pseudonym.key"
    try:
        if not named and not os.path.lexists(path):
            make_secret(path)
        text = _read(path, shared=bool(named))
    except FileNotFoundError as error:
        file, folder = shlex.quote(str(path)), shlex.quote(str(path.parent))
        raise ConfigurationError(
            f"The pseudonym key file {path} does not exist. Correct {KEY_FILE_VARIABLE}, mount the file, or bring it "
            "back from its backup: a new key would give the same patients new names. Only for a new project, make one: "
            f"(umask 077; mkdir -p {folder} && openssl rand -hex 32 > {file})"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"Cannot use the pseudonym key file {path}: {type(error).__name__}. "
            f"Set {KEY_VARIABLE} or {KEY_FILE_VARIABLE}."
        ) from error
    return Pseudonyms(_checked(text, str(path)))


def _read(path: Path, shared: bool) -> str:
    """Content of the key file, after a look at the very file that is read.

    Args:
        path: the key file.
        shared: whether a link and a file that its group can read will do.
    """
    if not shared:
        if path.is_symlink():
            raise ConfigurationError(
                f"The pseudonym key {path} is a link. Put the key itself there, or name its file in "
                f"{KEY_FILE_VARIABLE}."
            )
        if path.parent.stat().st_mode & 0o022:
            raise ConfigurationError(f"Others can replace files in {path.parent}. Run: chmod 700 {path.parent}")
    handle = os.open(path, os.O_RDONLY | (0 if shared else os.O_NOFOLLOW) | os.O_NONBLOCK)
    state = os.fstat(handle)
    if not stat.S_ISREG(state.st_mode):
        os.close(handle)
        raise ConfigurationError(f"The pseudonym key {path} is no plain file. Remove it, or name another one.")
    with os.fdopen(handle, "rb") as stream:
        if state.st_mode & (0o027 if shared else 0o077):
            raise ConfigurationError(f"{path} can be read or changed by others. Run: chmod 600 {path}")
        return stream.read(LONGEST_FILE).decode("ascii").strip()


def _checked(key: str, where: str) -> bytes:
    if not key:
        raise ConfigurationError(
            f"The pseudonym key in {where} is empty. If data was de-identified with it before, bring the key back from "
            "its backup: a new key would give the same patients new names. Else remove the file, and one is made."
        )
    if len(key) < SHORTEST_KEY:
        raise ConfigurationError(
            f"The pseudonym key in {where} is shorter than {SHORTEST_KEY} characters. "
            "Make one with: openssl rand -hex 32"
        )
    return key.encode()
