"""Packages that only some users need: which extra of jaxllc installs them."""

import importlib.util

EXTRAS = {"matplotlib": "plots", "plotly": "report", "safetensors": "hf", "tokenizers": "hf", "s3fs": "distributed", "gcsfs": "distributed"}
FILE_SYSTEMS = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}
"""What `fsspec` needs for a scheme; it names the package itself for those that no extra has."""


def require(package: str, purpose: str) -> None:
    """Raise an error that names the extra, unless a package is installed; it is not loaded.

    Args:
        package: its name, one of those in `EXTRAS`.
        purpose: what needs it, as the subject of a sentence.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    if importlib.util.find_spec(package) is None:
        raise ModuleNotFoundError(f"{purpose} needs the package {package}: pip install 'jaxllc[{EXTRAS[package]}]'.", name=package)


def require_file_system(url: str) -> None:
    """Raise such an error unless what reads a URL is installed, as far as an extra has it; any other text is left alone.

    Args:
        url: a path or URL.

    Raises:
        ModuleNotFoundError: `s3fs` or `gcsfs` is not installed.
    """
    scheme, separator, _ = url.partition("://")
    if separator and scheme in FILE_SYSTEMS:
        require(FILE_SYSTEMS[scheme], f"{scheme}://")
