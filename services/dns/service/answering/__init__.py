"""The sockets around `core`: per captured Pod one `Answerer`, all of a node on one `Engine`. Callbacks, no tasks.

engine = Engine(registry)                                    # in the running loop
answerer = Answerer(opener, engine=engine, profile=profile, on_loop=…)
port = answerer.open()                                       # redirect the Pod's port 53 to it
"""

from services.dns.service.answering.answerer import Answerer
from services.dns.service.answering.engine import Engine
from services.dns.service.answering.opening import Opener

__all__ = ["Answerer", "Engine", "Opener"]
