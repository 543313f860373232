-- COUNT: add what a process has counted to the totals of all, and take note of what it is doing.
--
-- KEYS 12 number of this process's last call   13 the totals   14 the rows of the processes
-- ARGV 1 number of the call   2 process id   3 its row ('': none; 'gone' removes it)   then per amount: field, amount
-- Returns 1, or 0 where this call was carried out before.
-- Cost: O(amounts + processes).
-- Safe to repeat: a number that came last is not counted again.
local process, row = ARGV[2], ARGV[3]
redis.call('HDEL', KEYS[14], process)                                      -- first: it is allowed at the memory limit
if row ~= '' and row ~= 'gone' then redis.call('HSET', KEYS[14], process, string.format('%.0f %s', now, row)) end
local rows = redis.call('HGETALL', KEYS[14])
for i = 1, #rows, 2 do
  if (said_ms(rows[i + 1]) or 0) < now - 60000 then redis.call('HDEL', KEYS[14], rows[i]) end
end
if redis.call('GET', KEYS[12]) == ARGV[1] then return 0 end
for i = 4, #ARGV, 2 do
  local reply = redis.pcall('HINCRBYFLOAT', KEYS[13], ARGV[i], ARGV[i + 1])
  if type(reply) == 'table' and reply.err then redis.call('HSET', KEYS[13], ARGV[i], ARGV[i + 1]) end  -- it held no number
end
redis.call('SET', KEYS[12], ARGV[1], 'PX', 3600000)                        -- last: where an amount fails, all is sent again
return 1
