"""What the paths of other servers have in common: they lead to the served model, and nowhere else."""

from __future__ import annotations

import pytest

from tests.stack import Stack, until_ready


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/models/model", 200),
        ("GET", "/v1/models/model/versions/1", 200),
        ("GET", "/v1/models/model/labels/stable", 200),
        ("GET", "/v1/models/model/metadata", 200),
        ("GET", "/v1/models/other", 404),
        ("GET", "/v1/models/model/versions/2", 404),
        ("GET", "/v1/models/model/labels/canary/metadata", 404),
        ("POST", "/v1/models/other:predict", 404),
        ("POST", "/v1/models/model/versions/2:predict", 404),
        ("GET", "/v1/models", 404),
        ("GET", "/v1/elsewhere", 404),
        ("GET", "/v1/models/model:predict", 405),
        ("DELETE", "/v1/models/model", 405),
        ("POST", "/v1/models/model:classify", 400),
        ("GET", "/v2", 200),
        ("GET", "/v2/health/live", 200),
        ("GET", "/v2/health/ready", 200),
        ("GET", "/v2/models/model/ready", 200),
        ("GET", "/v2/models/model/versions/1/ready", 200),
        ("GET", "/v2/models/model/versions/2/ready", 404),
        ("GET", "/v2/models/other", 404),
        ("GET", "/v2/models/other/ready", 404),
        ("POST", "/v2/models/other/infer", 404),
        ("GET", "/v2/models/model/stats", 404),
        ("GET", "/v2/elsewhere", 404),
        ("GET", "/v2/models/model/infer", 405),
        ("POST", "/v2/health/live", 405),
    ],
)
async def test_only_the_served_model_is_there(shared_stack: Stack, method: str, path: str, status: int) -> None:
    async with shared_stack.client() as client:
        await until_ready(client)

        answer = await client.request(method, path)

    assert answer.status_code == status
    assert (answer.json().keys() == {"error"}) is (status != 200)
    assert ("allow" in answer.headers) is (status == 405)
