# The three images of the project: `docker build --target operator|server|router .`
#
# All of it builds from the package index. Two things can be given instead, so that a build needs no network:
# BASE_IMAGE and ROUTER_IMAGE (any image with Python 3.11, with HAProxy from 2.6 on), and wheels, by
# `--build-context wheels=DIR --build-arg WHEELS=ANY_KEY`; with folders `build`, `operator` and `server` of wheels in it.
# One layer each for the base, the dependencies and the project's own code, so that a change of code moves kilobytes.
ARG BASE_IMAGE=python:3.11-slim-bookworm
ARG ROUTER_IMAGE=haproxy:3.2-bookworm

# Empty unless replaced by a build context of the same name.
FROM scratch AS wheels

FROM ${BASE_IMAGE} AS base
ENV PATH=/opt/mlmodel/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

# What to install, apart from the rest of pyproject.toml, so that other edits of that file leave the dependencies' layer alone.
FROM base AS requirements
COPY pyproject.toml /
RUN python3 -c "import tomllib; \
extras = tomllib.load(open('/pyproject.toml', 'rb'))['project']['optional-dependencies']; \
[open(f'/{name}.txt', 'w').write('\n'.join(extras[name]) + '\n') for name in ('operator', 'server')]"

# pip comes from the wheels if they are given (a bare Debian Python has none), else from the base image.
# No byte code with time stamps: the compiled files are made for a read-only file system, once, and never checked again.
FROM base AS operator-libraries
COPY --from=requirements /operator.txt /requirements.txt
ARG WHEELS_OPERATOR=
RUN --mount=type=bind,from=wheels,target=/wheels \
    python3 -m venv --without-pip /opt/mlmodel \
    && if [ -n "$WHEELS_OPERATOR" ]; \
       then set -- "$(ls /wheels/build/pip-*.whl)/pip" --python /opt/mlmodel/bin/python install --no-index --find-links /wheels/operator; \
       else set -- -m pip --python /opt/mlmodel/bin/python install; fi \
    && python3 "$@" --no-cache-dir --no-compile --root-user-action=ignore -r /requirements.txt \
    && find /opt/mlmodel -depth -type d -name tests -path '*/site-packages/*' -exec rm -rf {} + \
    && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/mlmodel/lib

FROM base AS server-libraries
COPY --from=requirements /server.txt /requirements.txt
ARG WHEELS_SERVER=
RUN --mount=type=bind,from=wheels,target=/wheels \
    python3 -m venv --without-pip /opt/mlmodel \
    && if [ -n "$WHEELS_SERVER" ]; \
       then set -- "$(ls /wheels/build/pip-*.whl)/pip" --python /opt/mlmodel/bin/python install --no-index --find-links /wheels/server; \
       else set -- -m pip --python /opt/mlmodel/bin/python install; fi \
    && python3 "$@" --no-cache-dir --no-compile --root-user-action=ignore -r /requirements.txt \
    && find /opt/mlmodel -depth -type d -name tests -path '*/site-packages/*' -exec rm -rf {} + \
    && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/mlmodel/lib

# The project's own wheel, installed into an environment of its own that is laid over the dependencies'.
FROM base AS code
ARG WHEELS_BUILD=
WORKDIR /src
COPY pyproject.toml README.md ./
COPY crds crds
COPY operator operator
COPY server server
RUN --mount=type=bind,from=wheels,target=/wheels \
    python3 -m venv --without-pip /opt/mlmodel \
    && if [ -n "$WHEELS_BUILD" ]; \
       then PIP="$(ls /wheels/build/pip-*.whl)/pip" FROM="--no-index --find-links /wheels/build"; \
       else PIP="-m pip" FROM=""; fi \
    && python3 $PIP wheel --no-cache-dir --no-deps $FROM -w /dist . \
    && python3 $PIP --python /opt/mlmodel/bin/python install --no-deps --no-index --no-compile --root-user-action=ignore /dist/*.whl \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/mlmodel/lib

FROM base AS operator
COPY --from=operator-libraries /opt/mlmodel /opt/mlmodel
COPY --from=code /opt/mlmodel /opt/mlmodel
USER 65532:65532
ENTRYPOINT ["mlmodel-operator"]

FROM base AS server
COPY --from=server-libraries /opt/mlmodel /opt/mlmodel
COPY --from=code /opt/mlmodel /opt/mlmodel
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["mlmodel-server"]

# The operator mounts the configuration, so the stock HAProxy image does as well.
FROM ${ROUTER_IMAGE} AS router
USER 65532:65532
EXPOSE 8080 9090
STOPSIGNAL SIGUSR1
ENTRYPOINT ["haproxy"]
CMD ["-db", "-f", "/etc/mlmodel/haproxy/haproxy.cfg"]
