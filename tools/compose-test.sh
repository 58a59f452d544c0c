#!/bin/sh
# Brings compose up and runs the demo's checks in it. Exit code 3: there is nothing here to run it with.
set -eu
cd "$(dirname "$0")/.."

if ! docker compose version >/dev/null 2>&1; then
  echo "compose-test: no docker compose here; install Docker Engine with its compose plugin" >&2
  exit 3
fi
docker compose config --quiet
if ! docker info >/dev/null 2>&1; then
  echo "compose-test: compose.yaml is well formed, but no Docker engine answers: start one, or set DOCKER_HOST" >&2
  exit 3
fi

# Apart from a developer's own containers.
export COMPOSE_PROJECT_NAME="nsm-test-$$"
end() {
  code=$?
  trap - EXIT
  [ "$code" -eq 0 ] || docker compose logs --no-color --tail 100 || true
  docker compose down --volumes --timeout 30 || true
  exit "$code"
}
trap end EXIT
trap 'exit 130' INT TERM

docker compose up --build --detach --wait --wait-timeout 180 lab
docker compose exec -T lab nsm lab get connections
# Its own lab, beside the one that is up.
docker compose exec -T lab nsm demo
echo "compose-test: the demo's checks hold"
