"""A request's trace goes with its jobs: what the batcher does is found in it, and one span a batch is linked to it."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import httpx
import numpy as np
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from ids import new_uuid
from records import ClaimedJob, context_of, encoded_payload, read_payload, tensor_payload
from tests.collector import Collector, attributes, collecting
from tests.stack import ROOT, Stack, npy, until_ready
from tools.service import free_port

NPY = {"Content-Type": "application/x-npy"}
GREY, WHITE = (npy(np.full((8, 8, 3), value, np.uint8)) for value in (128, 255))
PARENT = "b7ad6b7169203331"


@dataclass
class Traced:
    """Processes that send their traces, and where they arrive."""

    stack: Stack
    collector: Collector


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    """Start an api and a batcher that send their traces every tenth of a second."""
    with collecting() as collector:
        stack = Stack(tmp_path_factory.mktemp("traced"), logged=True)
        settings = {
            "MICROBATCH_TRACES": "otlp",
            "MICROBATCH_LOG_LEVEL": "debug",
            "MICROBATCH_MODEL": "python:tests.moods:dazzled",
            "MICROBATCH_INPUT_SHAPE": "8,8,3",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }
        stack.start_redis()
        stack.start_batcher(**settings)
        stack.start_api(**settings)
        yield Traced(stack, collector)
        stack.kill()


@pytest.fixture
async def client(traced: Traced) -> AsyncIterator[httpx.AsyncClient]:
    async with traced.stack.client() as opened:
        await until_ready(opened)
        yield opened


def new_trace() -> str:
    return new_uuid().replace("-", "")


def within(trace_id: str, flags: str = "01") -> dict[str, str]:
    return NPY | {"traceparent": f"00-{trace_id}-{PARENT}-{flags}", "tracestate": "vendor=a:1"}


async def test_a_traceparent_is_continued_through_both_processes(traced: Traced, client: httpx.AsyncClient) -> None:
    trace_id = new_trace()

    await client.post("/predict", content=GREY, headers=within(trace_id) | {"X-Request-ID": "order-7"})

    spans = await asyncio.to_thread(
        traced.collector.until_named, trace_id, {"POST /predict", "prepare", "queue", "model"}
    )
    request = spans["POST /predict"]
    assert (request.kind, request.parent_span_id.hex()) == (Span.SPAN_KIND_SERVER, PARENT)
    wanted = {"http.response.status_code": 200, "http.route": "/predict", "microbatch.request.id": "order-7"}
    assert wanted.items() <= attributes(request).items()
    assert {spans[name].parent_span_id for name in ("prepare", "queue", "model")} == {request.span_id}
    assert {span.trace_state for span in spans.values()} == {"vendor=a:1"}
    services = [traced.collector.services[spans[name].span_id] for name in ("POST /predict", "queue", "model")]
    assert services == ["microbatch-api", "microbatch-batcher", "microbatch-batcher"]


async def test_the_spans_of_a_request_lie_where_its_time_went(traced: Traced, client: httpx.AsyncClient) -> None:
    trace_id = new_trace()

    await client.post("/predict", content=GREY, headers=within(trace_id))

    spans = await asyncio.to_thread(traced.collector.until_named, trace_id, {"POST /predict", "queue", "model"})
    request, queue, model = (spans[name] for name in ("POST /predict", "queue", "model"))
    slack_ns = 20_000_000  # the queue's times are Redis's, to the millisecond
    moments = [
        *(request.start_time_unix_nano - slack_ns, queue.start_time_unix_nano, queue.end_time_unix_nano),
        *(model.start_time_unix_nano, model.end_time_unix_nano, request.end_time_unix_nano),
    ]
    assert moments == sorted(moments)
    assert model.end_time_unix_nano - model.start_time_unix_nano >= 200_000_000


async def test_the_span_of_a_batch_is_linked_to_each_request_in_it(traced: Traced, client: httpx.AsyncClient) -> None:
    # given: requests at one moment, of which most run together, since the model takes its time with the first
    traces = {new_trace() for _ in range(5)}

    await asyncio.gather(*(client.post("/predict", content=GREY, headers=within(trace)) for trace in traces))

    found = [
        await asyncio.to_thread(traced.collector.until_named, trace, {"POST /predict", "model"}) for trace in traces
    ]
    batches = {
        link.span_id: traced.collector.until(lambda span, link=link: span.span_id == link.span_id)  # type: ignore[misc]
        for spans in found
        for link in spans["model"].links
    }
    assert {batch.name for batch in batches.values()} == {"batch"}
    assert {attributes(batch)["microbatch.model"] for batch in batches.values()} == {"python:tests.moods:dazzled"}
    assert {batch.trace_id.hex() for batch in batches.values()}.isdisjoint(traces)
    linked = [link.span_id for batch in batches.values() for link in batch.links]
    assert sorted(linked) == sorted(spans["POST /predict"].span_id for spans in found)
    sizes = [attributes(batch)["microbatch.batch.size"] for batch in batches.values()]
    assert sizes == [len(batch.links) for batch in batches.values()]
    assert len(sizes) < 5


async def test_a_failed_call_is_an_error_in_the_trace_and_its_id_in_the_log(
    traced: Traced, client: httpx.AsyncClient
) -> None:
    trace_id = new_trace()

    await client.post("/v1/models/model:predict", json={"instances": [[[[255] * 3] * 8] * 8]}, headers=within(trace_id))

    route = "POST /v1/models/{name}:predict"
    spans = await asyncio.to_thread(traced.collector.until_named, trace_id, {route, "model"})
    assert [spans[name].status.code for name in (route, "model")] == [Status.STATUS_CODE_ERROR] * 2
    assert attributes(spans[route])["error.type"] == "model_failed"
    batch = traced.collector.until(lambda span: [link.trace_id.hex() for link in span.links] == [trace_id])
    assert batch.events[0].name == "exception"
    logs = [line for process in traced.stack.processes[1:] for line in traced.stack.log_of(process)]
    assert [trace_id in line for line in logs if '"request failed"' in line][-1]


async def test_a_request_that_is_not_sampled_leaves_no_span(traced: Traced, client: httpx.AsyncClient) -> None:
    unsampled, sampled = new_trace(), new_trace()

    for trace_id, flags in ((unsampled, "00"), (sampled, "01")):
        await client.post("/predict", content=GREY, headers=within(trace_id, flags))

    await asyncio.to_thread(traced.collector.until_named, sampled, {"POST /predict", "model"})
    assert traced.collector.of(unsampled) == {}
    linked = {link.trace_id.hex() for span in traced.collector.spans for link in span.links}
    assert unsampled not in linked


async def test_a_collector_that_is_away_holds_up_neither_answers_nor_the_end(stack: Stack) -> None:
    away = {
        "MICROBATCH_TRACES": "otlp",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
    }
    stack.start_redis()
    processes = [stack.start_batcher(**away), stack.start_api(**away)]
    async with stack.client() as client:
        await until_ready(client)
        body = npy(np.zeros((8, 8), np.uint8))
        answers = [await client.post("/predict", content=body, headers=NPY) for _ in range(20)]

    started_s = time.monotonic()
    for process in processes:
        process.send_signal(signal.SIGTERM)
    codes = [process.wait(10) for process in processes]

    assert [answer.status_code for answer in answers] == [200] * 20
    assert codes == [0, 0]
    assert time.monotonic() - started_s < 5


async def test_what_is_left_is_sent_at_the_end(stack: Stack) -> None:
    with collecting() as collector:
        slow = {
            "MICROBATCH_TRACES": "otlp",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": "600000",
        }
        stack.start_redis()
        processes = [stack.start_batcher(**slow), stack.start_api(**slow)]
        async with stack.client() as client:
            await until_ready(client)
            await client.post("/predict", content=npy(np.zeros((8, 8), np.uint8)), headers=NPY)
        for process in processes:
            process.send_signal(signal.SIGTERM)
            process.wait(10)

    assert {span.name for span in collector.spans} == {"POST /predict", "prepare", "queue", "model", "batch"}


def test_nothing_that_sends_traces_is_imported_while_they_are_off() -> None:
    code = "import api, batcher, sys; sys.exit(bool({'otlp', 'opentelemetry.exporter'} & sys.modules.keys()))"

    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_job_with_a_context_is_read_as_one_without() -> None:
    uuid, image = new_uuid(), np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    context = f"00-{new_trace()}-{PARENT}-01;vendor=a"
    payloads = [
        tensor_payload(uuid, image),
        tensor_payload(uuid, image, context),
        encoded_payload(uuid, b"a b\n", context),
    ]
    plain, tensor, encoded = (ClaimedJob(uuid, "run", 9, 0, "api", "", payload) for payload in payloads)

    assert [read_payload(job).tolist() for job in (plain, tensor)] == [image.tolist()] * 2  # type: ignore[union-attr]
    assert read_payload(encoded) == b"a b\n"
    assert [context_of(job) for job in (plain, tensor, encoded)] == ["", context, context]
