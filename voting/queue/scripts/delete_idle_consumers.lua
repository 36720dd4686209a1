#!lua flags=allow-oom
-- Forget consumers that are gone. One that has entries is kept, for they would be lost with it; so
-- nothing may come between looking and deleting.
--
-- KEYS  1 the stream
-- ARGV  1 the group, 2 how long a consumer has to have been silent (ms)
-- Returns how many were forgotten.

local forgotten = 0
for _, info in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local consumer = {}
  for i = 1, #info, 2 do
    consumer[info[i]] = info[i + 1]
  end
  if consumer.pending == 0 and consumer.idle > tonumber(ARGV[2]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer.name)
    forgotten = forgotten + 1
  end
end
return forgotten
