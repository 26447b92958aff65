# The three images of the project: `docker build --target operator .`, and likewise `server` and `router`.
#
# Packages come from the package index, in the versions and with the hashes of requirements/. The argument SERVER_LOCK
# selects the libraries of the server: server, server-pytorch or server-tensorflow. To build without a network, or on
# another base, set:
# - BASE_IMAGE, any image with Python 3.11, and ROUTER_IMAGE, any with HAProxy 3.0 or newer;
# - a build context `wheels` with a folder of wheels for each lock that is installed, the wheel of pip in `build`, and
#   the argument WHEELS=yes.
#
# The base, the dependencies and the project's code are separate layers: a change of code transfers kilobytes, and only
# a changed lock rebuilds the dependencies.
ARG BASE_IMAGE=python:3.11-slim-bookworm
ARG ROUTER_IMAGE=haproxy:3.2-bookworm

# An empty folder unless a build context of this name is given.
FROM scratch AS wheels
WORKDIR /build

# Byte code is compiled here, once: the file system of a pod is read-only, so every start would compile it again.
FROM ${BASE_IMAGE} AS base
ENV HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
RUN python3 -m compileall -q -x 'test|lib2to3' "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"

# A bare Debian has no pip, so pip may come from the wheels. The tests of the packages, a third of their size, are
# removed.
FROM base AS operator-libraries
COPY requirements/operator.txt /tmp/
ARG WHEELS=
RUN --mount=type=bind,from=wheels,target=/wheels \
    if [ -n "$WHEELS" ]; \
    then set -- "$(echo /wheels/build/pip-*.whl)/pip"; export PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels/operator; \
    else set -- -m pip; fi \
    && python3 -m venv --without-pip /opt/mlmodel \
    && python3 "$@" --python /opt/mlmodel/bin/python install \
       --no-cache-dir --no-compile --require-hashes -r /tmp/operator.txt \
    && find /opt/mlmodel/lib -depth -type d -name tests -exec rm -r {} + \
    && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/mlmodel/lib

FROM base AS server-libraries
ARG SERVER_LOCK=server
COPY requirements/${SERVER_LOCK}.txt /tmp/server.txt
ARG WHEELS=
RUN --mount=type=bind,from=wheels,target=/wheels \
    if [ -n "$WHEELS" ]; \
    then set -- "$(echo /wheels/build/pip-*.whl)/pip"; export PIP_NO_INDEX=1 PIP_FIND_LINKS="/wheels/$SERVER_LOCK"; \
    else set -- -m pip; fi \
    && python3 -m venv --without-pip /opt/mlmodel \
    && python3 "$@" --python /opt/mlmodel/bin/python install \
       --no-cache-dir --no-compile --require-hashes -r /tmp/server.txt \
    && find /opt/mlmodel/lib -depth -type d -name tests -exec rm -r {} + \
    && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/mlmodel/lib

# The wheel of the project, in an environment at the same path, to copy over that of the dependencies.
FROM base AS code
COPY requirements/build.txt /tmp/
ARG WHEELS=
RUN --mount=type=bind,from=wheels,target=/wheels \
    if [ -n "$WHEELS" ]; \
    then set -- "$(echo /wheels/build/pip-*.whl)/pip"; export PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels/build; \
    else set -- -m pip; fi \
    && python3 -m venv --without-pip /opt/build && python3 -m venv --without-pip /opt/mlmodel \
    && python3 "$@" --python /opt/build/bin/python install --no-cache-dir --require-hashes -r /tmp/build.txt
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY crds crds
COPY operator operator
COPY server server
RUN /opt/build/bin/python -m pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /dist . \
    && /opt/build/bin/python -m pip --python /opt/mlmodel/bin/python install --no-deps --no-index --no-compile /dist/*.whl \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/mlmodel/lib

FROM operator-libraries AS operator
COPY --from=code /opt/mlmodel /opt/mlmodel
ENV PATH=/opt/mlmodel/bin:$PATH
USER 65532:65532
ENTRYPOINT ["mlmodel-operator"]

# PYTHONSAFEPATH: no module is imported from the working directory.
FROM server-libraries AS server
COPY --from=code /opt/mlmodel /opt/mlmodel
ENV PATH=/opt/mlmodel/bin:$PATH PYTHONSAFEPATH=1
USER 65532:65532
EXPOSE 8080 9000
ENTRYPOINT ["mlmodel-server"]

# The operator mounts the configuration, so the stock HAProxy image works too.
FROM ${ROUTER_IMAGE} AS router
USER 65532:65532
EXPOSE 8080 9000 9090
STOPSIGNAL SIGUSR1
ENTRYPOINT ["haproxy"]
CMD ["-db", "-f", "/etc/mlmodel/haproxy/haproxy.cfg"]
