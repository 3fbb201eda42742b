"""Where a store lies: a local folder, or any folder that `fsspec` reaches, such as `s3://bucket/run.zarr`; and small files beside its arrays."""

import os
import uuid
from pathlib import Path
from typing import Any


class Location:
    """A folder by its path or URL. Nothing is looked at before it is asked for.

    Args:
        path: a local path, or a URL that `fsspec` knows.
    """

    def __init__(self, path: "str | os.PathLike[str] | Location") -> None:
        text = str(path) if isinstance(path, Location) else os.fspath(path)
        self.is_local = "://" not in text or text.startswith("file://")
        self.url = str(Path(text.removeprefix("file://")).absolute()) if self.is_local else text.rstrip("/")

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
        """Write a small file unless there is one of this name; whether it was written. Of two who try at once one is told True."""
        files, root = self._files()
        while True:
            if self.is_local:
                Path(root, name).parent.mkdir(parents=True, exist_ok=True)
            try:
                files.pipe_file(f"{root}/{name}", text.encode(), mode="create")
            except FileExistsError:
                return False
            except FileNotFoundError:  # the folder was removed by another process since
                continue
            return True

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

    def names(self, folder: str = "") -> list[str]:
        """The names in a folder; none where there is no folder."""
        files, root = self._files()
        files.invalidate_cache()
        try:
            found = files.ls(f"{root}/{folder}".rstrip("/"), detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(path.rstrip("/").rpartition("/")[2] for path in found)

    def sizes(self) -> dict[str, int]:
        """The bytes of every file in the folder and below, by its path in the folder."""
        files, root = self._files()
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

    def _files(self) -> tuple[Any, str]:
        import fsspec

        files, root = fsspec.core.url_to_fs(self.url)
        return files, root.rstrip("/")
