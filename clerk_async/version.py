"""The version, for the package's metadata and the User-Agent."""

from typing import Final

__version__: Final = "0.1.0"
