-- SUBMIT: take jobs into the queue, the jobs of one request all or none.
--
-- KEYS 12..  the result key of each job
-- ARGV 1 max_queue_depth   2 max_results, looked at for jobs whose result is kept
--      3 max_batch_size    4 ms a batch takes, divided by the live workers (0: unknown, never refuse by it)   5 api id
--      6 jobs that this api is still decoding
--      then per job: request number (jobs of one request stand together), uuid, payload (empty: it has just been written
--      into DATA, in the same transaction), remaining ms, kept (1: nobody waits, the result stays until its TTL ends)
-- Returns depth, then per job OK, DUP (known or settled: accepted before), FULL (depth, results or predicted wait), OOM.
-- Cost: O(1) a job, and in one of 16 calls a sweep of at most 64 jobs that ended a minute ago; O(depth) where an api died
-- between writing payloads and submitting their jobs, which takes a Redis that has just forgotten its scripts.
-- Safe to repeat: a job that is in the queue or has a result is DUP and left as it is.
local jobs = (#ARGV - 6) / 5
local max_depth, max_results, batch_size, batch_ms = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local function field(job, number) return ARGV[job * 5 + 1 + number] end
local reply = {}

-- The first write must be one that Redis refuses at its memory limit: after a ZREM it would let the payloads in.
local probe = redis.pcall('HINCRBY', STATS, 'submit_calls', 1)
local no_memory = type(probe) == 'table' and probe.err
if no_memory and not string.find(no_memory, 'OOM', 1, true) then return probe end

local function uncollected()
  redis.call('ZREMRANGEBYSCORE', RESULTS, '-inf', now)
  return redis.call('ZCARD', RESULTS)
end

local uuids, known, waiting = {}, {}, {}
for job = 1, jobs do uuids[job] = field(job, 2) end
local any_settled = jobs > 0 and redis.call('EXISTS', unpack(KEYS, 12)) > 0   -- seldom: of a job that was sent before
for job, row in ipairs(all('HMGET', META, uuids)) do
  waiting[uuids[job]] = row
  known[uuids[job]] = row or (any_settled and redis.call('EXISTS', KEYS[11 + job]) == 1)
end

local fresh = text_of({submitted = now, deaths = 0, solo = 0, alone = 0, claim = '-', api = ARGV[5], code = '-'})
local depth, first = redis.call('ZCARD', DEADLINES), 1
local pending, deadlines, meta, data = {}, {}, {}, {}
while first <= jobs do
  local last, new = first, 0
  while last < jobs and field(last + 1, 1) == field(first, 1) do last = last + 1 end
  for job = first, last do
    if not known[uuids[job]] then new = new + 1 end
  end
  local wait = depth == 0 and 0 or math.ceil((depth + new) / batch_size) * batch_ms
  local full = depth + new > max_depth or wait > 0.9 * field(first, 4)        -- a tenth for what the estimate does not see
               or (field(first, 5) == '1' and uncollected() + new > max_results)
  for job = first, last do
    local uuid = uuids[job]
    if known[uuid] then reply[job + 1] = 'DUP'
    elseif no_memory then reply[job + 1] = 'OOM'
    elseif full then reply[job + 1] = 'FULL'
    else
      known[uuid], waiting[uuid] = true, true                                -- it may stand twice in this call
      pending[#pending + 1] = uuid
      deadlines[#deadlines + 1], deadlines[#deadlines + 2] = now + field(job, 4), uuid
      meta[#meta + 1], meta[#meta + 2] = uuid, fresh
      if field(job, 3) ~= '' then data[#data + 1], data[#data + 2] = uuid, field(job, 3) end
      depth = depth + 1
      reply[job + 1] = 'OK'
    end
  end
  first = last + 1
end
all('HSET', META, meta)
all('HSET', DATA, data)
all('ZADD', DEADLINES, deadlines)
all('RPUSH', PENDING, pending)
ring(#pending)
count('submitted', #pending)

for _, uuid in ipairs(uuids) do                                                -- written beside, and not wanted
  if not waiting[uuid] then redis.call('HDEL', DATA, uuid) end
end
if no_memory or probe % 16 == 0 then                                         -- now and then
  forget(redis.call('ZRANGEBYSCORE', DEADLINES, '-inf', now - 60000, 'LIMIT', 0, 64))
  if redis.call('HLEN', DATA) > redis.call('HLEN', META) then                  -- its api died before it could send the rest
    for _, uuid in ipairs(redis.call('HKEYS', DATA)) do
      if redis.call('HEXISTS', META, uuid) == 0 then redis.call('HDEL', DATA, uuid) end
    end
  end
end
if not no_memory then redis.call('HSET', STATS, 'arriving', ARGV[6] .. ' ' .. tostring(now + 100)) end
reply[1] = depth
return reply
