#!lua flags=allow-oom
-- Move an entry to the dead letters. Allowed when memory is full, or the entry would stay pending
-- and workers would retry it without end.
--
-- KEYS  1 the stream, 2 the dead letters
-- ARGV  1 the group, 2 the entry's id, 3 the reason, then the entry's field names and values

-- Keep the first hundred fields: Lua's unpack fails for more than a few thousand values.
local letter = {unpack(ARGV, 4, math.min(#ARGV, 203))}
-- `id` and `reason` come last: readers take the last of two fields with the same name.
for _, part in ipairs({'id', ARGV[2], 'reason', ARGV[3]}) do
  letter[#letter + 1] = part
end
redis.call('XADD', KEYS[2], '*', unpack(letter))
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
