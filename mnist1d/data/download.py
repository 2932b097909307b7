"""Published files of image sets: fetched once, checked by their SHA-256 checksums, kept in the cache folder.

They lie in `cache_folder()`/NAME under their published names, where one can put them by hand as well.
$MNIST1D_MIRROR, if set, is asked instead of the publishers: for MIRROR/NAME/FILE. Checksums are the same.
"""

import hashlib
import os
import sys
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import requests
from urllib3.exceptions import HTTPError, ReadTimeoutError

from mnist1d.data.cache import cache_folder, whole_file
from mnist1d.image_sets import IMAGE_SETS, RemoteFile

__all__ = ["DownloadError", "fetch", "fetch_or_refuse", "to_download"]

TIMEOUT = 20.0  # seconds without a byte from the server
_CHUNK = 2**18
_OFFLINE = "data=mnist_subset (5000 digits of MNIST) and data=digits (1797 small ones) need none"


class DownloadError(RuntimeError):
    """A set's files are not here and cannot be fetched; the message says why and what to do."""


def fetch_or_refuse(names: Iterable[str]) -> None:
    """Have the files of all those of the data sets `names` that need any, or end the program with what to do."""
    for name in dict.fromkeys(names):
        try:
            fetch(name)
        except DownloadError as error:
            sys.exit(str(error))


def fetch(name: str) -> list[Path]:
    """The files of an image set, on disk and with the right checksums; those that are not are downloaded.

    Raises:
        DownloadError: a file cannot be fetched, has another checksum, or cannot be written.
    """
    images, folder = IMAGE_SETS.get(name), cache_folder() / name
    if images is None:
        return []
    lacking = _lacking(name)
    if lacking:
        print(f"data={name}: downloading {images.megabytes} MB to {folder}", file=sys.stderr)
    for place, remote in enumerate(lacking):
        url = _address(name, remote)
        try:
            _download(url, folder / remote.name, remote.sha256)
        except (OSError, HTTPError) as error:  # requests' own errors are OSErrors, urllib3's are not
            raise DownloadError(_advice(name, folder, lacking[place:], f"{url} {_reason(error)}")) from None
    return [folder / remote.name for remote in images.files]


def to_download(name: str) -> int:
    """Megabytes that `fetch` would download of a data set; 0 where its files are here, or it needs none."""
    return IMAGE_SETS[name].megabytes if _lacking(name) else 0


def _lacking(name: str) -> list[RemoteFile]:
    remotes, folder = IMAGE_SETS[name].files if name in IMAGE_SETS else (), cache_folder() / name
    return [remote for remote in remotes if not _is_sound(folder / remote.name, remote)]


def _is_sound(file: Path, remote: RemoteFile) -> bool:
    try:
        stat = file.stat()
        return _checksum(file, stat.st_mtime_ns, stat.st_size) == remote.sha256
    except OSError:
        return False


@lru_cache(maxsize=64)
def _checksum(file: Path, *state: int) -> str:
    del state  # in the key: a file that changes is read again
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _address(name: str, remote: RemoteFile) -> str:
    mirror = os.environ.get("MNIST1D_MIRROR")
    return f"{mirror.rstrip('/')}/{name}/{remote.name}" if mirror else remote.url


class _OtherContent(OSError):
    """What came is not what was published."""


def _download(url: str, file: Path, sha256: str) -> None:
    digest = hashlib.sha256()
    with requests.get(url, stream=True, timeout=TIMEOUT) as response, whole_file(file) as stream:
        response.raise_for_status()
        for chunk in response.raw.stream(_CHUNK, decode_content=False):  # a .gz stays one, whatever the header says
            digest.update(chunk)
            stream.write(chunk)
        if digest.hexdigest() != sha256:
            raise _OtherContent(f"has the checksum {digest.hexdigest()[:12]}…, the published file {sha256[:12]}…")


def _reason(error: Exception) -> str:
    if isinstance(error, requests.HTTPError):
        return f"answers {str(error).partition(' for url')[0]}"
    if isinstance(error, requests.Timeout | ReadTimeoutError):
        return f"gives no answer within {TIMEOUT:g} seconds"
    if isinstance(error, requests.ConnectionError):
        return "cannot be reached"
    if isinstance(error, HTTPError):
        return "breaks off before the end"
    return str(error) if isinstance(error, _OtherContent) else f"fails: {error}"


def _advice(name: str, folder: Path, lacking: Sequence[RemoteFile], problem: str) -> str:
    wrong = [remote.name for remote in lacking if (folder / remote.name).exists()]
    lines = [f"data={name} cannot be downloaded: {problem}"]
    if wrong:
        lines.append(f"  there, but not as published: {', '.join(wrong)}")
    lines.append(f"  by hand: put {', '.join(remote.name for remote in lacking)} into {folder}")
    return "\n".join([*lines, f"  without a network: {_OFFLINE}"])
