# The image of workers and server: `docker build -t featurestore .`
FROM python:3.12-slim-bookworm AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/featurestore
ENV PATH=/opt/featurestore/bin:$PATH
# The dependencies change less often than the code: a layer of their own, every file checked by its hash.
COPY deploy/requirements.lock /build/requirements.lock
RUN pip install --require-hashes --requirement /build/requirements.lock
COPY pyproject.toml README.md LICENSE featurestore.toml /build/
COPY featurestore /build/featurestore
COPY pipelines /build/pipelines
COPY schemas /build/schemas
RUN pip install --no-deps --no-build-isolation /build \
    && pip uninstall --yes hatchling \
    && python -m compileall -q /opt/featurestore

FROM python:3.12-slim-bookworm

RUN groupadd --gid 10001 featurestore \
    && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin featurestore \
    && install --directory --owner featurestore --group featurestore /data
COPY --from=build /opt/featurestore /opt/featurestore
# The example project; mount your own pipelines and schemas over it.
WORKDIR /app
COPY featurestore.toml ./
COPY pipelines ./pipelines
COPY schemas ./schemas
ENV PATH=/opt/featurestore/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    FEATURESTORE_STORE__DATA_DIR=/data
USER 10001:10001
VOLUME /data
# 6566: the server; 9464 and up: a worker's metrics, one port a process.
EXPOSE 6566 9464
# A worker drains on SIGTERM, too; it is said here because a drain is what makes a restart quick.
STOPSIGNAL SIGTERM
ENTRYPOINT ["featurestore"]
CMD ["--help"]
