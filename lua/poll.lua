-- POLL: ask for results. Read-only.
--
-- KEYS 12.. the result key of each job   ARGV uuids
-- Returns per job: the result, or 2 (in line past its deadline: it will not run), 1 (in line or running),
-- 0 (unknown to this Redis: submit it again).
-- Cost: O(1) a job.
local reply = {}
for job, uuid in ipairs(ARGV) do
  reply[job] = redis.call('GET', KEYS[11 + job])
  if not reply[job] then
    local deadline = tonumber(redis.call('ZSCORE', DEADLINES, uuid) or 0)
    local leased = deadline > 0 and deadline < now and redis.call('ZSCORE', LEASES, uuid)
    reply[job] = deadline == 0 and 0 or (deadline >= now or leased) and 1 or 2
  end
end
return reply
