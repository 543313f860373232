-- SUBMIT: take jobs into the queue, the jobs of one request all or none.
--
-- KEYS 12..  the result key of each job
-- ARGV 1 max_queue_depth   2 max_results, looked at for jobs whose result is kept   3 max_batch_size
--      4 ms that a full batch takes (0: unknown, never refuse by it)   5 live workers   6 api id
--      7 jobs that this api is still decoding
--      then per job: request number (jobs of one request stand together), uuid, payload (empty: it has just been written
--      into DATA, in the same transaction), remaining ms, kept (1: others may wait for the job, the result stays until its
--      TTL ends)
-- Returns depth, then per job OK, DUP (known or settled: accepted before), OOM, or "FULL ms" (by depth, results or predicted
-- wait), with the time until there will be room for its request.
-- A job that is in the queue keeps the later one of its deadlines. A kept job whose result is an error that another try may
-- mend is run anew.
-- Cost: O(1) a job, and in one of 16 calls a sweep of at most 64 jobs that ended a minute ago; O(depth) where an api died
-- between writing payloads and submitting their jobs, which takes a Redis that has just forgotten its scripts.
-- Safe to repeat: a job that is in the queue or has a result is DUP and left as it is, but for its deadline, a maximum.
local HEAD = 7
local jobs = (#ARGV - HEAD) / 5
local max_depth, max_results, batch_size = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local batch_ms, workers = tonumber(ARGV[4]), math.max(1, tonumber(ARGV[5]))
local function field(job, number) return ARGV[job * 5 + HEAD - 5 + number] end
local reply = {}

-- The first write must be one that Redis refuses at its memory limit: after a ZREM it would let the payloads in.
local probe = redis.pcall('HINCRBY', STATS, 'submit_calls', 1)
local no_memory = false
if type(probe) == 'table' and probe.err then
  no_memory = string.find(probe.err, 'OOM', 1, true) ~= nil
  if not no_memory then
    if not (string.find(probe.err, 'not an integer', 1, true) or string.find(probe.err, 'overflow', 1, true)) then
      return probe
    end
    redis.call('HSET', STATS, 'submit_calls', 0)
    probe = 0
  end
end

local function uncollected()
  redis.call('ZREMRANGEBYSCORE', RESULTS, '-inf', now)
  return redis.call('ZCARD', RESULTS)
end

-- The codes of errors that another try may mend, and of a job that was cancelled.
local PASSING = {model_unavailable = true, unavailable = true, deadline_exceeded = true, not_found = true}
local function is_passing(result)
  return PASSING[string.match(result, '^%S+ error [^\n]*\n{"code":"([%l_]+)"') or '-'] or false
end

local uuids, known, waiting, passing = {}, {}, {}, {}
for job = 1, jobs do uuids[job] = field(job, 2) end
local any_settled = jobs > 0 and redis.call('EXISTS', unpack(KEYS, 12)) > 0   -- seldom: of a job that was sent before
for job, row in ipairs(all('HMGET', META, uuids)) do
  local uuid = uuids[job]
  waiting[uuid] = row
  local result = not row and any_settled and redis.call('GET', KEYS[11 + job])
  passing[uuid] = result and field(job, 5) == '1' and is_passing(result)
  known[uuid] = row or (result and not passing[uuid])
end

local fresh = text_of({submitted = now, deaths = 0, solo = 0, alone = 0, claim = '-', api = ARGV[6], code = '-'})
local depth, first = redis.call('ZCARD', DEADLINES), 1

-- Ms until the last of so many batches ends that are run one after the other, by all workers.
local function ms_of(batches) return (batches - 1) * batch_ms / workers + batch_ms end

-- Ms until the last of `new` jobs more would be answered: after the batches that run, in full ones.
local function wait_of(new)
  local leased = redis.call('ZCARD', LEASES)
  local running = leased > 0 and math.max(math.min(leased, workers), math.ceil(leased / batch_size)) or 0
  return ms_of(running + math.ceil((depth - leased + new) / batch_size))
end

-- Ms until there will be room for `new` jobs more of a request that has so long; 0: there is.
local function room_in(new, remaining, kept)
  local in_time, ms = 0.9 * remaining, 0                                     -- a tenth for what the estimate does not see
  if depth > 0 and ms_of(depth + new) > in_time then ms = math.max(0, wait_of(new) - in_time) end
  if depth + new > max_depth then
    ms = math.max(1, ms, math.ceil((depth + new - max_depth) / batch_size) * batch_ms / workers)
  end
  if kept and uncollected() + new > max_results then
    local expiry = redis.call('ZRANGE', RESULTS, 0, 0, 'WITHSCORES')[2]
    ms = math.max(1, ms, expiry and expiry - now or 0)
  end
  return ms
end

local pending, deadlines, meta, data, raised = {}, {}, {}, {}, {}
while first <= jobs do
  local last, new = first, 0
  while last < jobs and field(last + 1, 1) == field(first, 1) do last = last + 1 end
  for job = first, last do
    if not known[uuids[job]] then new = new + 1 end
  end
  local room_ms = new > 0 and room_in(new, tonumber(field(first, 4)), field(first, 5) == '1') or 0
  for job = first, last do
    local uuid, deadline = uuids[job], now + field(job, 4)
    if known[uuid] then
      reply[job + 1] = 'DUP'
      if waiting[uuid] then raised[#raised + 1], raised[#raised + 2] = deadline, uuid end
    elseif no_memory then reply[job + 1] = 'OOM'
    elseif room_ms > 0 then reply[job + 1] = string.format('FULL %.0f', math.ceil(room_ms))
    else
      if passing[uuid] then
        redis.call('DEL', KEYS[11 + job])
        redis.call('ZREM', RESULTS, uuid)
      end
      known[uuid], waiting[uuid] = true, true                                -- it may stand twice in this call
      pending[#pending + 1] = uuid
      deadlines[#deadlines + 1], deadlines[#deadlines + 2] = deadline, uuid
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

for place = 1, #raised, 2 do                                                   -- seldom: a request that was sent before
  local deadline, uuid = raised[place], raised[place + 1]
  if deadline > tonumber(redis.call('ZSCORE', DEADLINES, uuid) or 0) then
    redis.call('ZREM', DEADLINES, uuid)                                        -- first: it is allowed at the memory limit
    redis.call('ZADD', DEADLINES, deadline, uuid)
  end
end
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
if not no_memory then redis.call('HSET', STATS, 'arriving', ARGV[7] .. ' ' .. tostring(now + 100)) end
reply[1] = depth
return reply
