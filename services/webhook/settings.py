"""Settings of the webhook, from variables WEBHOOK_*."""

import msgspec


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """`kubeconfig` is a path; empty means: this process runs in a Pod of the cluster."""

    kubeconfig: str = ""
    system_namespace: str = "nsm-system"
    address: str = "127.0.0.1:9443"  # host:port; port 0: any
    names: str = (
        ""  # more names and addresses that the API server may call it by, separated by commas
    )

    @property
    def served_names(self) -> tuple[str, ...]:
        """What the certificate is for, the kube service's name first: it is what the API server asks for."""
        named = (each.strip() for each in self.names.split(","))
        return (f"webhook.{self.system_namespace}.svc", *(each for each in named if each))
