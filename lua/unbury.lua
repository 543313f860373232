-- UNBURY: take a letter off the list of jobs that were given up.
--
-- ARGV 1 the letter as it stands there
-- Returns 1 if it was there, else 0.
-- Cost: O(letters).
-- Safe to repeat: its bytes are counted off once, with the letter.
local removed = redis.call('LREM', DEAD, 1, ARGV[1])
if removed == 1 then redis.pcall('HINCRBY', STATS, 'dead_bytes', -#ARGV[1]) end
return removed
