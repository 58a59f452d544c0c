"""Settings of the webhook, from variables WEBHOOK_*."""

import msgspec

from services._runtime.settings import Address


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Where it is called, and where it registers itself."""

    # where the Kubernetes API is; none: that of the cluster this Pod runs in
    kubeconfig: str = ""
    # where its kube service and its Secret are
    system_namespace: str = "nsm-system"
    # host:port that the API server calls; port 0: any
    address: Address = "127.0.0.1:9443"
    # more names and addresses that the API server may call it by, separated by commas
    names: str = ""

    @property
    def served_names(self) -> tuple[str, ...]:
        """What the certificate is for, the kube service's name first: it is what the API server asks for."""
        named = (each.strip() for each in self.names.split(","))
        return (f"webhook.{self.system_namespace}.svc", *(each for each in named if each))
