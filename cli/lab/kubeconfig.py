"""`nsm lab kubeconfig`: what kubectl needs to talk to the lab."""

from cli import labs


def kubeconfig() -> None:
    """Print the path of the lab's kubeconfig: export KUBECONFIG=$(nsm lab kubeconfig)."""
    here, _ = labs.running()
    print(here.kubeconfig)
