# The three images of the project: `docker build --target operator .`, and likewise `server` and `router`.
#
# By default everything comes from the package index. To build without a network, or on another base, give:
# - BASE_IMAGE, any image with Python 3.11, and ROUTER_IMAGE, any with HAProxy from 2.6 on;
# - a build context `wheels` with folders build, operator and server of wheels, pip's own in `build`, and the arguments
#   WHEELS_BUILD, WHEELS_OPERATOR and WHEELS_SERVER, any text that changes when the wheels of that folder do.
#
# One layer each for the base, the dependencies and the project's own code: a change of code moves kilobytes.
ARG BASE_IMAGE=python:3.11-slim-bookworm
ARG ROUTER_IMAGE=haproxy:3.2-bookworm

# An empty folder unless a build context of this name is given.
FROM scratch AS wheels
WORKDIR /build

# Byte code is made here, once: in a pod the file system is read-only, and every start would compile again.
FROM ${BASE_IMAGE} AS base
ENV HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
RUN python3 -m compileall -q -x 'test|lib2to3' "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"

# What to install, apart from the rest of pyproject.toml: other edits of that file leave the dependencies' layers alone.
FROM base AS requirements
COPY pyproject.toml /
RUN python3 -c "import tomllib; \
toml = tomllib.load(open('/pyproject.toml', 'rb')); \
lists = toml['project']['optional-dependencies'] | {'build': toml['build-system']['requires']}; \
named = lambda line: line[8:-1].split(',') if line.startswith('mlmodel[') else []; \
flat = lambda name: [found for line in lists[name] for found in sum(map(flat, named(line)), []) or [line]]; \
[open(f'/{name}.txt', 'w').write('\n'.join(flat(name))) for name in ('build', 'operator', 'server')]"

# A bare Debian has no pip, so it can come from the wheels; and the packages' own tests are a third of their size.
FROM base AS operator-libraries
COPY --from=requirements /operator.txt /tmp/
ARG WHEELS_OPERATOR=
RUN --mount=type=bind,from=wheels,target=/wheels \
    if [ -n "$WHEELS_OPERATOR" ]; \
    then set -- "$(echo /wheels/build/pip-*.whl)/pip"; export PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels/operator; \
    else set -- -m pip; fi \
    && python3 -m venv --without-pip /opt/mlmodel \
    && python3 "$@" --python /opt/mlmodel/bin/python install --no-cache-dir --no-compile -r /tmp/operator.txt \
    && find /opt/mlmodel/lib -depth -type d -name tests -exec rm -r {} + \
    && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/mlmodel/lib

FROM base AS server-libraries
COPY --from=requirements /server.txt /tmp/
ARG WHEELS_SERVER=
RUN --mount=type=bind,from=wheels,target=/wheels \
    if [ -n "$WHEELS_SERVER" ]; \
    then set -- "$(echo /wheels/build/pip-*.whl)/pip"; export PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels/server; \
    else set -- -m pip; fi \
    && python3 -m venv --without-pip /opt/mlmodel \
    && python3 "$@" --python /opt/mlmodel/bin/python install --no-cache-dir --no-compile -r /tmp/server.txt \
    && find /opt/mlmodel/lib -depth -type d -name tests -exec rm -r {} + \
    && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/mlmodel/lib

# The project's own wheel, in an environment at the same path, to be laid over the dependencies'.
FROM base AS code
COPY --from=requirements /build.txt /tmp/
ARG WHEELS_BUILD=
RUN --mount=type=bind,from=wheels,target=/wheels \
    if [ -n "$WHEELS_BUILD" ]; \
    then set -- "$(echo /wheels/build/pip-*.whl)/pip"; export PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels/build; \
    else set -- -m pip; fi \
    && python3 -m venv --without-pip /opt/build && python3 -m venv --without-pip /opt/mlmodel \
    && python3 "$@" --python /opt/build/bin/python install --no-cache-dir pip -r /tmp/build.txt
WORKDIR /src
COPY . ./
RUN /opt/build/bin/python -m pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /dist . \
    && /opt/build/bin/python -m pip --python /opt/mlmodel/bin/python install --no-deps --no-index --no-compile /dist/*.whl \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/mlmodel/lib

FROM operator-libraries AS operator
COPY --from=code /opt/mlmodel /opt/mlmodel
ENV PATH=/opt/mlmodel/bin:$PATH
USER 65532:65532
ENTRYPOINT ["mlmodel-operator"]

FROM server-libraries AS server
COPY --from=code /opt/mlmodel /opt/mlmodel
ENV PATH=/opt/mlmodel/bin:$PATH
USER 65532:65532
EXPOSE 8080 9000
ENTRYPOINT ["mlmodel-server"]

# The operator mounts the configuration, so the stock HAProxy image does as well.
FROM ${ROUTER_IMAGE} AS router
USER 65532:65532
EXPOSE 8080 9000 9090
STOPSIGNAL SIGUSR1
ENTRYPOINT ["haproxy"]
CMD ["-db", "-f", "/etc/mlmodel/haproxy/haproxy.cfg"]
