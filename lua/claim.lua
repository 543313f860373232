-- CLAIM: lease up to n jobs from the head of the line, all of one class:
-- never died, up to n; died once with its worker, up to n/8; more often, one alone.
--
-- KEYS 12 what this claim was given: UUID and verdict of each job
-- ARGV 1 n   2 lease ms   3 claim id   4 least remaining ms   5 max_solo   6 worker id   7 is it holding jobs (0, 1)
--        (1: only jobs that never died, and none while others are idle)
--      8 longest payload that is handed over inline, in bytes   9 ms the oldest job may wait for a fuller batch
--      10 ms it may wait for the share of this worker, while an api says that more is on its way
-- Returns jobs left in line, ms until the next lease ends (-1: none), ms to wait for a fuller batch (0: do not), whether
-- its jobs have died before (0, 1), then per job {uuid, verdict run | expired | poison, remaining ms, ms since submitted,
-- api id, last error code, payload or nil: fetch it by HGET}.
-- Cost: O(jobs given + leases ended).
-- Safe to repeat: the same claim id gives what is left of the same batch for 60 s, and as long as its leases run.
local n, lease_ms, claim, least, max_solo = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local worker, holding, inline, max_wait, patience = ARGV[6], ARGV[7] == '1', tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
local reply, given = {0, -1, 0, 0}, {}

