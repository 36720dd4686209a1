# One image for every role: ROLE decides what a container does.
#
# Builds with docker, podman and buildah; from another base where Python is /usr/bin/python3 too.
ARG BASE=docker.io/library/python:3.13-slim

FROM ${BASE} AS build
WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ONLY_BINARY=:all: PIP_ROOT_USER_ACTION=ignore
# Build tools stay in this stage; the image gets /app only.
RUN python3 -m venv /build && python3 -m venv --without-pip /app
# The lock file: `app`, or `tracing` which adds the packages that send traces.
ARG REQUIREMENTS=app
COPY requirements/build.txt requirements/${REQUIREMENTS}.txt requirements/
RUN /build/bin/pip install --require-hashes -r requirements/build.txt \
 && /build/bin/pip --python /app/bin/python install --require-hashes -r requirements/${REQUIREMENTS}.txt
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY migrations migrations
COPY voting voting
RUN /build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /dist . \
 && /build/bin/pip --python /app/bin/python install --no-deps /dist/*.whl

FROM ${BASE}
# The image installs no packages.
RUN rm -rf /usr/local/lib/python3*/ensurepip /usr/local/lib/python3*/site-packages/pip* /usr/local/bin/pip*
COPY --from=build /app /app
ARG VERSION=0
ARG COMMIT=unknown
LABEL org.opencontainers.image.title="voting" \
      org.opencontainers.image.description="A voting app: every acknowledged vote is on disk and counted exactly once." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}"
ENV PATH=/app/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 COMMIT=${COMMIT}
USER 65532:65532
EXPOSE 8080 9090
ENTRYPOINT ["voting"]
