-- BEAT: say that a worker lives, and extend the leases that are still its own.
--
-- ARGV 1 worker id   2 state ('gone' removes the row)   3 row   4 lease ms   then per job: claim id, uuid
-- Returns live workers, then per job 1 (extended) or 0 (no longer yours).
-- Cost: O(workers + jobs).
-- Safe to repeat: a row is overwritten, a lease only ever grows.
local worker, state, lease_ms = ARGV[1], ARGV[2], tonumber(ARGV[4])
redis.call('HDEL', WORKERS, worker)                                        -- first: it is allowed at the memory limit
if state == 'gone' then redis.call('ZREM', IDLE, worker)
else redis.call('HSET', WORKERS, worker, string.format('%.0f %s %s', now, state, ARGV[3])) end
local reply = {0}
local rows = redis.call('HGETALL', WORKERS)
for i = 1, #rows, 2 do
  if (said_ms(rows[i + 1]) or 0) < now - 60000 then redis.call('HDEL', WORKERS, rows[i])
  else reply[1] = reply[1] + 1 end
end
local uuids = {}
for i = 6, #ARGV, 2 do uuids[#uuids + 1] = ARGV[i] end
for job, row in ipairs(read(uuids)) do
  local own = row and row.claim == ARGV[3 + 2 * job]
  if own then redis.call('ZADD', LEASES, 'XX', 'GT', now + lease_ms, uuids[job]) end
  reply[#reply + 1] = own and 1 or 0
end
return reply
