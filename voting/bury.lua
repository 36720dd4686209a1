#!lua flags=allow-oom
-- Move an entry to the dead letters. Also where memory is full: it holds up those behind it.
--
-- KEYS  1 the stream, 2 the dead letters
-- ARGV  1 the group, 2 the entry's id, 3 the reason, then the entry's fields and values

redis.call('XADD', KEYS[2], '*', 'id', ARGV[2], 'reason', ARGV[3], unpack(ARGV, 4))
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