-- Their payloads ride along, unless they are long.
local function hand_over(uuids, verdicts, rows)
  local short, payloads = {}, {}
  for place, uuid in ipairs(uuids) do
    if rows[place].bytes <= inline then short[#short + 1] = uuid end
  end
  for place, payload in ipairs(all('HMGET', DATA, short)) do payloads[short[place]] = payload end
  for place, uuid in ipairs(uuids) do
    local row = rows[place]
    local remaining = math.floor((row.deadline or now) - now)
    reply[#reply + 1] = {uuid, verdicts[place], remaining, now - row.submitted, row.api, row.code, payloads[uuid] or false}
  end
end

-- What the last SUBMIT said was still being decoded; soon it is no news.
local function arriving()
  local said, until_ms = string.match(redis.call('HGET', STATS, 'arriving') or '', '^(%d+) (%d+)$')
  return said and tonumber(until_ms) > now and tonumber(said) or 0
end

local function finish(left)
  reply[1] = left
  local next_end = redis.call('ZRANGE', LEASES, 0, 0, 'WITHSCORES')[2]
  if next_end then reply[2] = math.max(0, math.floor(next_end - now)) end
  return reply
end

-- Who is idle is kept here, where it is exact: a worker that gets nothing is idle until it gets something.
-- ZREM first: it is allowed at the memory limit.
redis.call('ZREM', IDLE, worker)

local mine = redis.call('GET', KEYS[12])
if mine then                                                               -- the reply was lost: the same batch again
  local uuids, verdicts, rows = {}, {}, {}
  for uuid, verdict in string.gmatch(mine, '(%S+) (%S+)') do
    local row = read({uuid})[1]
    if row and row.claim == claim then
      row.bytes, row.deadline = redis.call('HSTRLEN', DATA, uuid), redis.call('ZSCORE', DEADLINES, uuid)
      uuids[#uuids + 1], verdicts[#verdicts + 1], rows[#rows + 1] = uuid, verdict, row
      if row.deaths > 0 then reply[4] = 1 end
    end
  end
  hand_over(uuids, verdicts, rows)
  return finish(redis.call('LLEN', PENDING))
end

local rebuilt = 0
local ended = redis.call('ZRANGEBYSCORE', LEASES, '-inf', now, 'LIMIT', 0, 64)
for place, row in ipairs(read(ended)) do                                   -- their worker died or stopped
  if row then
    if row.unreadable then rebuilt = rebuilt + 1 end
    row.deaths, row.solo = row.deaths + 1, row.solo + row.alone
    put_back(ended[place], row)
  else forget({ended[place]}) end
end
count('leases_ended', #ended)

-- An idle worker asks again within a second, so one that has not is dead or stopped.
redis.call('ZREMRANGEBYSCORE', IDLE, '-inf', now - 2500)
local in_line, others_idle = redis.call('LLEN', PENDING), redis.call('ZCARD', IDLE)
local coming = patience > 0 and in_line > 0 and in_line < n and not holding and arriving() or 0
local want = math.min(n, math.ceil((in_line + coming) / (others_idle + 1)))
local longest = want > in_line and math.max(max_wait, patience) or max_wait
if holding and others_idle > 0 then want = 0 end
if longest > 0 and not holding then
  if in_line >= n then want = n                                            -- a full batch was waited for
  elseif in_line > 0 then
    local oldest = read({redis.call('LINDEX', PENDING, 0)})[1]
    local age = oldest and not oldest.unreadable and now - oldest.submitted or longest
    reply[3] = age >= 0 and math.max(0, longest - age) or 0                  -- below 0: by the clock of another server
    if reply[3] > 0 then want = 0 end
  end
end

-- Look along the line from its head, as far as this claim may take: `looked` jobs leave it.
local uuids, verdicts, rows, torn = {}, {}, {}, {}
local looked, class, running, last_running, full = 0, nil, 0, nil, want < 1
while not full and #uuids < want + 64 and looked < want + 1024 do
  local line = redis.call('LRANGE', PENDING, looked, looked + want - running - 1)
  if #line == 0 then break end
  local line_rows, deadlines = read(line), redis.call('ZMSCORE', DEADLINES, unpack(line))
  for place, uuid in ipairs(line) do
    local row, verdict = line_rows[place], 'run'
    if row then row.bytes, row.deadline = redis.call('HSTRLEN', DATA, uuid), deadlines[place] end
    if not row or not row.deadline or row.bytes == 0 then verdict = 'torn'
    elseif row.deadline - now < least then verdict = 'expired'
    elseif row.solo >= max_solo then verdict = 'poison'
    else
      local its_class = math.min(row.deaths, 2)
      full = (holding and its_class > 0) or (class or its_class) ~= its_class  -- suspects run with nothing else in the process
      if full then break end
      class = its_class
      want = math.min(want, class == 0 and n or class == 1 and math.ceil(n / 8) or 1)
    end
    looked = looked + 1
    if verdict == 'torn' then torn[#torn + 1] = uuid
    else
      uuids[#uuids + 1], verdicts[#verdicts + 1], rows[#rows + 1] = uuid, verdict, row
      if row.unreadable then rebuilt = rebuilt + 1 end
      if verdict == 'run' then running, last_running = running + 1, row end
    end
    full = running >= want
    if full then break end
  end
end
if looked > 0 then redis.call('LTRIM', PENDING, looked, -1) end
forget(torn)                                                               -- what is left of them in Redis goes too
count('torn', #torn + rebuilt)
if (class or 0) > 0 then reply[4] = 1 end
if running == 1 and not holding then last_running.alone = 1 end            -- if its worker dies now, it was this job

local leases, meta, lease_end = {}, {}, tostring(now + lease_ms)             -- or it would be written out for each job
for place, uuid in ipairs(uuids) do
  rows[place].claim = claim
  leases[#leases + 1], leases[#leases + 2] = lease_end, uuid
  meta[#meta + 1], meta[#meta + 2] = uuid, text_of(rows[place])
  given[#given + 1], given[#given + 2] = uuid, verdicts[place]
end
if #given > 0 then
  all('ZADD', LEASES, leases)
  all('HSET', META, meta)
  redis.call('SET', KEYS[12], table.concat(given, ' '), 'PX', math.max(60000, lease_ms))
  count('claimed', #uuids)
  hand_over(uuids, verdicts, rows)
elseif not holding then redis.call('ZADD', IDLE, now, worker) end
finish(in_line - looked)
if reply[1] == 0 or reply[3] > 0 then redis.call('DEL', BELL)              -- nothing to wake anybody for
elseif #given + #ended > 0 then ring(1) end
return reply
