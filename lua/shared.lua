-- The block that every script begins with: keys, clock, a job's row, the ways in and out of a lease.
--
-- KEYS 1-11 are the same in every script; what a script needs beyond them starts at KEYS[12].
-- All time is Redis TIME in milliseconds. At most 1,024 jobs a call. A job's UUID holds no space.
-- What is read or written of several jobs is so in one command: each costs a script more than the job itself.
local PENDING, DEADLINES, LEASES, META, DATA, BELL, RESULTS, STATS, DEAD, WORKERS, IDLE = unpack(KEYS, 1, 11)
local BELL_LIMIT = 64
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

-- Add to a counter. One that holds no number, since somebody wrote over it, begins again.
local function count(what, by)
  if by == 0 then return end
  local reply = redis.pcall('HINCRBY', STATS, what, by)
  if type(reply) == 'table' and reply.err then redis.call('HSET', STATS, what, by) end
end

-- One command for a whole list; none for an empty one.
local function all(command, key, list) return #list > 0 and redis.call(command, key, unpack(list)) or {} end

-- A row of META: submitted ms, deaths, deaths alone, alone now, claim id, api id, last error code.
-- A row that cannot be read counts as that of a job which has just been submitted: its payload is still there. It is
-- `unreadable`, and nobody holds it.
local function row_of(text)
  local submitted, deaths, solo, alone, claim, api, code = string.match(text, '^(%d+) (%d+) (%d+) (%d) (%S+) (%S+) (%S+)$')
  if not submitted then
    return {submitted = now, deaths = 0, solo = 0, alone = 0, claim = '-', api = '-', code = '-', unreadable = true}
  end
  return {submitted = submitted, deaths = tonumber(deaths), solo = tonumber(solo), alone = tonumber(alone),
          claim = claim, api = api, code = code}
end

-- The rows of some jobs in their order; false: not in the queue.
local function read(uuids)
  local rows = all('HMGET', META, uuids)
  for place, text in ipairs(rows) do rows[place] = text and row_of(text) end
  return rows
end

local function text_of(row)
  return table.concat({row.submitted, row.deaths, row.solo, row.alone, row.claim, row.api, row.code}, ' ')
end

-- The only way out of the queue. Its first write is one that Redis allows at its memory limit.
local function forget(uuids)
  if #uuids == 0 then return end
  all('HDEL', META, uuids)
  all('HDEL', DATA, uuids)
  all('ZREM', DEADLINES, uuids)
  if all('ZREM', LEASES, uuids) < #uuids then                                -- some stand in line
    for _, uuid in ipairs(uuids) do redis.call('LREM', PENDING, 1, uuid) end
  end
end

-- When a process wrote its row, in ms; nil where the row cannot be read.
local function said_ms(row)
  local ms = string.match(row, '^(%d+) ')
  return ms and tonumber(ms)
end

-- From a lease back to the head of the line. ZREM first, for the same reason.
local function put_back(uuid, row)
  redis.call('ZREM', LEASES, uuid)
  redis.call('LPUSH', PENDING, uuid)
  row.alone, row.claim = 0, '-'
  redis.call('HSET', META, uuid, text_of(row))
end

local function ring(times)
  if times == 0 then return end
  for _ = 1, math.min(times, BELL_LIMIT - redis.call('LLEN', BELL)) do redis.call('RPUSH', BELL, '1') end
end
