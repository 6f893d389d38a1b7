# The memory as a server. docs/operate/container.md says how it is run; no line here depends on the processor.

FROM python:3.12-slim AS built
ENV PIP_CACHE_DIR=/cache
WORKDIR /source

# The weights of the model come first: they change least. Their digests are checked (packages/fetch.py).
COPY packages packages
RUN --mount=type=cache,target=/cache \
    python packages/fetch.py bge-small packages/simonides-bge-small/src/simonides_bge_small \
    && python -m pip wheel --no-deps --wheel-dir /wheels ./packages/simonides-bge-small

# Compiled here, and never checked again: at run time nothing can be written beside the code.
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY simonides simonides
RUN --mount=type=cache,target=/cache \
    python -m venv --without-pip /opt/simonides \
    && python -m pip --python /opt/simonides/bin/python install \
        --only-binary=:all: --no-binary=simonides --no-compile --find-links /wheels '.[local,fast,serve,grpc,scaled]' \
    && find /opt/simonides -type d \( -name tests -o -name test \) -prune -exec rm -rf {} + \
    && python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/simonides/lib


FROM python:3.12-slim
RUN groupadd --gid 10001 simonides \
    && useradd --uid 10001 --gid 10001 --no-log-init --no-create-home --home-dir /data --shell /usr/sbin/nologin simonides \
    && install --directory --owner 10001 --group 10001 --mode 0700 /data
COPY --from=built /opt/simonides /opt/simonides

ENV PATH=/opt/simonides/bin:$PATH \
    HOME=/data \
    TMPDIR=/data \
    PYTHONDONTWRITEBYTECODE=1 \
    SIMONIDES_URL=sqlite:////data/memory.db \
    SIMONIDES_CONFIG=/data/config.toml \
    SIMONIDES_HOST=0.0.0.0 \
    SIMONIDES_PORT=40020

USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 40020
HEALTHCHECK --interval=30s --timeout=5s --start-period=15s --retries=3 \
    CMD ["python", "-I", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"SIMONIDES_PORT\"]}/health/live', timeout=4)"]
ENTRYPOINT ["simonides"]
CMD ["serve"]
