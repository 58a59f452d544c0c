"""What reaches the Kubernetes API server: where it is and who we are there, as it is written down now.

Used by the services that ask it; what they ask and what an answer means is theirs. It knows no service and no
bus. Promises: tokens, certificates and addresses that change need no restart, and are read at most once a second.
"""

from services._kube.access import JSON, Access, NoCluster

__all__ = ["JSON", "Access", "NoCluster"]
