-- CLAIM: lease up to n jobs from the head of the line, all of one class:
-- never died, up to n; died once with its worker, up to n/8; more often, one alone.
--
-- KEYS 12 the list of what this claim was given
-- ARGV 1 n   2 lease ms   3 claim id   4 least remaining ms   5 max_solo   6 worker id   7 is it holding jobs (0, 1)
--      8 longest payload that is handed over inline, in bytes   9 ms the oldest job may wait for a fuller batch
-- Returns jobs left in line, ms until the next lease ends (-1: none), ms to wait for a fuller batch (0: do not), then
-- per job {uuid, verdict run | expired | poison, remaining ms, ms since submitted, api id, last error code,
-- payload or nil: fetch it by HMGET}.
-- Cost: O(jobs given + leases ended).
-- Safe to repeat: the same claim id gives what is left of the same batch for 60 s; after that its leases have ended.
local n, lease_ms, claim, least, max_solo = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local worker, holding, inline, max_wait = ARGV[6], ARGV[7] == '1', tonumber(ARGV[8]), tonumber(ARGV[9])
local reply, given = {0, -1, 0}, {}

local function hand_over(uuid, verdict, row)
  local payload = redis.call('HSTRLEN', DATA, uuid) <= inline and redis.call('HGET', DATA, uuid)
  local remaining = math.floor((redis.call('ZSCORE', DEADLINES, uuid) or now) - now)
  reply[#reply + 1] = {uuid, verdict, remaining, now - row.submitted, row.api, row.code, payload}
end

local function finish()
  reply[1] = redis.call('LLEN', PENDING)
  local next_end = redis.call('ZRANGE', LEASES, 0, 0, 'WITHSCORES')[2]
  if next_end then reply[2] = math.max(0, math.floor(next_end - now)) end
  return reply
end

-- Who is idle is kept here, where it is exact: a worker that gets nothing is idle until it gets something.
-- ZREM first: it is allowed at the memory limit.
redis.call('ZREM', IDLE, worker)

local mine = redis.call('LRANGE', KEYS[12], 0, -1)
if #mine > 0 then                                                          -- the reply was lost: the same batch again
  for i = 1, #mine, 2 do
    local row = read(mine[i])
    if row and row.claim == claim then hand_over(mine[i], mine[i + 1], row) end
  end
  return finish()
end

local ended = redis.call('ZRANGEBYSCORE', LEASES, '-inf', now, 'LIMIT', 0, 64)
for _, uuid in ipairs(ended) do                                            -- their worker died or stopped
  local row = read(uuid)
  if row then
    row.deaths, row.solo = row.deaths + 1, row.solo + row.alone
    put_back(uuid, row)
  else clear(uuid) end
end
count('leases_ended', #ended)

-- An idle worker asks again within a second, so one that has not is dead or stopped.
redis.call('ZREMRANGEBYSCORE', IDLE, '-inf', now - 2500)
local in_line, others_idle = redis.call('LLEN', PENDING), redis.call('ZCARD', IDLE)
local want = math.min(n, math.ceil(in_line / (others_idle + 1)))
if max_wait > 0 and not holding then
  if in_line >= n then want = n                                            -- a full batch was waited for
  elseif in_line > 0 then
    local oldest = read(redis.call('LINDEX', PENDING, 0))
    reply[3] = oldest and math.max(0, max_wait - (now - oldest.submitted)) or 0
    if reply[3] > 0 then want = 0 end
  end
end

local class, running, lone = nil, 0, nil
while running < want and #given < 2 * (want + 64) do
  local uuid = redis.call('LINDEX', PENDING, 0)
  if not uuid then break end
  local row, deadline, verdict = read(uuid), redis.call('ZSCORE', DEADLINES, uuid), 'run'
  local torn = not row or not deadline or redis.call('HEXISTS', DATA, uuid) == 0
  if not torn and deadline - now < least then verdict = 'expired'
  elseif not torn and row.solo >= max_solo then verdict = 'poison'
  elseif not torn then
    local its_class = math.min(row.deaths, 2)
    if holding and its_class > 0 then break end                            -- suspects run with nothing else in the process
    if not class then
      class = its_class
      want = math.min(want, class == 0 and n or class == 1 and math.ceil(n / 8) or 1)
    elseif its_class ~= class then break end
    running, lone = running + 1, {uuid, row}
  end
  redis.call('LPOP', PENDING)                                              -- allowed at the memory limit
  if torn then clear(uuid)
  else
    redis.call('ZADD', LEASES, now + lease_ms, uuid)
    row.claim = claim
    write(uuid, row)
    given[#given + 1] = uuid
    given[#given + 1] = verdict
    hand_over(uuid, verdict, row)
  end
end
if running == 1 and not holding then                                       -- if its worker dies now, it was this job
  lone[2].alone = 1
  write(lone[1], lone[2])
end
if #given > 0 then
  redis.call('RPUSH', KEYS[12], unpack(given))
  redis.call('PEXPIRE', KEYS[12], 60000)
  count('claimed', #given / 2)
elseif not holding then redis.call('ZADD', IDLE, now, worker) end
finish()
if reply[1] == 0 or reply[3] > 0 then redis.call('DEL', BELL)              -- nothing to wake anybody for
elseif #given + #ended > 0 then ring(1) end
return reply
