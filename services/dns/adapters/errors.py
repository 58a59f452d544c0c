"""What the kernel's side can answer. Each names the thing; the service turns it into a reason."""


class Refused(Exception):
    """The kernel said no, in its own words. Nothing half-made is left."""


class Conflict(Exception):
    """Somebody else redirects the Pod's port 53. It was not touched."""


class Gone(Exception):
    """A Pod's network is not there, or is another one by now."""
