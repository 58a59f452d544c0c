# One image for every service, the bus and the nsm command: `docker run IMAGE services.ipam`.
# Whatever is installed stands in a lock file, with its hash.
FROM python:3.12.12-slim-bookworm AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1
# Behind a mirror: docker build --build-arg PIP_INDEX_URL=https://… . The hashes hold there, too.
ARG PIP_INDEX_URL
COPY requirements-runtime.lock requirements-build.lock /build/
# Wheels only: nothing is compiled, so no compiler is needed. pip and hatchling stay in this stage.
RUN python -m venv --without-pip /opt/venv \
 && python -m pip --python /opt/venv/bin/python install \
      --no-compile --require-hashes --only-binary :all: -r /build/requirements-runtime.lock \
 && python -m pip install --target /build/hatch \
      --require-hashes --only-binary :all: -r /build/requirements-build.lock

COPY pyproject.toml README.md LICENSE /app/
COPY schemas /app/schemas
COPY services /app/services
COPY lab /app/lab
COPY cli /app/cli
COPY tools /app/tools
COPY examples /app/examples
COPY k8s/base/crds /app/k8s/base/crds
# In place, as `make setup` does: the demo finds its examples, and compose may mount the tree over /app.
# Compiled here, because in a cluster the root file system is read-only. By hash, and nowhere else: bytecode that
# notes the hour would make every build differ.
RUN PYTHONPATH=/build/hatch python -m pip --python /opt/venv/bin/python install \
      --no-compile --no-deps --no-build-isolation --editable /app \
 && /opt/venv/bin/python -m compileall -q --invalidation-mode checked-hash /opt/venv/lib /app

FROM python:3.12.12-slim-bookworm

ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="nsm-on-nats" \
      org.opencontainers.image.description="Network Service Mesh for Kubernetes as small Python services on a NATS bus" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# The base has no bytecode of Python's own modules. No useradd: it notes the day in /etc/shadow.
RUN python -m pip uninstall --yes --quiet --root-user-action ignore pip \
 && python -m compileall -q "$(python -c 'import os; print(os.path.dirname(os.__file__))')" \
 && echo 'nsm:x:65532:' >> /etc/group \
 && echo 'nsm:x:65532:65532::/nonexistent:/usr/sbin/nologin' >> /etc/passwd
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app

ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# tools is no part of the package: `python -m` finds it here.
WORKDIR /app
USER 65532:65532
ENTRYPOINT ["python", "-m"]
CMD ["cli.main", "--help"]
