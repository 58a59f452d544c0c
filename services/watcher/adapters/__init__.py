"""The Kubernetes API: `Kube` speaks to it, an `Informer` keeps a kind's objects, `Events` tells people."""

from services.watcher.adapters.events import Events
from services.watcher.adapters.informer import Informer, Resource
from services.watcher.adapters.kube import Denied, Kube, Missing

__all__ = ["Denied", "Events", "Informer", "Kube", "Missing", "Resource"]
