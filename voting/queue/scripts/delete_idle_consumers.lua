#!lua flags=allow-oom
-- Delete idle consumers. One with pending entries is kept, since XGROUP DELCONSUMER deletes these
-- too; as a script, so that no consumer reads between the check and the deletion.
--
-- KEYS  1 the stream
-- ARGV  1 the group, 2 the least idle time (ms)
-- Returns the number of deleted consumers.

local deleted = 0
for _, info in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local consumer = {}
  for i = 1, #info, 2 do
    consumer[info[i]] = info[i + 1]
  end
  if consumer.pending == 0 and consumer.idle > tonumber(ARGV[2]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer.name)
    deleted = deleted + 1
  end
end
return deleted
