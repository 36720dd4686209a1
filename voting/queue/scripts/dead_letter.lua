#!lua flags=allow-oom
-- Move an entry to the dead letters. Also where memory is full: it holds up those behind it.
--
-- KEYS  1 the stream, 2 the dead letters
-- ARGV  1 the group, 2 the entry's id, 3 the reason, then the entry's fields and values, of
--       which the first hundred are kept

-- Last, as of two fields with a name the last is read. Lua can't pass more than some thousands.
local letter = {unpack(ARGV, 4, math.min(#ARGV, 203))}
for _, part in ipairs({'id', ARGV[2], 'reason', ARGV[3]}) do
  letter[#letter + 1] = part
end
redis.call('XADD', KEYS[2], '*', unpack(letter))
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
