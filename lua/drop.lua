-- DROP: cancel or collect: every trace goes.
--
-- KEYS 12.. the result key of each job   ARGV uuids
-- Returns per job 1 if it was unfinished.
-- Cost: O(1) a job; one still in line is looked for from the head, O(its place).
-- Safe to repeat: deletes only.
if #ARGV == 0 then return {} end
local reply, unfinished = all('HMGET', META, ARGV), {}
for job, row in ipairs(reply) do
  if row then unfinished[#unfinished + 1] = ARGV[job] end
  reply[job] = row and 1 or 0
end
forget(unfinished)
all('ZREM', RESULTS, ARGV)
redis.call('DEL', unpack(KEYS, 12))
return reply
