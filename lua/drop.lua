-- DROP: collect or cancel jobs.
--
-- KEYS 12.. the result key of each job   ARGV 1 what an unfinished job leaves behind ('': nothing)   then uuids
-- ARGV 1 is the value of an error, which stands as the job's result for five seconds: an api that waits for a job which somebody
-- else has cancelled must not take it for forgotten and submit it again.
-- Returns per job 1 if it was unfinished.
-- Cost: O(1) a job; one still in line is looked for from the head, O(its place).
-- Safe to repeat: deletes only; what is left of a cancelled job goes when it is cancelled again, as any result does.
local left, uuids = ARGV[1], {unpack(ARGV, 2)}
if #uuids == 0 then return {} end
local reply, unfinished = all('HMGET', META, uuids), {}
for job, row in ipairs(reply) do
  if row then unfinished[#unfinished + 1] = uuids[job] end
  reply[job] = row and 1 or 0
end
forget(unfinished)
all('ZREM', RESULTS, uuids)
redis.call('DEL', unpack(KEYS, 12))
if left ~= '' then
  for job, was_unfinished in ipairs(reply) do
    if was_unfinished == 1 then redis.call('SET', KEYS[11 + job], uuids[job] .. ' error ' .. left, 'PX', 5000) end
  end
end
return reply
