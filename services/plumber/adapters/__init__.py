"""The foreign things a plumber touches: the kernel, and its own files on the node."""

from services.plumber.adapters import errors
from services.plumber.adapters.files import Grants
from services.plumber.adapters.kernel import Gone, Kernel, NameTaken, Refused
from services.plumber.adapters.peers import Answer, Peers

__all__ = ["Answer", "Gone", "Grants", "Kernel", "NameTaken", "Peers", "Refused", "errors"]
