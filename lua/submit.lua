-- SUBMIT: take jobs into the queue, the jobs of one request all or none.
--
-- KEYS 12..  the result key of each job
-- ARGV 1 max_queue_depth   2 max_results, looked at for jobs whose result is kept
--      3 max_batch_size    4 ms a batch takes, divided by the live workers (0: unknown, never refuse by it)
--      then per job: request number (jobs of one request stand together), uuid, payload, remaining ms, api id,
--      kept (1: nobody waits, the result stays until its TTL ends)
-- Returns depth, then per job OK, DUP (known or settled: accepted before), FULL (depth, results or predicted wait), OOM.
-- Cost: O(1) a job, and a sweep of at most 64 jobs that ended a minute ago.
-- Safe to repeat: a job that is in the queue or has a result is DUP and left as it is.
local jobs = (#ARGV - 4) / 6
local max_depth, max_results, batch_size, batch_ms = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local function field(job, number) return ARGV[4 + (job - 1) * 6 + number] end
local reply = {}

-- The first write must be one that Redis refuses at its memory limit: after a ZREM it would let the payloads in.
local probe = redis.pcall('HINCRBY', STATS, 'submit_calls', 1)
local no_memory = type(probe) == 'table' and probe.err
if no_memory and not string.find(no_memory, 'OOM', 1, true) then return probe end
for _, uuid in ipairs(redis.call('ZRANGEBYSCORE', DEADLINES, '-inf', now - 60000, 'LIMIT', 0, 64)) do forget(uuid) end
redis.call('ZREMRANGEBYSCORE', RESULTS, '-inf', now)

local first, added = 1, 0
while first <= jobs do
  local last, known, new = first, {}, 0
  while last < jobs and field(last + 1, 1) == field(first, 1) do last = last + 1 end
  for job = first, last do
    known[job] = redis.call('HEXISTS', META, field(job, 2)) == 1 or redis.call('EXISTS', KEYS[11 + job]) == 1
    if not known[job] then new = new + 1 end
  end
  local depth = redis.call('ZCARD', DEADLINES)
  local wait = depth == 0 and 0 or math.ceil((depth + new) / batch_size) * batch_ms
  local full = depth + new > max_depth or wait > 0.9 * field(first, 4)        -- a tenth for what the estimate does not see
               or (field(first, 6) == '1' and redis.call('ZCARD', RESULTS) + new > max_results)
  for job = first, last do
    local uuid = field(job, 2)
    if known[job] then reply[job + 1] = 'DUP'
    elseif no_memory then reply[job + 1] = 'OOM'
    elseif full then reply[job + 1] = 'FULL'
    elseif redis.call('HEXISTS', META, uuid) == 1 then reply[job + 1] = 'DUP'   -- twice in this call
    else
      write(uuid, {submitted = now, deaths = 0, solo = 0, alone = 0, claim = '-', api = field(job, 5), code = '-'})
      redis.call('HSET', DATA, uuid, field(job, 3))
      redis.call('ZADD', DEADLINES, now + tonumber(field(job, 4)), uuid)
      redis.call('RPUSH', PENDING, uuid)
      added = added + 1
      reply[job + 1] = 'OK'
    end
  end
  first = last + 1
end
ring(added)
count('submitted', added)
reply[1] = redis.call('ZCARD', DEADLINES)
return reply
