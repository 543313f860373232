-- POLL: ask for results. Read-only.
--
-- KEYS 12.. the result key of each job   ARGV uuids
-- Returns per job: the result, or 2 (in line past its deadline: it will not run), 1 (in line or running),
-- 0 (unknown to this Redis: submit it again).
-- Cost: O(1) a job.
if #ARGV == 0 then return {} end
local reply, deadlines = redis.call('MGET', unpack(KEYS, 12)), all('ZMSCORE', DEADLINES, ARGV)
for job, uuid in ipairs(ARGV) do
  if not reply[job] then
    local deadline = tonumber(deadlines[job] or 0)
    local leased = deadline > 0 and deadline < now and redis.call('ZSCORE', LEASES, uuid)
    reply[job] = deadline == 0 and 0 or (deadline >= now or leased) and 1 or 2
  end
end
return reply
