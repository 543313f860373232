# One image for both kinds of process: the api by default, a batcher with `python batcher.py`.

FROM python:3.12-slim AS build
# requirements-onnx.txt for `onnx:` models and `efficientnet-lite0`, requirements-otel.txt for traces, or both:
# docker compose build --build-arg REQUIREMENTS="requirements-onnx.txt -r requirements-otel.txt"
ARG REQUIREMENTS=requirements.txt
COPY requirements.txt requirements-onnx.txt requirements-otel.txt ./
# Without pip inside, and from wheels only: nothing is compiled, so no compiler is needed here either.
RUN python -m venv --without-pip /opt/venv \
    && pip --python /opt/venv/bin/python install --no-cache-dir --disable-pip-version-check \
        --only-binary :all: -r $REQUIREMENTS

FROM python:3.12-slim
# No bytecode: the containers' file system is read-only.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
# A fixed number, so that the rights on mounted folders can be set for it.
RUN groupadd --gid 10001 microbatch \
    && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin microbatch
WORKDIR /app
COPY --from=build /opt/venv /opt/venv
COPY *.py ./
COPY fronts fronts/
COPY lua lua/
COPY models models/
COPY page page/
COPY tools/__init__.py tools/board.py tools/dead.py tools/top.py tools/
USER 10001:10001
EXPOSE 8000
# Exec form: SIGTERM must reach uvicorn itself, not a shell that does not pass it on.
CMD ["uvicorn", "api:app", "--host", "0.0.0.0", "--port", "8000", "--timeout-graceful-shutdown", "5", "--no-access-log"]
