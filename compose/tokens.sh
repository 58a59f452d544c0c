#!/bin/sh
# What compose's profile `services` needs of the cluster that kubectl points at: CRDs, ServiceAccounts, and tokens
# of them for the bus. It starts nothing there. Run it again when the tokens have expired.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
base="$here/../k8s/base"
tokens="$here/.tokens"

command -v kubectl >/dev/null || { echo "kubectl is needed, and a cluster it points at" >&2; exit 1; }
# As the Job nsm-install does, so that either may come first.
kubectl apply --server-side --field-manager=nsm -f "$base/namespace.yaml" -f "$base/crds"
mkdir -p "$tokens"
chmod 700 "$tokens"
for role in watcher ipam viewer admin; do
  kubectl get serviceaccount "nsm-$role" -n nsm-system >/dev/null 2>&1 ||
    kubectl create serviceaccount "nsm-$role" -n nsm-system
  token=$(kubectl create token "nsm-$role" -n nsm-system --audience nats.nsm --duration 8h)
  # In place: containers have this directory mounted and read the file at every login.
  (umask 077 && printf '%s' "$token" >"$tokens/$role")
done
echo "tokens for eight hours are in $tokens"
