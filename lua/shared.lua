-- The block that every script begins with: keys, clock, a job's row, the ways in and out of a lease.
--
-- KEYS 1-11 are the same in every script; what a script needs beyond them starts at KEYS[12].
-- All time is Redis TIME in milliseconds. At most 1,024 jobs a call. A job's UUID holds no space.
local PENDING, DEADLINES, LEASES, META, DATA, BELL, RESULTS, STATS, DEAD, WORKERS, IDLE = unpack(KEYS, 1, 11)
local BELL_LIMIT = 64
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function count(what, by) if by > 0 then redis.call('HINCRBY', STATS, what, by) end end

-- A row of META: submitted ms, deaths, deaths alone, alone now, claim id, api id, last error code. nil: not in the queue.
local function read(uuid)
  local text = redis.call('HGET', META, uuid)
  if not text then return nil end
  local submitted, deaths, solo, alone, claim, api, code = string.match(text, '^(%d+) (%d+) (%d+) (%d) (%S+) (%S+) (%S+)$')
  return {submitted = submitted, deaths = tonumber(deaths), solo = tonumber(solo), alone = tonumber(alone),
          claim = claim, api = api, code = code}
end

local function write(uuid, row)
  redis.call('HSET', META, uuid, table.concat({row.submitted, row.deaths, row.solo, row.alone, row.claim, row.api, row.code}, ' '))
end

-- The only way out of the queue. Its first write is one that Redis allows at its memory limit.
local function forget(uuid)
  if redis.call('HDEL', META, uuid) == 0 then return false end
  redis.call('HDEL', DATA, uuid)
  redis.call('ZREM', DEADLINES, uuid)
  if redis.call('ZREM', LEASES, uuid) == 0 then redis.call('LREM', PENDING, 1, uuid) end
  return true
end

-- What eviction or a hand has torn: its rest goes too, so that POLL says unknown and its api submits it again.
local function clear(uuid)
  redis.call('HDEL', META, uuid)
  redis.call('HDEL', DATA, uuid)
  redis.call('ZREM', DEADLINES, uuid)
  redis.call('ZREM', LEASES, uuid)
end

-- From a lease back to the head of the line. ZREM first, for the same reason.
local function put_back(uuid, row)
  redis.call('ZREM', LEASES, uuid)
  redis.call('LPUSH', PENDING, uuid)
  row.alone, row.claim = 0, '-'
  write(uuid, row)
end

local function ring(times)
  for _ = 1, math.min(times, BELL_LIMIT - redis.call('LLEN', BELL)) do redis.call('RPUSH', BELL, '1') end
end
