"""Where a store lies: a local folder, or any folder that `fsspec` reaches, such as `s3://bucket/run.zarr`; and small files beside its arrays."""

import contextlib
import os
import re
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxllc._extras import require_file_system

ATTEMPTS = 20
"""To make a file in a folder that others remove at the same time."""


class Location:
    """A folder by its path or URL. Nothing is looked at before it is asked for.

    Args:
        path: a local path, or a URL that `fsspec` knows.
    """

    def __init__(self, path: "str | os.PathLike[str] | Location") -> None:
        text = str(path) if isinstance(path, Location) else os.fspath(path)
        scheme, separator, rest = text.partition("://")
        if isinstance(path, Path) and re.match(r"[a-z0-9]{2,}:/", text):
            raise ValueError(f"{text!r} is a URL that pathlib has shortened; pass it as text, {text.replace(':/', '://', 1)!r}.")
        require_file_system(text)
        self.is_local: bool = not separator or scheme in ("file", "local")
        self.url: str = str(Path(rest if separator else text).expanduser().absolute()) if self.is_local else text.rstrip("/")

    def __str__(self) -> str:
        return self.url

    def beside(self, ending: str) -> "Location":
        """The hidden folder beside it whose name has this ending."""
        above, _, name = self.url.rpartition("/")
        return Location(f"{above}/.{name}.{ending}")

    def zarr(self, *, read_only: bool = False) -> Any:
        """The folder as a store of Zarr."""
        from zarr.storage import FsspecStore, LocalStore

        return LocalStore(self.url, read_only=read_only) if self.is_local else FsspecStore.from_url(self.url, read_only=read_only)

    def exists(self) -> bool:
        """Whether there is anything at the path."""
        files, root = self._files()
        return files.exists(root)

    def create(self, name: str, text: str) -> bool:
        """Write a small file unless there is one of this name; whether it was written. Of two who try at once one is told True, and none sees half of it."""
        files, root = self._files()
        try:
            if self.is_local:
                self._link(Path(root, name), text)
            else:
                files.pipe_file(f"{root}/{name}", text.encode(), mode="create")
        except FileExistsError:
            return False
        return True

    def _link(self, path: Path, text: str) -> None:
        """Give a finished file its name, which nothing may have."""
        for attempt in range(ATTEMPTS):
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
            try:
                draft.write_text(text)
                os.link(draft, path)
                return
            except FileExistsError:
                raise
            except FileNotFoundError:  # the folder was removed by another process since
                if attempt == ATTEMPTS - 1:
                    raise
            except OSError:  # a file system without links, where others may see the file before its text
                with path.open("x") as file:
                    file.write(text)
                return
            finally:
                with contextlib.suppress(OSError):
                    draft.unlink()

    def write(self, name: str, text: str) -> None:
        """Write a small file, whole or not at all."""
        files, root = self._files()
        if not self.is_local:
            files.pipe_file(f"{root}/{name}", text.encode())
            return
        draft = Path(root, f"{name}.{uuid.uuid4().hex}")
        draft.write_text(text)
        draft.replace(Path(root, name))

    def read(self, name: str) -> str | None:
        """The text of a small file; None where there is none."""
        files, root = self._files()
        try:
            return files.cat_file(f"{root}/{name}").decode()
        except FileNotFoundError:
            return None

    def put(self, files: Mapping[str, bytes]) -> None:
        """Write files by their names, all at once where the files lie far away."""
        if not self.is_local:
            found, root = self._files()
            found.pipe({f"{root}/{name}": content for name, content in files.items()})
            return
        for name, content in files.items():
            path = Path(self.url, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def get(self, names: Sequence[str]) -> dict[str, bytes]:
        """The files that are there of these names."""
        found, root = self._files()
        if not self.is_local:
            contents = found.cat([f"{root}/{name}" for name in names], on_error="omit") if names else {}
            return {path[len(root) + 1 :]: content for path, content in contents.items()}
        contents = {}
        for name in names:
            with contextlib.suppress(FileNotFoundError), open(f"{root}/{name}", "rb") as file:  # noqa: PTH123 - many of them
                contents[name] = file.read()
        return contents

    def names(self, folder: str = "") -> list[str]:
        """The names in a folder; none where there is no folder."""
        files, root = self._files()
        files.invalidate_cache()
        try:
            found = files.ls(f"{root}/{folder}".rstrip("/"), detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(path.rstrip("/").rpartition("/")[2] for path in found)

    def sizes(self, folder: str = "") -> dict[str, int]:
        """The bytes of every file in a folder and below, by its path in the folder."""
        files, root = self._files()
        root = f"{root}/{folder}".rstrip("/")
        files.invalidate_cache()
        found = files.find(root, detail=True)
        return {path[len(root) :].lstrip("/"): int(about["size"]) for path, about in found.items()}

    def remove(self, name: str) -> None:
        """Remove a file, or a folder with all in it, if it is there."""
        files, root = self._files()
        try:
            files.rm(f"{root}/{name}".rstrip("/"), recursive=True)
        except FileNotFoundError:
            return

    def remove_empty(self, *folders: str) -> None:
        """Remove local folders that hold nothing, those named and the one itself; object stores have none."""
        for folder in (*folders, "") if self.is_local else ():
            with contextlib.suppress(OSError):
                Path(self.url, folder).rmdir()

    def _files(self) -> tuple[Any, str]:
        import fsspec

        files, root = fsspec.core.url_to_fs(self.url)
        return files, root.rstrip("/")
