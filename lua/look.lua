-- LOOK: how the queue stands, and all that has been counted. Read-only.
--
-- KEYS 12 the totals   13 the rows of the processes
-- Returns now in ms, depth, jobs in line, jobs leased, ms since the oldest in line was submitted (-1: none), jobs given
-- up, results nobody has collected, then the hashes of counters, totals, processes and workers, each a list of field and
-- value.
-- Cost: O(what has been counted + processes + workers).
local oldest = redis.call('LINDEX', PENDING, 0)
local row = oldest and read({oldest})[1]
return {now, redis.call('ZCARD', DEADLINES), redis.call('LLEN', PENDING), redis.call('ZCARD', LEASES),
        row and now - row.submitted or -1, redis.call('LLEN', DEAD), redis.call('ZCOUNT', RESULTS, now, '+inf'),
        redis.call('HGETALL', STATS), redis.call('HGETALL', KEYS[12]), redis.call('HGETALL', KEYS[13]),
        redis.call('HGETALL', WORKERS)}
