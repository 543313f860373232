-- SETTLE: write results, or put jobs back in line. The only writer of results.
--
-- KEYS 12.. per job: its result key, the bell of its api
-- ARGV 1 result ttl ms   2 claim id   3 longest result that is copied into the api's bell, in bytes
--      4 least remaining ms that the claim asked for
--      then per job: uuid, ok | error | late | dead | release | behind | died, value (of the last three: the error code to
--      remember)
-- ok: the first one wins, from anyone. The others only from the holder of the claim while its lease runs: error; late (an
-- error, but the job goes back where its deadline has been raised since it was claimed); dead (an error, also kept in DEAD
-- with its payload); release (back to the head of the line); behind (back to its tail: others are to be tried before it);
-- died (back to the head, as if its worker had died: the model that had it was ended).
-- A result is "uuid kind value".
-- Returns per job 1 (done) or 0 (nothing changed).
-- Cost: O(1) a job.
-- Safe to repeat: a settled job is out of the queue, one that went back is no longer held: 0.

-- Dead letters: at most 1,000, and 64 MiB.
local function bury(letter)
  redis.call('LPUSH', DEAD, letter)
  local bytes = redis.pcall('HINCRBY', STATS, 'dead_bytes', #letter)
  if type(bytes) == 'table' then                                             -- it held no number
    redis.call('HSET', STATS, 'dead_bytes', #letter)
    bytes = #letter
  end
  while bytes > 67108864 or redis.call('LLEN', DEAD) > 1000 do
    local oldest = redis.call('RPOP', DEAD)
    if not oldest then                                                       -- then nothing is kept
      redis.call('HSET', STATS, 'dead_bytes', 0)
      break
    end
    bytes = redis.call('HINCRBY', STATS, 'dead_bytes', -#oldest)
  end
end

local ttl, claim, copy, least = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local jobs = (#ARGV - 4) / 3
local reply, uuids, released, died, refused, expiry = {}, {}, 0, 0, 0, tostring(now + ttl)
redis.call('ZREMRANGEBYSCORE', RESULTS, '-inf', now)                       -- first: it is allowed at the memory limit
for job = 1, jobs do uuids[job] = ARGV[job * 3 + 2] end
local rows, ends = read(uuids), all('ZMSCORE', LEASES, uuids)
local over, dead, results, tokens = {}, {}, {}, {}
for job = jobs, 1, -1 do                                                   -- backwards: what goes back keeps its order
  local uuid, kind, value, row = uuids[job], ARGV[job * 3 + 3], ARGV[job * 3 + 4], rows[job]
  local held = row and row.claim == claim and tonumber(ends[job] or 0) > now
  if kind == 'late' and tonumber(redis.call('ZSCORE', DEADLINES, uuid) or 0) - now > least then kind, value = 'release', '' end
  if not row or (kind ~= 'ok' and not held) then
    reply[job], refused = 0, refused + 1
  elseif kind == 'release' or kind == 'behind' or kind == 'died' then
    if value ~= '' then row.code = value end
    if kind == 'died' then row.deaths, row.solo, died = row.deaths + 1, row.solo + row.alone, died + 1
    else released = released + 1 end
    put_back(uuid, row)
    if kind == 'behind' then redis.call('LMOVE', PENDING, PENDING, 'LEFT', 'RIGHT') end
    reply[job] = 1
  else
    local result = uuid .. ' ' .. (kind == 'ok' and 'ok' or 'error') .. ' ' .. value
    local result_key, bell = KEYS[10 + job * 2], KEYS[11 + job * 2]
    if kind == 'dead' then
      dead[#dead + 1] = string.format('%.0f %d\n', now, #result) .. result .. (redis.call('HGET', DATA, uuid) or '')
    end
    redis.call('SET', result_key, result, 'PX', ttl)
    results[#results + 1], results[#results + 2] = expiry, uuid
    tokens[bell] = tokens[bell] or {}
    table.insert(tokens[bell], #result <= copy and result or uuid)
    over[#over + 1] = uuid
    reply[job] = 1
  end
end
forget(over)
all('ZADD', RESULTS, results)
for bell, list in pairs(tokens) do
  if all('RPUSH', bell, list) > 1024 then redis.call('LTRIM', bell, -1024, -1) end
  redis.call('PEXPIRE', bell, 60000)
end
for _, letter in ipairs(dead) do bury(letter) end
ring(released + died)
count('settled', #over); count('released', released); count('died', died)
count('settle_refused', refused); count('buried', #dead)
return reply
