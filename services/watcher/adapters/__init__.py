"""The Kubernetes API: `Kube` speaks to it, an `Informer` keeps a kind's objects, `Events` tells people."""

from services.watcher.adapters.events import Events
from services.watcher.adapters.informer import NOT_INSTALLED, Informer, Resource
from services.watcher.adapters.kube import Denied, Kube, Missing

__all__ = ["NOT_INSTALLED", "Denied", "Events", "Informer", "Kube", "Missing", "Resource"]
