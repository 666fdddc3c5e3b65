# One image for every role: python -m l1node | rollup sequencer | rollup verifier | bridge, and layerlab itself.
# No BuildKit-only syntax: the classic builder makes it as well.

FROM python:3.13-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
RUN python -m venv /opt/layerlab
# What it depends on, in a layer of its own: a change of code does not fetch it again.
COPY pyproject.toml ./
RUN python -c "import tomllib; print('\n'.join(tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies']))" > requirements.txt \
    && /opt/layerlab/bin/pip install --quiet --requirement requirements.txt
COPY . .
RUN /opt/layerlab/bin/pip install --quiet --no-deps . \
    && /opt/layerlab/bin/pip uninstall --quiet --yes pip

FROM python:3.13-slim
# /data: a service's own. /devnet: genesis, clock and addresses, shared. Volumes take their owner from these.
RUN groupadd --system --gid 10001 layerlab \
    && useradd --system --uid 10001 --gid layerlab --home-dir /data --no-create-home --shell /usr/sbin/nologin layerlab \
    && mkdir /data /devnet \
    && chown layerlab:layerlab /data /devnet
COPY --from=build /opt/layerlab /opt/layerlab
COPY docker/health.py /usr/local/bin/layerlab-health
ENV PATH=/opt/layerlab/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    LAYERLAB_HOST=0.0.0.0 \
    LAYERLAB_DATA=/data \
    LAYERLAB_DIR=/devnet
USER layerlab
WORKDIR /data
# Whether it answers; docker-compose.yml asks for more. What is no service needs no check: docker run --no-healthcheck.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["layerlab-health", "/health/live"]
CMD ["layerlab", "--help"]
