-- DROP: cancel or collect: every trace goes.
--
-- KEYS 12.. the result key of each job   ARGV uuids
-- Returns per job 1 if it was unfinished.
-- Cost: O(1) a job; one still in line is looked for from the head, O(its place).
-- Safe to repeat: deletes only.
local reply = {}
for job, uuid in ipairs(ARGV) do
  reply[job] = forget(uuid) and 1 or 0
  redis.call('ZREM', RESULTS, uuid)
  redis.call('DEL', KEYS[11 + job])
end
return reply
