"""What a node's kernel can answer to an agent. Each names the thing; a service turns it into a status reason."""


class Refused(Exception):
    """The kernel said no, in its own words, or nobody can tell now. Nothing half-made is left."""


class Gone(Exception):
    """A Pod's network is not there, or is another one by now."""
