"""AdmissionReviews over HTTP: asked, answered. What cannot be read is answered with 400, which lets the Pod in."""

import base64

import msgspec
import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Histogram

from services.webhook.core import judge
from services.webhook.model import Request, Review, Verdict

log = structlog.get_logger()

PATH = "/pods"
VERSION, KIND = "admission.k8s.io/v1", "AdmissionReview"
_MOST_BYTES = 8 * 2**20  # the API server takes objects of 3 MiB; a review may show them twice


class Answering:
    """The handler, and its figures."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._reviews = Counter(
            "nsm_webhook_reviews",
            "Pods that are made, by what became of them: gated, unchanged, warned; malformed questions",
            ["outcome"],
            registry=registry,
        )
        self._seconds = Histogram(
            "nsm_webhook_review_seconds", "From question to answer", registry=registry
        )

    def application(self) -> web.Application:
        app = web.Application(client_max_size=_MOST_BYTES)
        app.router.add_post(PATH, self._answer)
        return app

    async def _answer(self, http: web.Request) -> web.Response:
        body = await http.read()
        with self._seconds.time():
            try:
                review = msgspec.json.decode(body, type=Review)
            except msgspec.DecodeError as exc:
                return self._refuse(str(exc))
            if (review.api_version, review.kind) != (VERSION, KIND):
                return self._refuse(f"{review.kind} of {review.api_version}, not of {VERSION}")
            request = review.request
            verdict = judge(request.pod, request.namespace) if request.pod else Verdict()
            self._tell(request, verdict)
            return web.json_response(text=answer(request.uid, verdict))

    def _refuse(self, reason: str) -> web.Response:
        self._reviews.labels("malformed").inc()
        log.warning("review cannot be read", reason=reason[:300])
        return web.json_response({"error": reason}, status=400)

    def _tell(self, request: Request, verdict: Verdict) -> None:
        gated = bool(verdict.patch)
        outcome = "warned" if verdict.warnings else "gated" if gated else "unchanged"
        self._reviews.labels(outcome).inc()
        log.info(
            "pod reviewed",
            namespace=request.namespace,
            pod=request.pod.name if request.pod else "",
            outcome=outcome,
            gated=gated,
            warnings=verdict.warnings,
        )


def answer(uid: str, verdict: Verdict) -> str:
    """The AdmissionReview that answers."""
    response: dict[str, object] = {"uid": uid, "allowed": True}
    if verdict.patch:
        patch = base64.b64encode(msgspec.json.encode(verdict.patch)).decode()
        response |= {"patchType": "JSONPatch", "patch": patch}
    if verdict.warnings:
        response["warnings"] = verdict.warnings
    body = {"apiVersion": VERSION, "kind": KIND, "response": response}
    return msgspec.json.encode(body).decode()
