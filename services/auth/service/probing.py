"""A question of our own making, as a server would ask it: to hear whether we still answer."""

import secrets

from services.auth.core import callout, encoding
from services.auth.core.encoding import ACCOUNT, CURVE, SERVER, BadEncoding
from services.auth.model import Keys, Question


class Probe:
    """One question, and the check of its answer. Its keys are its own, so an old answer does not do."""

    def __init__(self, keys: Keys, name: str, *, now: float) -> None:
        self._keys = keys
        self._xkey = encoding.encode_seed(CURVE, secrets.token_bytes(32))
        seed = secrets.token_bytes(32)
        public = encoding.public_of(CURVE, self._xkey)
        asked = callout.ask(
            encoding.encode_seed(SERVER, seed),
            user=encoding.public_of(CURVE, self._xkey),
            name=name,
            now=now,
        )
        self.headers = {callout.XKEY_HEADER: public}
        self.data = encoding.seal(
            asked, self._xkey, encoding.public_of(CURVE, keys.xkey), nonce=secrets.token_bytes(24)
        )

    def check(self, answer: bytes) -> None:
        """Raises BadEncoding if this is not the answer of a responder with these keys."""
        responder = encoding.public_of(CURVE, self._keys.xkey)
        claims = encoding.decode_jwt(ACCOUNT, encoding.unseal(answer, self._xkey, responder))
        if claims["iss"] != encoding.public_of(ACCOUNT, self._keys.issuer):
            raise BadEncoding(f"the answer is by {claims['iss']}, not by our account")


def is_probe(question: Question, name: str) -> bool:
    """Whether a question is this responder's own: no client's, as it has no token and no client's name."""
    return question.name == name and not question.token
