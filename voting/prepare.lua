#!lua flags=allow-oom
-- Make the stream fit for casting and reading; changes nothing where it already is. Also where
-- memory is full: nothing would be read, counted and dropped otherwise.
--
-- KEYS  1 the stream, 2 the poll
-- ARGV  1 the group, 2 and 3 the newest version in Postgres (ms, seq), 4 the poll's state,
--       5 the deadline (Redis' clock, ms)
-- Returns 1 where the stream had to be made, else 0.

-- Past the deadline the caller has given up, and the poll may have another state.
local time = redis.call('TIME')
if time[1] * 1000 + math.floor(time[2] / 1000) >= tonumber(ARGV[5]) then
  return redis.error_reply('LATE it reached Redis after its deadline')
end

-- Never from $: whatever is in a stream has not been counted by a group that is new. In a new
-- stream, everything up to the newest version is counted.
local made = 1 - redis.call('EXISTS', KEYS[1])
local from = made == 1 and (ARGV[2] .. '-' .. ARGV[3]) or '0'
local group = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], from, 'MKSTREAM')
if group.err and not string.find(group.err, 'BUSYGROUP', 1, true) then
  return group
end

-- A stream that was lost may restart below what Postgres has counted, where the clock stepped back;
-- its ballots would look older than the votes they replace.
local info = redis.call('XINFO', 'STREAM', KEYS[1])
for i = 1, #info, 2 do
  if info[i] == 'last-generated-id' then
    local ms, seq = string.match(info[i + 1], '^(%d+)-(%d+)$')
    ms, seq = tonumber(ms), tonumber(seq)
    local least_ms, least_seq = tonumber(ARGV[2]), tonumber(ARGV[3])
    if ms < least_ms or (ms == least_ms and seq < least_seq) then
      redis.call('XSETID', KEYS[1], ARGV[2] .. '-' .. ARGV[3])
    end
  end
end

redis.call('HSET', KEYS[2], 'state', ARGV[4])
return made
