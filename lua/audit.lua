-- AUDIT: look for violations of the invariant. Read-only, for tests and tools.
--
-- Returns a list of sentences, empty when all is well.
-- Cost: O(everything).
local bad, waiting, unfinished = {}, {}, redis.call('HKEYS', META)
local function check(right, uuid, what) if not right then bad[#bad + 1] = uuid .. ' ' .. what end end
for _, uuid in ipairs(redis.call('LRANGE', PENDING, 0, -1)) do
  check(not waiting[uuid], uuid, 'twice in pending')
  check(redis.call('HEXISTS', META, uuid) == 1, uuid, 'in pending, not in meta')
  waiting[uuid] = true
end
for _, uuid in ipairs(unfinished) do
  local leased, row = redis.call('ZSCORE', LEASES, uuid), read({uuid})[1]
  check(not row.unreadable, uuid, 'has a meta row that cannot be read')
  check(redis.call('ZSCORE', DEADLINES, uuid), uuid, 'in meta, not in deadlines')
  check(redis.call('HEXISTS', DATA, uuid) == 1, uuid, 'in meta, not in data')
  check(not (leased and waiting[uuid]), uuid, 'in pending and in leases')
  check(leased or waiting[uuid], uuid, 'neither in pending nor in leases')
  check((row.claim ~= '-') == (leased and true or false), uuid, 'its claim id and its lease disagree')
  check(row.alone == 0 or leased, uuid, 'alone without a lease')
end
for _, uuid in ipairs(redis.call('ZRANGE', LEASES, 0, -1)) do
  check(redis.call('HEXISTS', META, uuid) == 1, uuid, 'in leases, not in meta')
end
check(redis.call('ZCARD', DEADLINES) == #unfinished, 'deadlines', 'hold more than meta')
check(redis.call('HLEN', DATA) == #unfinished, 'data', 'hold more than meta')
for _, key in ipairs({PENDING, DEADLINES, LEASES, META, DATA}) do
  check(redis.call('PTTL', key) < 0, key, 'has a time to live')
end
check(redis.call('LLEN', BELL) <= BELL_LIMIT, 'bell', 'too long')
return bad
