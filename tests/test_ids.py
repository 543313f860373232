"""UUIDs of requests and their jobs."""

from __future__ import annotations

from uuid import RFC_4122, UUID

from ids import job_uuids, new_uuid


def test_a_new_uuid_is_one_of_version_4_and_like_no_other() -> None:
    made = [new_uuid() for _ in range(2000)]

    uuids = [UUID(text) for text in made]
    assert [str(uuid) for uuid in uuids] == made
    assert {(uuid.version, uuid.variant) for uuid in uuids} == {(4, RFC_4122)}
    assert len(set(made)) == len(made)


def test_the_jobs_of_a_request_have_uuids_of_their_own_that_only_its_uuid_decides() -> None:
    one, other = new_uuid(), new_uuid()

    assert job_uuids(one, 1) == [one]
    assert job_uuids(one, 3) == job_uuids(one, 3)
    assert len({*job_uuids(one, 3), *job_uuids(other, 3), one, other}) == 8
